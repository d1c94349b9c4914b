-- outside a transaction
-- As the index of 0001, of what the titles fold to.
CREATE INDEX CONCURRENTLY IF NOT EXISTS conversations_search ON voice.conversations USING gin ((
    to_tsvector('simple', voice.fold(coalesce(title, '')))
    || array_to_tsvector(ARRAY['=' || user_id])
));
