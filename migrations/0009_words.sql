-- The indexes of 0001 are those of 0008 now: nothing looks for unfolded words any more. (A program of
-- the version before, while it still runs, searches slowly.)

DROP INDEX voice.conversations_words;
DROP INDEX voice.messages_words;
ALTER INDEX voice.conversations_search RENAME TO conversations_words;
ALTER INDEX voice.messages_search RENAME TO messages_words;
