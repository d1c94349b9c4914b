"""Erasing: by the user, by age; and what is still in the journal does not come back."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from control.db import grants, retention
from control.db.conversations import create_conversation, erase_conversation, get_conversation
from control.db.grants import Grant
from control.db.retention import erase_old, running, sweep
from control.db.sessions import create_session
from control.db.store import Store, StoreUnavailable
from relay.journal import adoption
from relay.journal import journal as journal_module
from relay.journal.journal import Journal, WriteFailed
from relay.protocol.relay_events import IntentStatus
from relay.supervisor import Supervisor
from relay.telemetry.metrics import Metrics
from tests.control.cluster.test_heartbeat import fetch
from tests.control.db.test_conversations import USER, called, converse, new_session, said
from tests.disk import files_with

SECRET = "the-words-that-nobody-may-find"
TABLES = ("conversations", "messages", "intents", "sessions")


async def counts(store):
    return [(await fetch(store, f"SELECT count(*) FROM voice.{t}"))[0][0] for t in TABLES]


async def age(store, conversation_id, days):
    await fetch(
        store,
        "UPDATE voice.conversations SET updated_at = now() - make_interval(days => $2)"
        " WHERE id = $1",
        conversation_id,
        days,
    )


class Gate:
    """Writes to the store once it may."""

    def __init__(self, store):
        self.store = store
        self.tried = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, records):
        self.tried.set()
        await self.open.wait()
        await self.store.write(records)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(journal_module, "TIDY_SECONDS", 0.05)
    monkeypatch.setattr(adoption, "SWEEP_SECONDS", 0.05)


async def until_gone(directory):
    async with asyncio.timeout(5):
        while files_with(directory, SECRET):  # noqa: ASYNC110 (the files have no event)
            await asyncio.sleep(0.01)


async def test_what_waits_in_the_journal_does_not_come_back_when_it_was_erased(
    store, tmp_path, quick
):
    gate = Gate(store)
    journal = Journal(gate, Metrics(), tmp_path)
    async with journal.running(grace=2.0):
        conversation = await create_conversation(store, uuid7(), user_id=USER)
        journal.append(said(conversation.id, 1, SECRET))
        journal.append(called(conversation.id, id=uuid7(), arguments=f'"{SECRET}"'))
        await gate.tried.wait()
        assert files_with(tmp_path, SECRET)

        await erase_conversation(store, conversation.id, user_id=USER)
        journal.append(said(conversation.id, 2, SECRET))  # its session ends a moment later
        gate.open.set()

        assert await journal.settled(5.0)
        assert await counts(store) == [0, 0, 0, 0]
        await until_gone(tmp_path)


async def test_what_a_dead_process_left_does_not_come_back_either(store, tmp_path, quick):
    async def away(records):
        raise WriteFailed("away")

    conversation_id = await converse(store, "hello")
    dead = Journal(away, Metrics(), tmp_path)
    async with dead.running(grace=0.0):
        dead.append(said(conversation_id, 2, SECRET))
    assert files_with(tmp_path, SECRET)
    await erase_conversation(store, conversation_id, user_id=USER)

    heir = Journal(store.write, Metrics(), tmp_path)
    async with heir.running(grace=2.0):
        assert await heir.settled(5.0)

        assert await counts(store) == [0, 0, 0, 0]
        await until_gone(tmp_path)


async def test_what_is_old_is_erased_with_all_that_is_in_it(store):
    old = await converse(store, "hello")
    await create_session(store, new_session(old, ticket_seconds=0.0), resume=True)
    await store.write([called(old, id=uuid7(), status=IntentStatus.SUBMITTED)])
    young = await converse(store, "hello")
    await age(store, old, 31)
    await age(store, young, 29)

    assert await sweep(store, 30) == 1

    assert await counts(store) == [1, 1, 0, 0]
    assert await get_conversation(store, young, user_id=USER)


async def test_what_still_has_a_call_on_its_way_stays(store):
    old = await converse(store, "hello")
    await store.write([called(old, id=uuid7())])
    await age(store, old, 31)

    assert await sweep(store, 30) == 0


async def test_much_is_erased_a_little_at_a_time(store, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(7):
        await age(store, await converse(store, "hello"), 31)

    async with store.transaction() as connection:
        assert await erase_old(connection, 30, limit=3) == 3
    assert await sweep(store, 30) == 4


async def test_one_node_at_a_time(store, database_url):
    await age(store, await converse(store, "hello"), 31)
    other = Store(database_url)
    await other.open()
    try:
        async with other.transaction() as connection:
            assert await erase_old(connection, 30, limit=1) == 1
            assert await sweep(store, 30) == 0
    finally:
        await other.close()


async def test_it_looks_by_itself_and_not_at_all_without_days(store):
    kept = await converse(store, "hello")
    await age(store, kept, 10_000)
    async with running(store, 0, Supervisor()):
        pass
    assert await get_conversation(store, kept, user_id=USER)

    async with running(store, 30, Supervisor()), asyncio.timeout(5):
        while await get_conversation(store, kept, user_id=USER):  # noqa: ASYNC110 (its own look)
            await asyncio.sleep(0.01)


async def test_without_a_database_it_is_tried_later(caplog):
    away = Store("postgresql://u:p@127.0.0.1:1/x")
    await away.open()
    with pytest.raises(StoreUnavailable):
        await sweep(away, 30)

    async with running(away, 30, Supervisor()), asyncio.timeout(5):
        while "retention_delayed" not in caplog.text:  # noqa: ASYNC110 (a log has no event)
            await asyncio.sleep(0.01)
    await away.close()


async def begin_again(store, conversation_id, **row):
    """Somebody resumes it: a session that then is as `row` says."""
    session = new_session(conversation_id, id=uuid7())
    await create_session(store, session, resume=True)
    for column, value in row.items():
        await fetch(
            store, f"UPDATE voice.sessions SET {column} = {value} WHERE id = $1", session.id
        )


@pytest.mark.parametrize(
    ("row", "is_kept"),
    [
        ({}, True),  # a ticket that is good
        ({"ticket_expires_at": "now()"}, False),
        ({"ticket_expires_at": "now()", "ticket_used_at": "now()"}, True),
        ({"state": "'live'"}, True),
        ({"state": "'live'", "transport": "'direct'", "started_at": "now()"}, True),
        (
            {"state": "'live'", "transport": "'direct'", "started_at": "now() - '2 d'::interval"},
            False,
        ),
        ({"state": "'ended'", "ended_at": "now()"}, True),  # perhaps taken over in a moment
        ({"state": "'ended'", "ended_at": "now() - '2 hours'::interval"}, False),
    ],
)
async def test_what_is_being_resumed_is_not_erased(store, row, is_kept):
    old = await converse(store, "hello")
    await begin_again(store, old, **row)
    await age(store, old, 31)

    assert await sweep(store, 30) == (0 if is_kept else 1)


async def test_a_grant_for_a_conversation_keeps_it(store):
    old = await converse(store, "hello")
    grant = Grant(user_id=USER, conversation_id=old, timezone="UTC")
    await grants.add(store, b"hash", grant, ttl=60)
    await age(store, old, 31)

    assert await sweep(store, 30) == 0


# A table of grants that nobody can finish reading while somebody has the lock 1.
SLOW_GRANTS = """
    ALTER TABLE voice.grants RENAME TO all_grants;
    CREATE FUNCTION voice.read_slowly() RETURNS SETOF voice.all_grants LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN; END';
    CREATE VIEW voice.grants AS SELECT * FROM voice.read_slowly();
