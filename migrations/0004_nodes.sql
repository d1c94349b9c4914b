-- Several relays on one database: who is alive, who has which session, and how one takes it over.
--
-- A session that was attached has an owner, a node, and the number of that owner, its epoch. Another
-- node that a browser comes to with its resume ticket takes the session over: it becomes the owner,
-- and the epoch grows by one. What an owner writes names its epoch. All instants are the database's.

-- One row for each running relay process.
CREATE TABLE voice.nodes (
    id          uuid PRIMARY KEY,                    -- made at each start
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now()   -- every 5 s; dead after 20 s without
);

ALTER TABLE voice.sessions
    -- No foreign key: dead nodes are forgotten.
    ADD COLUMN node_id        uuid,
    ADD COLUMN epoch          integer NOT NULL DEFAULT 0,  -- 0: nobody has attached
    -- Nothing can come any more from owners up to this one, or numbers were left free for it.
    ADD COLUMN settled_epoch  integer NOT NULL DEFAULT 0,
    ADD COLUMN resume_hash    bytea,                       -- SHA-256 of the newest resume ticket
    ADD COLUMN released_at    timestamptz,                 -- when its owner said that it has ended
    -- Another node wants it to end; the owner does it.
    ADD COLUMN end_asked      text CHECK (end_asked IN ('hung_up', 'superseded'));

-- What a node that died has left: it stays small however many sessions there were.
CREATE INDEX sessions_by_node ON voice.sessions (node_id)
    WHERE state <> 'ended' AND node_id IS NOT NULL;

-- The newest owner numbers messages above this, even if none of them is stored yet.
ALTER TABLE voice.conversations ADD COLUMN numbered_from bigint NOT NULL DEFAULT 0;

-- What a browser had got from an owner that was replaced: messages after that are void.
CREATE TABLE voice.takeovers (
    session_id  uuid NOT NULL REFERENCES voice.sessions (id) ON DELETE CASCADE,
    epoch       integer NOT NULL,                    -- of the owner that was replaced
    received    bigint NOT NULL,                     -- text frames; 0: not known
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session_id, epoch)
);

-- Nobody's business but ours.
ALTER TABLE voice.nodes ENABLE ROW LEVEL SECURITY;
ALTER TABLE voice.takeovers ENABLE ROW LEVEL SECURITY;
