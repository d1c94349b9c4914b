-- The program need not own its tables: an account with SELECT, INSERT, UPDATE and DELETE runs it.
--
-- Row security (0002) let nobody but the owner see a row. From here on it lets in who has signed in
-- to the database under that name, and the privileges of each table say who that may be: nobody but
-- those whom the operator has granted them. A role that one has switched to sees nothing, as before,
-- whatever was granted to it: Supabase's REST API signs in as `authenticator` and switches to `anon`
-- or `authenticated` for each request (SET ROLE), so that session_user is another.
--
-- A table that is made later brings this policy with it.

DO $$
DECLARE
    one regclass;
BEGIN
    FOR one IN
        SELECT oid FROM pg_class WHERE relnamespace = 'voice'::regnamespace AND relkind IN ('r', 'p')
    LOOP
        EXECUTE format('CREATE POLICY program ON %s TO PUBLIC
            USING (current_user = session_user) WITH CHECK (current_user = session_user)', one);
    END LOOP;
END
$$;
