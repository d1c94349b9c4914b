"""Migrations on a real Postgres."""

import asyncio
import hashlib
import logging

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from control.migrate import Migration, MigrationError, find_pending, load_migrations, migrate
from control.store import Store
from relay.records import MessageSaid

log = logging.getLogger("tests")


def make(name, sql):
    return Migration(name, sql, hashlib.sha256(sql.encode()).hexdigest())


async def run(url, sql):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


async def test_an_empty_database_gets_every_migration_once(empty_database_url):
    names = await migrate(empty_database_url, log=log)

    assert names == [migration.name for migration in load_migrations()]
    assert names == sorted(names)
    assert await migrate(empty_database_url, log=log) == []


async def test_programs_that_migrate_at_once_apply_each_migration_once(empty_database_url):
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(migrate(empty_database_url, log=log)) for _ in range(4)]

    applied = [name for task in runs for name in task.result()]
    assert sorted(applied) == [migration.name for migration in load_migrations()]


async def test_an_edited_migration_is_refused(empty_database_url):
    first = make("0001_a", "CREATE TABLE a (id int)")
    await migrate(empty_database_url, log=log, migrations=[first])
    edited = make("0001_a", "CREATE TABLE a (id bigint)")

    with pytest.raises(MigrationError, match=r"0001_a was edited .* expected checksum"):
        await migrate(empty_database_url, log=log, migrations=[edited])


async def test_a_migration_that_fails_leaves_nothing_and_the_ones_before_it_stay(
    empty_database_url,
):
    good = make("0001_a", "CREATE TABLE a (id int)")
    bad = make("0002_b", "CREATE TABLE b (id int); SELECT 1 / 0")

    with pytest.raises(MigrationError, match="0002_b failed: division by zero"):
        await migrate(empty_database_url, log=log, migrations=[good, bad])

    tables = await run(
        empty_database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    )
    assert [row[0] for row in tables] == ["a", "voice_relay_migrations"]


async def test_a_database_that_is_ahead_has_nothing_pending():
    known = make("0001_a", "")

    assert find_pending([known], {"0001_a": known.checksum, "0002_new": "x"}) == ()


async def test_a_database_that_does_not_answer_is_one_clear_line():
    with pytest.raises(MigrationError, match="does not answer") as failed:
        await migrate("postgresql://x@127.0.0.1:1/x", log=log)

    assert "DATABASE_URL" in str(failed.value)
    assert "\n" not in str(failed.value)


async def test_a_url_that_is_none_is_one_clear_line():
    with pytest.raises(MigrationError, match="does not answer"):
        await migrate("mysql://x", log=log)


# --- row security ------------------------------------------------------------------------------

SUPABASE = """
    DO $$ BEGIN
        CREATE ROLE authenticated NOLOGIN;
    EXCEPTION WHEN duplicate_object THEN NULL;
    END $$;
    CREATE SCHEMA auth;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
        AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
    GRANT USAGE ON SCHEMA auth TO authenticated;
"""
GRANTS = "GRANT ALL ON ALL TABLES IN SCHEMA public TO authenticated"
TABLES = ("conversations", "messages", "intents", "sessions", "voice_relay_migrations")


async def seen_by(connection, user_id):
    """How many rows of each table a signed-in user of Supabase sees."""
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE authenticated")
        await connection.execute(
            "SELECT set_config('request.jwt.claim.sub', $1, true)", str(user_id or "")
        )
        return [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES]


async def test_on_supabase_a_user_reads_what_is_theirs_and_writes_nothing(empty_database_url):
    mine, other = uuid7(), uuid7()
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(SUPABASE)
    await migrate(empty_database_url, log=log)
    await connection.execute(GRANTS)
    store = Store(empty_database_url)
    await store.open()
    for user in (mine, other):
        conversation = await store.create_conversation(uuid7(), user_id=str(user))
        await store.write(
            [
                MessageSaid(
                    id=uuid7(),
                    conversation_id=conversation.id,
                    session_id=uuid7(),
                    seq=1,
                    turn=1,
                    role="user",
                    content="hello",
                    at=conversation.created_at,
                )
            ]
        )

    assert await seen_by(connection, mine) == [1, 1, 0, 0, 0]
    assert await seen_by(connection, None) == [0, 0, 0, 0, 0]
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE authenticated")
        await connection.execute(f"SET LOCAL request.jwt.claim.sub = '{mine}'")
        assert await connection.execute("DELETE FROM conversations") == "DELETE 0"
        assert await connection.execute("UPDATE messages SET content = 'x'") == "UPDATE 0"
    assert len(await store.list_conversations(str(other), limit=9)) == 1
    await store.close()
    await connection.close()


async def test_without_supabase_the_door_is_locked_for_everybody_but_the_owner(
    empty_database_url,
):
    await migrate(empty_database_url, log=log)

    policies = await run(empty_database_url, "SELECT * FROM pg_policies")
    locked = await run(
        empty_database_url,
        "SELECT relname FROM pg_class WHERE relrowsecurity AND NOT relforcerowsecurity",
    )
    assert policies == []
    assert {row[0] for row in locked} == set(TABLES)
