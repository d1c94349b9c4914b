-- Calls that wait for the user's word, and calls that are undone at the Orchestrator.
--
-- `awaiting` ends at next_attempt_at, `cancelling` is tried again then. `taken_back`: somebody did
-- not want it any more; with `submitted` it was carried out all the same.

ALTER TABLE voice.intents
    ADD COLUMN taken_back boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT intents_status_check,
    ADD CONSTRAINT intents_status_check CHECK (status IN
        ('awaiting', 'submitting', 'submitted', 'rejected', 'failed', 'cancelling', 'cancelled'));

DROP INDEX voice.intents_due;
CREATE INDEX intents_due ON voice.intents (next_attempt_at)
    WHERE status IN ('awaiting', 'submitting', 'cancelling');
