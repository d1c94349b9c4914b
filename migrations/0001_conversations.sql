-- What is kept of a conversation: its messages, its live sessions, its function calls.
--
-- Written for PostgreSQL 15 to 18 without extensions. Ids are made by the program (time-ordered
-- UUIDs, version 7), so that rows arrive in index order and an insert can be repeated.
--
-- Everything is in the schema `voice`, which exists: the list of applied migrations is in it. Every
-- name is written with it, here and in the program, so that no search path matters.

CREATE TABLE voice.conversations (
    id          uuid PRIMARY KEY,
    user_id     text NOT NULL CHECK (user_id <> '' AND length(user_id) <= 255),
    title       text,
    status      text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- The list of a user, newest first, by keyset; once for all and once for one status.
CREATE INDEX conversations_by_user ON voice.conversations (user_id, updated_at DESC, id DESC);
CREATE INDEX conversations_by_user_status
    ON voice.conversations (user_id, status, updated_at DESC, id DESC);

-- Full-text search. 'simple': a conversation may be in any language, and people search for words that
-- they have seen. The owner is one more word, '=' and the id, which no text can contain: so the index
-- alone finds the words of one user, however many users say them. An expression, no column to keep.
CREATE INDEX conversations_words ON voice.conversations USING gin ((
    to_tsvector('simple', coalesce(title, '')) || array_to_tsvector(ARRAY['=' || user_id])
));

CREATE TABLE voice.sessions (
    id                 uuid PRIMARY KEY,
    conversation_id    uuid NOT NULL REFERENCES voice.conversations (id) ON DELETE CASCADE,
    user_id            text NOT NULL,
    state              text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'live', 'ended')),
    ticket_hash        bytea NOT NULL,          -- SHA-256; the ticket itself is never stored
    ticket_expires_at  timestamptz NOT NULL,
    ticket_used_at     timestamptz,
    timezone           text NOT NULL,
    audio              jsonb NOT NULL,
    agent_request_id   text,
    created_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    ended_at           timestamptz,
    end_reason         text,
    end_detail         text,                    -- for operators, never for browsers
    browser_code       integer,
    agent_code         integer,
    browser_frames     bigint NOT NULL DEFAULT 0,
    browser_bytes      bigint NOT NULL DEFAULT 0,
    agent_frames       bigint NOT NULL DEFAULT 0,
    agent_bytes        bigint NOT NULL DEFAULT 0,
    latency            jsonb                    -- percentiles in milliseconds
);

CREATE INDEX sessions_by_conversation ON voice.sessions (conversation_id, id);

-- session_id is not a foreign key in the two tables below: a message must never be refused because
-- of the session it came from.

CREATE TABLE voice.messages (
    conversation_id  uuid NOT NULL REFERENCES voice.conversations (id) ON DELETE CASCADE,
    seq              bigint NOT NULL CHECK (seq > 0),
    turn             bigint NOT NULL CHECK (turn > 0),
    id               uuid NOT NULL UNIQUE,
    session_id       uuid NOT NULL,
    user_id          text NOT NULL,             -- of the conversation, for the search
    role             text NOT NULL CHECK (role IN ('user', 'assistant')),
    content          text NOT NULL,
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, seq)
);

-- left(): PostgreSQL refuses to index more than a megabyte of words.
CREATE INDEX messages_words ON voice.messages USING gin ((
    to_tsvector('simple', left(content, 100000)) || array_to_tsvector(ARRAY['=' || user_id])
));

CREATE TABLE voice.intents (
    id               uuid PRIMARY KEY,
    conversation_id  uuid NOT NULL REFERENCES voice.conversations (id) ON DELETE CASCADE,
    session_id       uuid NOT NULL,
    call_id          text NOT NULL,
    after_seq        bigint NOT NULL CHECK (after_seq >= 0),
    function         text NOT NULL,
    intent           text,                      -- null: the model asked for an unknown function
    arguments        text NOT NULL,             -- as on Deepgram's wire; may be no JSON at all
    status           text NOT NULL
                     CHECK (status IN ('submitting', 'submitted', 'rejected', 'failed')),
    attempts         integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    result           jsonb,
    response         text,                      -- what the model was told; null: not yet
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL
);

CREATE INDEX intents_by_conversation ON voice.intents (conversation_id, after_seq, id);
