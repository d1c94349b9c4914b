-- Tickets of POST /v1/auth/grant that were not used yet. Each begins a session of its own when it is
-- used, and its row goes then; who never comes leaves a row that the next grant sweeps away.

CREATE TABLE voice.grants (
    ticket_hash      bytea PRIMARY KEY,         -- SHA-256; the ticket itself is never stored
    user_id          text NOT NULL CHECK (user_id <> '' AND length(user_id) <= 255),
    conversation_id  uuid REFERENCES voice.conversations (id) ON DELETE CASCADE,  -- null: a new one
    timezone         text NOT NULL,
    expires_at       timestamptz NOT NULL
);

CREATE INDEX grants_by_expiry ON voice.grants (expires_at);

-- For the cascade, which looks for the grants of an erased conversation.
CREATE INDEX grants_by_conversation ON voice.grants (conversation_id)
    WHERE conversation_id IS NOT NULL;

-- No policy and no grant of rights: nobody but the owner of the table sees it (0002).
ALTER TABLE voice.grants ENABLE ROW LEVEL SECURITY;
