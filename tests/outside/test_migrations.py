"""Migrations of a database that others use meanwhile: locks, indexes, several at once, deaths."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import sys
from contextlib import asynccontextmanager

import asyncpg
import pytest

from control.db.migrate import Migration, MigrationError, load_migrations, migrate

log = logging.getLogger("tests")
INDEX = (
    "-- outside a transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS by_{0} ON voice.things ({0})"
)
THINGS = "CREATE TABLE voice.things (id int, name text)"


def make(name, sql):
    return Migration(name, sql, hashlib.sha256(sql.encode()).hexdigest())


FIRST = make("0001_things", THINGS)
ADD = make("0002_add", "ALTER TABLE voice.things ADD COLUMN more text")
BUILD = make("0002_build", INDEX.format("name"))


@asynccontextmanager
async def transaction(url, *statements):
    """Another program, idle in a transaction after these statements."""
    other = await asyncpg.connect(url, server_settings={"application_name": "a report"})
    await other.execute("BEGIN")
    for statement in statements:
        await other.execute(statement)
    try:
        yield other
    finally:
        await other.close()


async def fetch(url, sql):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


async def indexes(url):
    """Names of the indexes of voice.things, and whether each is valid."""
    rows = await fetch(
        url,
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index "
        "WHERE indrelid = 'voice.things'::regclass",
    )
    return {row[0]: row[1] for row in rows}


LOCKED = [
    (ADD, ["SELECT * FROM voice.things"]),
    (ADD, ["LOCK TABLE voice.things IN ACCESS EXCLUSIVE MODE"]),
    (BUILD, ["INSERT INTO voice.things VALUES (1)"]),
    (BUILD, ["LOCK TABLE voice.things IN ACCESS EXCLUSIVE MODE"]),
]


@pytest.mark.parametrize(("migration", "statements"), LOCKED)
async def test_a_lock_that_does_not_come_is_one_line_that_names_who_has_it(
    empty_database_url, caplog, migration, statements
):
    await migrate(empty_database_url, log=log, migrations=[FIRST])
    caplog.set_level(logging.WARNING)

    async with transaction(empty_database_url, *statements) as other:
        pid = other.get_server_pid()
        async with asyncio.timeout(20):
            with pytest.raises(MigrationError) as failed:
                await migrate(
                    empty_database_url, log=log, migrations=[FIRST, migration], lock_seconds=0.2
                )

    assert f"process {pid} of postgres (a report, idle in transaction" in str(failed.value)
    assert "\n" not in str(failed.value)
    waits = [r.getMessage() for r in caplog.records if "migration_waits" in r.getMessage()]
    assert len(waits) == 4
    assert all(f"process {pid}" in line for line in waits)
    # When it is gone the same program does it.
    assert await migrate(
        empty_database_url, log=log, migrations=[FIRST, migration], lock_seconds=2
    ) == [migration.name]


async def test_who_waits_for_a_lock_lets_others_in_between(empty_database_url):
    """A queued ALTER TABLE keeps every reader out: it must give up and come back."""
    await migrate(empty_database_url, log=log, migrations=[FIRST])
    async with transaction(empty_database_url, "SELECT * FROM voice.things") as other:
        work = asyncio.create_task(
            migrate(empty_database_url, log=log, migrations=[FIRST, ADD], lock_seconds=0.5)
        )
        for _ in range(5):
            async with asyncio.timeout(2):
                await fetch(empty_database_url, "SELECT * FROM voice.things")
        await other.execute("COMMIT")
        async with asyncio.timeout(20):
            assert await work == ["0002_add"]


async def test_an_index_is_built_while_others_write(empty_database_url):
    await migrate(empty_database_url, log=log, migrations=[FIRST])
    async with transaction(empty_database_url, "INSERT INTO voice.things VALUES (1)") as other:
        work = asyncio.create_task(
            migrate(empty_database_url, log=log, migrations=[FIRST, BUILD], lock_seconds=20)
        )
        async with asyncio.timeout(20):
            while not await indexes(empty_database_url):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            # The build waits for that transaction; a writer does not wait for the build.
            await fetch(empty_database_url, "INSERT INTO voice.things VALUES (2)")
            await other.execute("COMMIT")
            assert await work == ["0002_build"]

    assert await indexes(empty_database_url) == {"voice.by_name": True}


async def test_an_index_that_was_left_half_built_is_built_anew(empty_database_url):
    await migrate(empty_database_url, log=log, migrations=[FIRST])
    async with transaction(empty_database_url, "INSERT INTO voice.things VALUES (1)"):
        with pytest.raises(MigrationError, match="a report"):
            await migrate(empty_database_url, log=log, migrations=[FIRST, BUILD], lock_seconds=0.2)
    assert False in (await indexes(empty_database_url)).values()

    assert await migrate(empty_database_url, log=log, migrations=[FIRST, BUILD]) == ["0002_build"]

    assert await indexes(empty_database_url) == {"voice.by_name": True}
    assert await migrate(empty_database_url, log=log, migrations=[FIRST, BUILD]) == []


async def test_an_index_that_is_there_already_is_only_noted(empty_database_url):
    """The program ended between the index and its line in the list."""
    await migrate(empty_database_url, log=log, migrations=[FIRST, BUILD])
    await fetch(empty_database_url, "DELETE FROM voice.migrations WHERE name = '0002_build'")

    assert await migrate(empty_database_url, log=log, migrations=[FIRST, BUILD]) == ["0002_build"]


async def test_what_fails_outside_a_transaction_is_one_line_and_not_noted(empty_database_url):
    bad = make("0002_bad", INDEX.format("no_such_column"))

    with pytest.raises(MigrationError, match='0002_bad failed: column "no_such_column"'):
        await migrate(empty_database_url, log=log, migrations=[FIRST, bad])

    rows = await fetch(empty_database_url, "SELECT name FROM voice.migrations")
    assert [row[0] for row in rows] == ["0001_things"]


async def test_a_marked_file_with_two_statements_is_refused(empty_database_url):
    two = make("0002_two", INDEX.format("name") + "; SELECT 1")

    with pytest.raises(MigrationError, match="0002_two failed"):
        await migrate(empty_database_url, log=log, migrations=[FIRST, two])


async def test_programs_that_migrate_at_once_build_an_index_once(empty_database_url):
    known = [FIRST, BUILD, make("0003_build", INDEX.format("id"))]
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        runs = [
            tasks.create_task(migrate(empty_database_url, log=log, migrations=known))
            for _ in range(4)
        ]

    assert sorted(name for run in runs for name in run.result()) == [one.name for one in known]
    assert await indexes(empty_database_url) == {"voice.by_name": True, "voice.by_id": True}


async def test_limits_of_the_account_do_not_cut_a_migration_short(empty_database_url):
    name = (await fetch(empty_database_url, "SELECT current_database()"))[0][0]
    await fetch(empty_database_url, f"ALTER DATABASE {name} SET statement_timeout = '100ms'")
    slow = make("0001_slow", "SELECT pg_sleep(0.3)")

    assert await migrate(empty_database_url, log=log, migrations=[slow]) == ["0001_slow"]


async def test_an_index_is_built_where_transactions_are_repeatable_read(empty_database_url):
    name = (await fetch(empty_database_url, "SELECT current_database()"))[0][0]
    isolation = "SET default_transaction_isolation = 'repeatable read'"
    await fetch(empty_database_url, f"ALTER DATABASE {name} {isolation}")

    async with asyncio.timeout(20):
        done = await migrate(empty_database_url, log=log, migrations=[FIRST, BUILD])

    assert done == ["0001_things", "0002_build"]


KILLED = """
import asyncio, logging, sys
from control.db.migrate import migrate
from tests.outside.test_migrations import BUILD, FIRST
asyncio.run(migrate(sys.argv[1], log=logging.getLogger("x"), migrations=[FIRST, BUILD]))
"""


async def test_one_that_is_killed_in_mid_build_is_followed_by_another(empty_database_url):
    await migrate(empty_database_url, log=log, migrations=[FIRST])
    async with transaction(empty_database_url, "INSERT INTO voice.things VALUES (1)"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, empty_database_url
        )
        async with asyncio.timeout(20):
            while not await indexes(empty_database_url):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async with asyncio.timeout(40):
        assert await migrate(empty_database_url, log=log, migrations=[FIRST, BUILD]) == [
            "0002_build"
        ]
    assert await indexes(empty_database_url) == {"voice.by_name": True}


async def test_a_database_with_nothing_to_do_needs_no_right_to_make_anything(database_url):
    name = (await fetch(database_url, "SELECT current_database()"))[0][0]
    role = f"reader_{name}"
    await fetch(database_url, f"CREATE ROLE {role} LOGIN")
    for grant in (f"USAGE ON SCHEMA voice TO {role}", f"SELECT ON voice.migrations TO {role}"):
        await fetch(database_url, f"GRANT {grant}")

    assert await migrate(database_url.replace("postgres@", f"{role}@", 1), log=log) == []


def test_the_mark_is_the_first_line_and_only_for_what_is_concurrent():
    for migration in load_migrations():
        assert migration.is_outside == ("CONCURRENTLY" in migration.sql), migration.name
