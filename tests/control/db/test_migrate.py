"""Migrations on a real Postgres."""

import asyncio
import hashlib
import logging
from datetime import UTC, datetime

import asyncpg
import msgspec
import pytest
from uuid_utils.compat import uuid7

from config.agent import Audio
from control.db.calls import list_calls
from control.db.conversations import (
    create_conversation,
    erase_conversation,
    get_conversation,
    list_conversations,
    list_messages,
    load_history,
    rename_conversation,
)
from control.db.database_check import find_applied
from control.db.errors import ValuesRefused
from control.db.migrate import (
    Migration,
    MigrationError,
    find_pending,
    load_migrations,
    migrate,
    refuse_newer,
)
from control.db.rows import NewSession
from control.db.sessions import close_session, create_session, get_session
from control.db.store import Store
from relay.core.records import Figures, IntentCalled, MessageSaid, SessionBegan, SessionEnded
from relay.protocol.relay_events import IntentStatus
from relay.telemetry.histogram import SessionLatency
from tests.control.attaching import take

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
        empty_database_url,
        "SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'voice') ORDER BY 1",
    )
    assert [row[0] for row in tables] == ["a", "migrations"]


async def test_a_database_that_is_ahead_has_nothing_pending():
    known = make("0001_a", "")

    assert find_pending([known], {"0001_a": known.checksum, "0002_new": "x"}) == ()


async def test_a_database_that_does_not_answer_is_one_clear_line():
    with pytest.raises(MigrationError, match="does not answer") as failed:
        await migrate("postgresql://x@127.0.0.1:1/x", log=log)

    assert "DATABASE_URL" in str(failed.value)
    assert "\n" not in str(failed.value)


async def test_a_url_that_is_none_is_one_clear_line():
    with pytest.raises(MigrationError, match="DATABASE_URL cannot be read: expected") as failed:
        await migrate("mysql://x", log=log)

    assert "\n" not in str(failed.value)


# --- a database that others use too ------------------------------------------------------------

FOREIGN = ("conversations", "messages", "sessions", "intents", "migrations")
# Tables, indexes, sequences, views in the schema that is not ours.
IN_PUBLIC = """
    SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
    AND relkind <> 't' ORDER BY 1
"""


async def use_every_statement(store, user, session_id):
    """A conversation from its session to its end, every question asked once; returns its id."""
    conversation_id = uuid7()
    now = datetime.now(UTC)
    new = NewSession(
        id=session_id,
        conversation_id=conversation_id,
        user_id=user,
        ticket_hash=b"hash",
        ticket_seconds=60.0,
        timezone="UTC",
        audio=Audio(),
    )
    assert await create_session(store, new, resume=False)
    resumed = msgspec.structs.replace(new, id=uuid7())
    assert await create_session(store, resumed, resume=True)
    assert (await take(store, session_id, b"hash")).taken
    said = MessageSaid(
        id=uuid7(),
        conversation_id=conversation_id,
        session_id=session_id,
        seq=1,
        turn=1,
        role="user",
        content="hello",
        at=now,
    )
    called = IntentCalled(
        id=uuid7(),
        conversation_id=conversation_id,
        session_id=session_id,
        call_id="call_1",
        after_seq=1,
        function="create_goal",
        intent="GOAL",
        arguments="{}",
        status=IntentStatus.SUBMITTING,
        attempts=0,
        result=None,
        response=None,
        at=now,
    )
    answered = msgspec.structs.replace(called, status=IntentStatus.SUBMITTED, response="done")
    ended = SessionEnded(
        session_id=session_id,
        epoch=1,
        reason="browser_left",
        detail="",
        browser_code=1000,
        agent_code=1000,
        figures=Figures(
            browser_frames=1,
            browser_bytes=2,
            agent_frames=3,
            agent_bytes=4,
            latency=SessionLatency(connect_ms=1.5),
        ),
        at=now,
    )
    began = SessionBegan(session_id=session_id, agent_request_id="request", at=now, epoch=1)
    await store.write([began, said, called])
    await store.write([said, answered, ended])
    with pytest.raises(ValuesRefused, match="another message"):
        await store.write([msgspec.structs.replace(said, id=uuid7())])
    assert len(await list_messages(store, conversation_id, limit=9)) == 1
    assert len(await list_calls(store, conversation_id, limit=9)) == 1
    assert len(await list_conversations(store, user, limit=9)) == 1
    assert len(await list_conversations(store, user, q="hello", limit=9)) == 1
    assert await rename_conversation(store, conversation_id, user_id=user, title="greeting")
    assert (await get_conversation(store, conversation_id, user_id=user)).title == "greeting"
    for each in (resumed.id, session_id):
        assert await close_session(store, each, user_id=user, reason="hung_up")
    other = await create_conversation(store, uuid7(), user_id=user)
    assert await erase_conversation(store, other.id, user_id=user) == []
    return conversation_id


async def test_tables_of_another_program_with_our_names_are_no_trouble(empty_database_url):
    for name in FOREIGN:
        await run(empty_database_url, f"CREATE TABLE public.{name} (foreign_words text)")
    store = Store(empty_database_url)
    await store.open()
    async with store.reading() as connection:
        assert await find_applied(connection) == {}

    applied = await migrate(empty_database_url, log=log)

    async with store.reading() as connection:
        assert list(await find_applied(connection)) == applied
    user, session_id = "user-1", uuid7()
    conversation_id = await use_every_statement(store, user, session_id)
    history = await load_history(store, conversation_id)
    assert [m.content for m in history.messages] == ["hello"]
    assert [call.status for call in history.calls] == [IntentStatus.SUBMITTED]
    assert (await get_session(store, session_id, user_id=user)).state == "ended"
    assert await erase_conversation(store, conversation_id, user_id=user) == []
    await store.close()
    assert await run(empty_database_url, IN_PUBLIC) == [(name,) for name in sorted(FOREIGN)]
    for name in FOREIGN:
        assert await run(empty_database_url, f"SELECT * FROM public.{name}") == []


