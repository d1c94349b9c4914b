"""The database schema as plain SQL, applied in order by `voice-relay migrate`; never edited."""
