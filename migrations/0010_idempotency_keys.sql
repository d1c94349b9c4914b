-- What the Orchestrator knows a call by is the id of its row, not the id that a language model gave it:
-- models use `call_0` again and again, and some send none.
--
-- Null: a call of a program of the version before, which sends the call_id. Such a call keeps that
-- key, or one that was sent already would be done twice.

ALTER TABLE voice.intents ADD COLUMN idempotency_key text;
