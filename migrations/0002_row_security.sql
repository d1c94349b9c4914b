-- Row-level security for Supabase, where browsers may reach the database through its REST API.
--
-- Our own role owns the tables and is not bound by these policies (no FORCE): the program filters by
-- user itself and pays nothing here. Everybody else sees nothing, and where Supabase's role
-- `authenticated` and its function `auth.uid()` exist, a signed-in user may read what is theirs.
-- Nobody but the owner may write. Without that role and function only the locked door remains.
-- (Supabase's REST API shows a schema only when it is also among its exposed schemas.)

ALTER TABLE voice.conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE voice.sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE voice.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE voice.intents ENABLE ROW LEVEL SECURITY;

DO $$
BEGIN
    IF to_regrole('authenticated') IS NULL OR to_regprocedure('auth.uid()') IS NULL THEN
        RETURN;
    END IF;

    GRANT USAGE ON SCHEMA voice TO authenticated;
    GRANT SELECT ON voice.conversations, voice.messages, voice.intents TO authenticated;

    -- `(SELECT auth.uid())` is evaluated once a statement, not once a row.
    EXECUTE $policy$
        CREATE POLICY own_conversations ON voice.conversations FOR SELECT TO authenticated
        USING (user_id = (SELECT auth.uid())::text)
    $policy$;
    EXECUTE $policy$
        CREATE POLICY own_messages ON voice.messages FOR SELECT TO authenticated
        USING (user_id = (SELECT auth.uid())::text)
    $policy$;
    EXECUTE $policy$
        CREATE POLICY own_intents ON voice.intents FOR SELECT TO authenticated
        USING (EXISTS (
            SELECT FROM voice.conversations AS c
            WHERE c.id = conversation_id AND c.user_id = (SELECT auth.uid())::text
        ))
    $policy$;
    -- sessions has no policy and no grant: it holds ticket hashes and details for operators.
END
$$;
