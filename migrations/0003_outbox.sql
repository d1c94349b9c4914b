-- The outbox: a call that is `submitting` is delivered by whoever claims it when it is due.
--
-- A claim is a lease: it moves next_attempt_at and counts `claims`, and who writes what came of the
-- call names the claim that it had. A process that dies lets its lease run out. All instants are the
-- database's own.
--
-- The defaults are for programs of the version before, which may still run while this is applied:
-- what they leave behind is due after a while, and in doubt.

ALTER TABLE voice.intents
    ADD COLUMN accepted_at      timestamptz NOT NULL DEFAULT now(),  -- at the call, or at a retry
    ADD COLUMN next_attempt_at  timestamptz DEFAULT now() + interval '5 minutes',
    ADD COLUMN in_doubt         boolean NOT NULL DEFAULT true,       -- a request may have arrived
    ADD COLUMN last_error       text,
    ADD COLUMN claims           integer NOT NULL DEFAULT 0,          -- 0: nobody but who accepted it
    DROP CONSTRAINT intents_status_check,
    ADD CONSTRAINT intents_status_check
        CHECK (status IN ('submitting', 'submitted', 'rejected', 'failed', 'cancelled'));

UPDATE voice.intents SET accepted_at = created_at WHERE status = 'submitting';

-- Only what is open: it stays small however many calls there were.
CREATE INDEX intents_due ON voice.intents (next_attempt_at) WHERE status = 'submitting';
