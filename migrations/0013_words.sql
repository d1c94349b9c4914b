-- Nothing looks for unfolded words any more (0008). A program of the version before, while it still
-- runs, searches slowly.

DROP INDEX voice.conversations_words;
DROP INDEX voice.messages_words;
