-- What is known of a session's end: how long its agents were connected, and whether the Orchestrator
-- is to be told.
--
-- compatible: programs of the version before write neither

-- Seconds by the epoch of each owner, as it said when it ended: repeated, it changes nothing.
ALTER TABLE voice.sessions ADD COLUMN agent_seconds jsonb NOT NULL DEFAULT '{}';

-- A session that ended and is not continued elsewhere, for the Orchestrator (`events` in agent.yaml).
-- The outbox delivers it when it is due, as it delivers calls (0003). It has no key to its
-- conversation: who erases that locks it before its sessions, who ends one would do the opposite.
CREATE TABLE voice.events (
    session_id    uuid PRIMARY KEY REFERENCES voice.sessions (id) ON DELETE CASCADE,
    accepted_at   timestamptz NOT NULL DEFAULT now(),
    due_at        timestamptz,                      -- null: delivered, or given up
    attempts      integer NOT NULL DEFAULT 0,
    claims        integer NOT NULL DEFAULT 0,
    body          text,                             -- as it was told first, until it is delivered
    delivered_at  timestamptz,
    last_error    text
);

CREATE INDEX events_due ON voice.events (due_at) WHERE due_at IS NOT NULL;

ALTER TABLE voice.events ENABLE ROW LEVEL SECURITY;
CREATE POLICY program ON voice.events TO PUBLIC
    USING (current_user = session_user) WITH CHECK (current_user = session_user);

-- Sessions end in many statements, and some go on after all: there is an event as long as a session
-- has ended for good, whichever statement says so. `voice.event_grace` is set for a transaction of a
-- program that tells events: for how many seconds a session may still be taken over that a relay
-- ended because it stopped; without it nothing is done. What nobody has begun to tell is taken back.
CREATE FUNCTION voice.note_end() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    grace text := coalesce(current_setting('voice.event_grace', true), '');
BEGIN
    IF grace = '' THEN
        RETURN NULL;
    ELSIF NEW.state <> 'ended' OR NEW.end_reason = 'superseded'
       OR NEW.end_asked IS NOT DISTINCT FROM 'superseded' THEN
        DELETE FROM voice.events WHERE session_id = NEW.id AND claims = 0;
    ELSIF NEW.ticket_used_at IS NOT NULL OR NEW.transport = 'direct' THEN
        INSERT INTO voice.events (session_id, due_at)
        VALUES (NEW.id, now() + CASE NEW.end_reason
            WHEN 'shutdown' THEN make_interval(secs => grace::float8) ELSE interval '0' END)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_end AFTER UPDATE OF state, end_reason, end_asked ON voice.sessions
    FOR EACH ROW WHEN (OLD.state = 'ended' OR NEW.state = 'ended')
    EXECUTE FUNCTION voice.note_end();
