-- compatible: a column that programs without it leave as it is
-- The user agreed to have the audio of the session recorded, and was told that it is.
ALTER TABLE voice.sessions ADD COLUMN record_audio boolean NOT NULL DEFAULT false;
