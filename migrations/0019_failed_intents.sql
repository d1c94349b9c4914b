-- outside a transaction
-- compatible: it only makes a list faster, of failed calls of all conversations, newest first.
CREATE INDEX CONCURRENTLY IF NOT EXISTS intents_failed ON voice.intents (updated_at DESC, id DESC)
    WHERE status = 'failed';
