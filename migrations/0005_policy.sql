-- What clients may choose, how many agents there may be, and how long conversations are kept.

-- Names that policy.yaml offers; null: as in agent.yaml.
ALTER TABLE voice.sessions
    ADD COLUMN voice     text,
    ADD COLUMN language  text;

-- Retention looks for the oldest, of all users.
CREATE INDEX conversations_by_age ON voice.conversations (updated_at);

-- How many agents each node may have, of those that all together may (RELAY_AGENT_SESSIONS). What a
-- dead node had is free: only those count that are seen.
CREATE TABLE voice.agent_shares (
    node_id  uuid PRIMARY KEY REFERENCES voice.nodes (id) ON DELETE CASCADE,
    size     integer NOT NULL CHECK (size >= 0),
    hungry   boolean NOT NULL DEFAULT false    -- it wants one and none was free
);

-- Nobody's business but ours.
ALTER TABLE voice.agent_shares ENABLE ROW LEVEL SECURITY;
