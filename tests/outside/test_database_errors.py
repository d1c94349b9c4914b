"""A database that gives errors of any class: nobody falls silent, and nothing is lost.

In each case people talk while the database fails; when it is well again all that they were told is
stored, once and in order. Errors are real where that is possible, and otherwise those of a trigger.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.chaos.audit import stored_of
from tests.chaos.stage import VOICE_RELAY, staged, until

API = "/api/v1/voice"
# What a server, a pooler or a trigger may say about a row that is fine; the second of a pair
# comes before all is well again. tests/control/db/test_errors.py has more of them.
PAIRS = [("XX000", "40001"), ("P0001", "08006"), ("53200", "25P02"), ("58030", "ZZ999")]


@pytest.fixture
async def stage(tmp_path, database_url, empty_database_url):
    """The Orchestrator has a database of its own: it is well."""
    async with staged(tmp_path, database_url, planner_url=empty_database_url) as stage:
        yield stage


class Database:
    """What an operator does to the database of the relay, which has an account of its own."""

    def __init__(self, url, connection):
        self.name = urlsplit(url).path[1:]
        self.account = f"relay_{uuid.uuid4().hex}"
        self.relay_url = url.replace("//postgres@", f"//{self.account}@", 1)
        self._connection = connection

    async def __call__(self, sql):
        await self._connection.execute(sql)

    async def prepare(self):
        await self(f"CREATE ROLE {self.account} LOGIN BYPASSRLS")
        await self(f"GRANT ALL ON SCHEMA voice TO {self.account}")
        await self(f"GRANT ALL ON ALL TABLES IN SCHEMA voice TO {self.account}")
        # Both are settings that people have, and short here.
        await self(f"ALTER ROLE {self.account} SET lock_timeout = '200ms'")
        await self(f"ALTER ROLE {self.account} SET statement_timeout = '500ms'")

    async def hang_up(self):
        """End the connections of the relay."""
        await self(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE usename = '{self.account}'"
        )

    @asynccontextmanager
    async def changed(self, there, back, *, hang_up=False):
        await self(there)
        if hang_up:
            await self.hang_up()
        try:
            yield
        finally:
            await self(back)
            if hang_up:
                await self.hang_up()

    def raising(self, sqlstate):
        """Each row of a message raises it; what the server says quotes the row."""
        return self.changed(
            f"""
            CREATE FUNCTION voice.fail() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'no: %', NEW.content
                USING ERRCODE = '{sqlstate}', DETAIL = NEW.content, HINT = NEW.content;
            END $$;
            CREATE TRIGGER fail BEFORE INSERT ON voice.messages
            FOR EACH ROW EXECUTE FUNCTION voice.fail();
            """,
            "DROP FUNCTION voice.fail CASCADE",
        )

    @asynccontextmanager
    async def locked(self):
        await self("BEGIN; LOCK TABLE voice.messages")
        try:
            yield
        finally:
            await self("COMMIT")


@pytest.fixture
async def database(database_url):
    connection = await asyncpg.connect(database_url)
    try:
        database = Database(database_url, connection)
        await database.prepare()
        yield database
    finally:
        await connection.close()


def a_table_is_away(database):
    return database.changed(
        "ALTER TABLE voice.messages RENAME TO messages_away",
        "ALTER TABLE voice.messages_away RENAME TO messages",
    )


def a_column_has_another_name(database):
    return database.changed(
        "ALTER TABLE voice.messages RENAME COLUMN turn TO turn_away",
        "ALTER TABLE voice.messages RENAME COLUMN turn_away TO turn",
    )


def the_table_is_locked_beyond_lock_timeout(database):
    return database.locked()


def a_right_is_taken_away(database):
    return database.changed(
        f"REVOKE INSERT ON voice.messages FROM {database.account}",
        f"GRANT INSERT ON voice.messages TO {database.account}",
    )


def statements_take_longer_than_statement_timeout(database):
    return database.changed(
        """
        CREATE FUNCTION voice.sleep() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
        CREATE TRIGGER sleep BEFORE INSERT ON voice.messages
        FOR EACH ROW EXECUTE FUNCTION voice.sleep();
        """,
        "DROP FUNCTION voice.sleep CASCADE",
    )


def connections_are_read_only(database):
    return database.changed(
        f"ALTER ROLE {database.account} SET default_transaction_read_only = on",
        f"ALTER ROLE {database.account} RESET default_transaction_read_only",
        hang_up=True,
    )


def there_are_too_many_connections(database):
    return database.changed(
        f"ALTER ROLE {database.account} CONNECTION LIMIT 0",
        f"ALTER ROLE {database.account} CONNECTION LIMIT -1",
        hang_up=True,
    )


def the_account_may_not_log_in(database):
    return database.changed(
        f"ALTER ROLE {database.account} NOLOGIN",
        f"ALTER ROLE {database.account} LOGIN",
        hang_up=True,
    )


FAULTS = [
    (a_table_is_away, "42P01"),
    (a_column_has_another_name, "42703"),
    (the_table_is_locked_beyond_lock_timeout, "55P03"),
    (a_right_is_taken_away, "42501"),
    (statements_take_longer_than_statement_timeout, "57014"),
    (connections_are_read_only, "25006"),
    (there_are_too_many_connections, "53300"),
    (the_account_may_not_log_in, "28000"),
]


@pytest.mark.timeout(180)
async def test_whatever_a_database_does_for_a_while_nothing_is_lost(stage, database):
    relay = stage.relay(DATABASE_URL=database.relay_url)
    await relay.start()
    async with stage.people(random.Random(1), 2) as browsers:
        await stage.settle(browsers)
        for fault, sqlstate in FAULTS:
            async with fault(database):
                await talk_while_failing(stage, relay, browsers)
                if fault is a_table_is_away:
                    answer = await stage.http.get(
                        f"{relay.url}{API}/conversations/{browsers[0].conversation_id}/messages"
                    )
                    assert (answer.status_code, answer.json()["code"]) == (
                        503,
                        "database_unavailable",
                    )
            await stage.settle(browsers)
            assert sqlstate in relay.output
    await is_well(stage, relay, browsers)


@pytest.mark.timeout(180)
async def test_an_error_of_any_class_that_is_not_of_the_values_means_away(stage, database):
    relay = stage.relay(DATABASE_URL=database.relay_url)
    await relay.start()
    async with stage.people(random.Random(1), 2) as browsers:
        await stage.settle(browsers)
        for first, second in PAIRS:
            async with database.raising(first):
                await talk_while_failing(stage, relay, browsers)
            async with database.raising(second):
                await talk_while_failing(stage, relay, browsers)
            await stage.settle(browsers)
            assert first in relay.output
    await is_well(stage, relay, browsers)


async def test_one_record_that_is_refused_is_kept_and_holds_nobody_up(stage, database):
    relay = stage.relay(DATABASE_URL=database.relay_url)
    await relay.start()
    async with stage.people(random.Random(1), 2) as browsers:
        poison = browsers[0].coming_line(2)
        async with database.changed(
            f"ALTER TABLE voice.messages ADD CONSTRAINT wise CHECK (content <> '{poison}')",
            "ALTER TABLE voice.messages DROP CONSTRAINT wise",
        ):
            for _ in range(4):
                await all_turns(browsers)
            await until(is_counted(stage, relay, "relay_journal_condemned_total", 1.0), 20)
            told = [set(browser.told) for browser in browsers]
            told[0].discard(("user", poison))
            await until(are_stored(stage, browsers, told), 20)

        kept = relay_data(stage) / "condemned.jsonl"
        (line,) = kept.read_text().splitlines()
        assert json.loads(line)["record"]["content"] == poison
        assert "23514" in json.loads(line)["reason"]
        assert kept.stat().st_mode & 0o077 == 0

        restoring = await asyncio.create_subprocess_exec(VOICE_RELAY, "restore", str(kept))
        assert await restoring.wait() == 0
        await stage.settle(browsers)
    assert "journal_record_condemned kind=MessageSaid" in relay.output
    await is_well(stage, relay, browsers, lost=1.0)


async def test_a_message_whose_place_another_has_is_kept(stage, database):
    relay = stage.relay(DATABASE_URL=database.relay_url)
    await relay.start()
    async with stage.people(random.Random(1), 1) as (browser,):
        await stage.settle([browser])
        taken = max(browser.bubbles) + 2
        await database(
            f"""
            INSERT INTO voice.messages
                (conversation_id, seq, turn, id, session_id, user_id, role, content, created_at)
            SELECT conversation_id, {taken}, {taken}, gen_random_uuid(), session_id, user_id, role,
                   'a ghost', now()
            FROM voice.messages ORDER BY seq LIMIT 1
            """
        )
        for _ in range(3):
            await all_turns([browser])
        await until(is_counted(stage, relay, "relay_journal_condemned_total", 1.0), 20)
        (line,) = (relay_data(stage) / "condemned.jsonl").read_text().splitlines()
        record = json.loads(line)["record"]
        assert (record["role"], record["content"]) == browser.bubbles[taken]
        others = {line for seq, line in browser.bubbles.items() if seq != taken}
        await until(are_stored(stage, [browser], [others]), 20)
    assert taken not in browser.saved
    assert "message_conflict" in relay.output
    assert record["content"] not in relay.output
    await stage.stop_relays()


# --- what the tests do ---------------------------------------------------------------------------


async def talk_while_failing(stage, relay, browsers):
    """All are answered, and the relay has noticed."""
    await all_turns(browsers)
    await until(is_counted(stage, relay, "relay_journal_failing", 1.0), 20)
    await all_turns(browsers)


async def all_turns(browsers):
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        turns = [tasks.create_task(browser.turn(20)) for browser in browsers]
    assert all(turn.result() for turn in turns), "a conversation fell silent"


def is_counted(stage, relay, name, value):
    async def look():
        return await relay.metric(stage.http, name) == value

    return look


def are_stored(stage, browsers, told):
    async def look():
        connection = await asyncpg.connect(stage.database_url)
        try:
            stored = [set((await stored_of(connection, one)).values()) for one in browsers]
        finally:
            await connection.close()
        return all(some <= all_ for some, all_ in zip(told, stored, strict=True))

    return look


def relay_data(stage):
    return stage.folder / "data1" / "journal"


async def is_well(stage, relay, browsers, *, lost=0.0):
    """It runs, takes work, lost nothing, has said nothing of what people said, and ends well."""
    ready = await stage.http.get(f"{relay.url}/health/ready")
    assert ready.status_code == 200, ready.text
    assert await relay.metric(stage.http, "relay_journal_lost_total") == lost
    assert not (relay_data(stage) / "condemned.jsonl").exists()
    await stage.stop_relays()
    assert relay.process.returncode == 0
    for browser in browsers:
        assert browser.sessions == 1
        for _, content in browser.told:
            assert content not in relay.output
