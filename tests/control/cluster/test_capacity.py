"""How several nodes share the agents of a project, on a real Postgres."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from control.cluster.capacity import Capacity
from control.db import ownership
from control.db.store import Store
from relay.live.quotas import AgentQuota
from tests.control.cluster.test_heartbeat import fetch, silence


def make(store, limit=20):
    return Capacity(store, uuid4(), AgentQuota(limit))


def enter(capacity, count):
    """So many sessions begin, as far as they may; how many did."""
    share = capacity._share
    return sum(share.enter((capacity._node_id, share.used)) for _ in range(count))


async def begin(capacity, count):
    """The same, asking for more where the part is used up."""
    began = 0
    for _ in range(count):
        if not enter(capacity, 1):
            await capacity.grow()
            if not enter(capacity, 1):
                break
        began += 1
    return began


async def test_one_node_may_have_them_all_and_no_more(store):
    capacity = make(store)

    assert await begin(capacity, 30) == 20
    assert capacity._share.headroom == 0


async def test_two_nodes_have_together_what_one_may_have(store):
    one, two = make(store), make(store)

    began = await asyncio.gather(begin(one, 30), begin(two, 30))

    assert sum(began) == 20


async def test_what_is_to_spare_is_shared_by_all_nodes(store):
    nodes = [make(store, limit=100) for _ in range(5)]
    for _ in range(2):  # the first ones hear of the others
        for capacity in nodes:
            await capacity.ask()

    assert [capacity._share.size for capacity in nodes] == [2] * 5
    assert nodes[-1]._share.free == 90


async def test_what_is_not_needed_goes_back(store):
    one, two = make(store), make(store)
    await begin(one, 20)
    assert await begin(two, 1) == 0
    for key in list(one._share._keys)[:5]:
        one._share.leave(key)

    await one.ask()

    assert await begin(two, 9) == 5


async def test_while_another_is_hungry_nobody_keeps_some_to_spare(store):
    one, two = make(store), make(store)
    await begin(one, 19)  # and one to spare
    await two.grow()
    assert one._share.size == 20
    assert not enter(two, 1)

    await one.ask()

    assert one._share.size == 19
    assert await begin(two, 5) == 1


async def test_a_node_that_died_has_none(store):
    one, two = make(store), make(store)
    await begin(one, 20)
    await silence(store, one._node_id, 19.0)
    assert await begin(two, 5) == 0
    await silence(store, one._node_id, 21.0)

    assert await begin(two, 5) == 5


async def test_a_node_that_was_taken_for_dead_keeps_what_it_uses_and_gets_no_more(store):
    one, two = make(store), make(store)
    await begin(one, 15)
    await silence(store, one._node_id, 60.0)
    await begin(two, 20)

    await one.ask()

    assert (one._share.size, one._share.used) == (15, 15)
    assert not enter(one, 1)
    await two.ask()
    assert two._share.headroom == 0


async def test_a_node_that_leaves_gives_everything_back(store):
    one, two = make(store), make(store)
    await begin(one, 20)

    async with store.transaction() as connection:
        await ownership.leave(connection, one._node_id)

    assert await begin(two, 30) == 20
    rows = await fetch(store, "SELECT node_id FROM voice.agent_shares")
    assert [row["node_id"] for row in rows] == [two._node_id]


async def test_without_a_database_the_last_part_holds(store, caplog):
    away = Store("postgresql://u:p@127.0.0.1:1/x")
    await away.open()
    capacity = make(store)
    await begin(capacity, 3)
    size = capacity._share.size
    capacity._store = away

    assert enter(capacity, 20) == size - 3
    await capacity.grow()
    async with capacity.running(), asyncio.timeout(5):
        while "governor_unavailable" not in caplog.text:  # noqa: ASYNC110 (a log has no event)
            await asyncio.sleep(0.01)

    assert capacity._share.size == size
    await away.close()


async def test_without_a_limit_nobody_is_asked():
    capacity = make(Store("postgresql://u:p@127.0.0.1:1/x"), limit=0)

    async with capacity.running():
        assert enter(capacity, 100) == 100


async def test_it_balances_by_itself(store):
    capacity = make(store)

    async with capacity.running(), asyncio.timeout(5):
        while not capacity._share.size:  # noqa: ASYNC110 (its own beat is what we wait for)
            await asyncio.sleep(0.01)

    assert enter(capacity, 1) == 1


steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["begin", "end", "ask", "die"])), max_size=40
)


@asynccontextmanager
async def opened(url):
    store = Store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("limit", [1, 5])
def test_together_they_never_have_more(postgres, template, limit, request):
    """Any order of beginnings, ends, deaths and balancing, of three nodes."""
    from tests.conftest import _execute, _with_database

    name = f"test_{uuid4().hex}"
    asyncio.run(_execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template}"))
    url = _with_database(postgres, name)

    @given(steps)
    @hypothesis_settings(max_examples=15, deadline=None)
    def play(asked):
        asyncio.run(run(asked))

    async def run(asked):
        async with opened(url) as store:
            await fetch(store, "DELETE FROM voice.nodes")
            nodes = [make(store, limit) for _ in range(3)]
            for number, what in asked:
                capacity = nodes[number]
                if what == "begin":
                    await begin(capacity, 2)
                elif what == "end" and capacity._share.used:
                    capacity._share.leave(next(iter(capacity._share._keys)))
                elif what == "ask":
                    await capacity.ask()
                elif what == "die":
                    await silence(store, capacity._node_id, 60.0)
                    nodes[number] = make(store, limit)
                assert sum(one._share.used for one in nodes) <= limit

    play()
