-- What administrators see and do: which node is which, that one is drained, and who did what.
--
-- compatible: programs of the version before neither read nor write any of it

ALTER TABLE voice.nodes
    ADD COLUMN name        text,                            -- its host and port, for people
    ADD COLUMN drained     boolean NOT NULL DEFAULT false,  -- it is to take no new sessions
    ADD COLUMN cleared_at  timestamptz;  -- its files have nothing of who was erased until then

-- One line for each act. No words of a conversation, and no id of a person who was erased: `target`
-- is null then.
CREATE TABLE voice.audit (
    id       uuid PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),  -- of an erasure: when it was done
    who      text NOT NULL,                       -- `key`, or `jwt:` and the subject
    act      text NOT NULL,
    target   text,
    outcome  jsonb                                -- figures; null: begun and not done
);

CREATE INDEX audit_by_time ON voice.audit (at DESC, id DESC);

-- Each heartbeat asks for the newest.
CREATE INDEX audit_erasures ON voice.audit (at) WHERE act = 'user.erase' AND outcome IS NOT NULL;

ALTER TABLE voice.audit ENABLE ROW LEVEL SECURITY;
CREATE POLICY program ON voice.audit TO PUBLIC
    USING (current_user = session_user) WITH CHECK (current_user = session_user);
