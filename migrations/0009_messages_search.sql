-- outside a transaction
-- As the index of 0001, of what the texts fold to.
CREATE INDEX CONCURRENTLY IF NOT EXISTS messages_search ON voice.messages USING gin ((
    to_tsvector('simple', voice.fold(content)) || array_to_tsvector(ARRAY['=' || user_id])
));