async def test_nothing_is_found_by_a_search_path(empty_database_url):
    name = (await run(empty_database_url, "SELECT current_database()"))[0][0]
    await run(empty_database_url, f"ALTER DATABASE {name} SET search_path = ''")

    await migrate(empty_database_url, log=log)

    store = Store(empty_database_url)
    await store.open()
    await use_every_statement(store, "user-1", uuid7())
    await store.close()
    assert await run(empty_database_url, IN_PUBLIC) == []


@pytest.fixture
async def poor_url(empty_database_url):
    """The URL of an account that may connect and nothing else."""
    account = f"poor_{uuid7().hex}"
    await run(empty_database_url, f"CREATE ROLE {account} LOGIN")
    return empty_database_url.replace("postgres@", f"{account}@", 1)


async def test_an_account_that_may_make_no_schema_is_one_clear_line(poor_url):
    with pytest.raises(MigrationError, match="the schema voice cannot be prepared") as failed:
        await migrate(poor_url, log=log)

    assert "CREATE" in str(failed.value)


async def test_a_schema_that_an_operator_made_is_enough(empty_database_url, poor_url):
    account = (await run(poor_url, "SELECT current_user::text"))[0][0]
    await run(empty_database_url, f"CREATE SCHEMA voice AUTHORIZATION {account}")

    assert await migrate(poor_url, log=log)
    assert await migrate(poor_url, log=log) == []


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
GRANTS = "GRANT ALL ON ALL TABLES IN SCHEMA voice TO authenticated"
READABLE = ("conversations", "messages", "intents")
TABLES = (
    *READABLE, "sessions", "nodes", "takeovers", "agent_shares", "grants", "events", "migrations",
    "audit", "usage",
)  # fmt: skip


async def seen_by(connection, user_id, tables=TABLES):
    """How many rows of each table a signed-in user of Supabase sees."""
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE authenticated")
        await connection.execute(
            "SELECT set_config('request.jwt.claim.sub', $1, true)", str(user_id or "")
        )
        return [
            await connection.fetchval(f"SELECT count(*) FROM voice.{table}") for table in tables
        ]


async def test_on_supabase_a_user_reads_what_is_theirs_and_writes_nothing(empty_database_url):
    mine, other = uuid7(), uuid7()
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(SUPABASE)
    await migrate(empty_database_url, log=log)
    store = Store(empty_database_url)
    await store.open()
    for user in (mine, other):
        conversation = await create_conversation(store, uuid7(), user_id=str(user))
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

    assert await seen_by(connection, mine, READABLE) == [1, 1, 0]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await seen_by(connection, mine, ["sessions"])
    # An operator who grants too much, as Supabase does in `public`, opens nothing.
    await connection.execute(GRANTS)
    assert await seen_by(connection, mine) == [1, 1] + [0] * (len(TABLES) - 2)
    assert await seen_by(connection, None) == [0] * len(TABLES)
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE authenticated")
        await connection.execute(f"SET LOCAL request.jwt.claim.sub = '{mine}'")
        assert await connection.execute("DELETE FROM voice.conversations") == "DELETE 0"
        assert await connection.execute("UPDATE voice.messages SET content = 'x'") == "UPDATE 0"
    assert len(await list_conversations(store, str(other), limit=9)) == 1
    await store.close()
    await connection.close()


async def test_without_supabase_the_door_is_locked_for_everybody_but_the_owner(
    empty_database_url,
):
    await migrate(empty_database_url, log=log)

    policies = await run(empty_database_url, "SELECT tablename, qual FROM pg_policies")
    locked = await run(
        empty_database_url,
        "SELECT relname FROM pg_class WHERE relrowsecurity AND NOT relforcerowsecurity",
    )
    assert {row["tablename"] for row in policies} == set(TABLES)
    # Nobody who has switched to a role; who signs in needs the privileges (tests/outside).
    assert {row["qual"] for row in policies} == {"(CURRENT_USER = SESSION_USER)"}
    assert {row[0] for row in locked} == set(TABLES)


async def test_a_newer_schema_is_refused_unless_its_migrations_say_that_it_may_be_used(
    empty_database_url,
):
    old = [make("0001_a", "CREATE TABLE a (id int)")]
    kind = make("0002_b", "-- compatible: a new table\nCREATE TABLE b (id int)")
    strict = make("0003_c", "ALTER TABLE a RENAME TO c")
    await migrate(empty_database_url, log=log, migrations=[*old, kind])
    await refuse_newer(empty_database_url, migrations=old)

    await migrate(empty_database_url, log=log, migrations=[*old, kind, strict])

    with pytest.raises(MigrationError, match="does not know 0003_c: start the version"):
        await refuse_newer(empty_database_url, migrations=old)
    await refuse_newer(empty_database_url, migrations=[*old, kind, strict])


async def test_a_list_of_migrations_from_before_there_were_marks_is_read(empty_database_url):
    for sql in (
        "CREATE SCHEMA voice",
        "CREATE TABLE voice.migrations (name text, checksum text)",
        "INSERT INTO voice.migrations VALUES ('0001_conversations', 'x'), ('9999_x', 'x')",
    ):
        await run(empty_database_url, sql)

    with pytest.raises(MigrationError, match="does not know 9999_x"):
        await refuse_newer(empty_database_url)
