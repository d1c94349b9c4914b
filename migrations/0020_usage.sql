-- For how long agents were connected, which is what they cost: by owner of a session and day.
--
-- compatible: programs of the version before write `agent_seconds` of voice.sessions, which nobody
-- reads any more; what they count between this migration and their end is missing here

-- It outlives its session: costs of the past stay when a conversation is erased. With a person's
-- erasure `user_id` goes, and `session_id` becomes one that was never used.
CREATE TABLE voice.usage (
    session_id  uuid NOT NULL,
    epoch       integer NOT NULL,           -- 0: dialled ahead, and no browser came
    day         date NOT NULL,              -- in UTC, as it was when it was counted
    user_id     text,
    seconds     double precision NOT NULL,  -- of that day
    PRIMARY KEY (session_id, epoch, day)
);

CREATE INDEX usage_by_day ON voice.usage (day, user_id);

ALTER TABLE voice.usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY program ON voice.usage TO PUBLIC
    USING (current_user = session_user) WITH CHECK (current_user = session_user);

INSERT INTO voice.usage (session_id, epoch, day, user_id, seconds)
SELECT s.id, a.key::int, (coalesce(s.ended_at, s.created_at) AT TIME ZONE 'UTC')::date, s.user_id,
       a.value::float8
FROM voice.sessions AS s, jsonb_each_text(s.agent_seconds) AS a
WHERE a.value::float8 > 0;
