"""Heartbeats, death and what the dead have left, on a real Postgres."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from control.cluster.heartbeat import Heartbeat
from control.db import audit, ownership
from control.db.conversations import create_conversation
from control.db.store import Store, StoreUnavailable
from relay.journal.segment import DiskFailed

GRACE = 30.0


@pytest.fixture
def clock():
    """A clock that stands still until it is told: `clock.now`."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    return Clock()


class SessionRegistry:
    """No live sessions, unless a test puts some here: `owned`; `lost` are those that it ended."""

    def __init__(self):
        self.owned = {}
        self.lost = {}
        self.is_drained = False

    def epoch(self, session_id):
        return self.owned.get(session_id)

    def hang_up(self, session_id, reason):
        self.lost[session_id] = reason
        del self.owned[session_id]


def make_node(store, database_url, **given):
    return Heartbeat(store, SessionRegistry(), database_url, node_id=uuid4(), grace=GRACE, **given)


async def fetch(store, sql, *arguments):
    async with store.transaction() as connection:
        return await connection.fetch(sql, *arguments)


async def nodes(store):
    return [row["id"] for row in await fetch(store, "SELECT id FROM voice.nodes ORDER BY id")]


async def silence(store, node_id, seconds):
    """As if it had not been seen for so long."""
    await fetch(
        store,
        "UPDATE voice.nodes SET seen_at = now() - make_interval(secs => $2) WHERE id = $1",
        node_id,
        float(seconds),
    )


async def add_session(store, node_id, state="live"):
    session_id, conversation_id = uuid4(), uuid4()
    await create_conversation(store, conversation_id, user_id="user")
    await fetch(
        store,
        "INSERT INTO voice.sessions (id, conversation_id, user_id, ticket_hash, ticket_expires_at,"
        " timezone, audio, node_id, state, epoch)"
        " VALUES ($1, $2, 'user', 'x', now(), 'UTC', '{}', $3, $4, 1)",
        session_id,
        conversation_id,
        node_id,
        state,
    )
    return session_id


async def state_of(store, session_id):
    [row] = await fetch(
        store, "SELECT state, end_reason FROM voice.sessions WHERE id = $1", session_id
    )
    return tuple(row)


async def test_a_node_is_known_while_it_runs_and_not_after_that(store, database_url):
    node = make_node(store, database_url)

    async with node.running():
        async with asyncio.timeout(5):
            while not await nodes(store):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await nodes(store) == [node.id]

    assert await nodes(store) == []


async def test_a_node_that_leaves_sessions_behind_is_remembered(store, database_url):
    node = make_node(store, database_url)
    await node.beat()
    await add_session(store, node.id)

    async with node.running():
        pass

    assert await nodes(store) == [node.id]


async def test_sessions_of_the_dead_end_after_the_grace_time_and_their_node_is_forgotten(
    store, database_url, clock
):
    node, dead = make_node(store, database_url, clock=clock), uuid4()
    await node.beat()
    async with store.transaction() as connection:
        await ownership.beat(connection, dead)
    left, ours = await add_session(store, dead), await add_session(store, node.id)
    node._session_registry.owned[ours] = 1
    began = await add_session(store, dead, state="new")
    await silence(store, dead, ownership.DEAD_SECONDS + GRACE - 1)

    clock.now += 1000
    await node.beat()
    assert await state_of(store, left) == ("live", None)

    await silence(store, dead, ownership.DEAD_SECONDS + GRACE + 1)
    await node.beat()

    assert await state_of(store, left) == await state_of(store, began) == ("ended", "node_lost")
    assert await state_of(store, ours) == ("live", None)
    assert await nodes(store) == [node.id]


async def test_three_of_many_nodes_look_after_what_the_dead_leave(store, database_url, clock):
    living = [make_node(store, database_url, clock=clock) for _ in range(5)]
    living.sort(key=lambda node: node.id)
    for node in living:
        await node.beat()
    clock.now += 1000
    swept = []
    for node in reversed(living):
        left = await add_session(store, uuid4())  # of a node that nobody knows
        await node.beat()
        swept.append(await state_of(store, left) == ("ended", "node_lost"))

    assert swept[::-1] == [True, True, True, False, False]

    await silence(store, living[0].id, ownership.DEAD_SECONDS + 1)
    left = await add_session(store, uuid4())
    await living[3].beat()
    assert await state_of(store, left) == ("ended", "node_lost")


async def test_who_could_not_reach_the_database_does_not_take_others_for_dead(
    store, database_url, clock, monkeypatch
):
    node, other = make_node(store, database_url, clock=clock), uuid4()
    await node.beat()
    async with store.transaction() as connection:
        await ownership.beat(connection, other)
    theirs = await add_session(store, other)
    with monkeypatch.context() as outage:
        away = Store("postgresql://127.0.0.1:1/none")
        await away.open()
        outage.setattr(node, "_store", away)
        with pytest.raises(StoreUnavailable):
            await node.beat()
        await away.close()
    await silence(store, other, 1000)

    clock.now += 1000
    await node.beat()
    assert await state_of(store, theirs) == ("live", None)

    clock.now += ownership.DEAD_SECONDS + GRACE
    await node.beat()
    assert await state_of(store, theirs) == ("ended", "node_lost")


async def test_a_node_goes_on_without_a_database(caplog):
    nowhere = "postgresql://127.0.0.1:1/none"
    store = Store(nowhere)
    await store.open()
    node = make_node(store, nowhere)

    async with node.running(), asyncio.timeout(5):
        while "node_unseen" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await store.close()

    assert caplog.text.count("node_unseen") == 1


async def note_erasure(store, outcome):
    async with store.transaction() as connection:
        await audit.note(connection, "key", audit.ERASED, None, outcome)


async def test_a_node_clears_its_files_once_after_each_erasure_that_is_done(store, database_url):
    cleared = []

    async def clear():
        cleared.append(len(cleared))

    node = make_node(store, database_url, clear=clear)
    await note_erasure(store, None)  # begun, and not done
    await node.beat()
    assert cleared == []

    for number in (1, 2):
        await note_erasure(store, {})
        await node.beat()
        await node.beat()
        assert len(cleared) == number


async def test_files_that_cannot_be_cleared_are_tried_with_the_next_heartbeat(
    store, database_url, caplog
):
    tried = []

    async def clear():
        tried.append(len(tried))
        if len(tried) == 1:
            raise DiskFailed("read-only")

    node = make_node(store, database_url, clear=clear)
    await note_erasure(store, {})

    for _ in range(3):
        await node.beat()

    assert len(tried) == 2
    assert "leftovers_not_cleared reason=read-only" in caplog.text
