-- outside a transaction
-- compatible: only an index
-- The live sessions of a user, for the minutes of a day, which they share. Few of the rows: they end.
CREATE INDEX CONCURRENTLY IF NOT EXISTS sessions_live ON voice.sessions (user_id)
    WHERE state <> 'ended' AND node_id IS NOT NULL;
