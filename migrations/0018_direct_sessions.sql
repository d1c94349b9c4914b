-- outside a transaction
-- compatible: only an index
-- The direct sessions that may live, for who begins another. Few of the rows: they end, or are old.
CREATE INDEX CONCURRENTLY IF NOT EXISTS sessions_direct ON voice.sessions (created_at)
    WHERE transport = 'direct' AND state <> 'ended';