"""


async def somebody_waits(connection):
    while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):  # noqa: ASYNC110 (a lock has no event)
        await asyncio.sleep(0.01)


async def test_a_session_that_begins_while_old_ones_are_looked_for_is_not_erased(
    store, database_url
):
    """Retention has seen that nobody has the conversation, and has not locked it yet."""
    old = await converse(store, "hello")
    await age(store, old, 31)
    gate = await asyncpg.connect(database_url)
    await gate.execute(SLOW_GRANTS)
    await gate.execute("SELECT pg_advisory_lock(1)")

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        sweeping = tasks.create_task(sweep(store, 30))
        await somebody_waits(gate)
        assert await create_session(store, new_session(old, id=uuid7()), resume=True)
        await gate.execute("SELECT pg_advisory_unlock(1)")

    assert sweeping.result() == 0
    assert await get_conversation(store, old, user_id=USER)
    await gate.close()


async def test_who_resumes_what_is_just_being_erased_is_told_that_it_is_gone(store):
    old = await converse(store, "hello")
    await age(store, old, 31)

    async with asyncio.timeout(20), store.transaction() as connection:
        assert await erase_old(connection, 30, limit=5) == 1
        session = new_session(old, id=uuid7())
        resuming = asyncio.create_task(create_session(store, session, resume=True))
        await somebody_waits(connection)

    assert await resuming is None
