-- Sessions of the direct transport: the client speaks to Deepgram itself and reports over REST.

ALTER TABLE voice.sessions
    ADD COLUMN transport text NOT NULL DEFAULT 'relay' CHECK (transport IN ('relay', 'direct'));
