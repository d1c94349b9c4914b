"""Each measurement runs small, against the real parts; what is asserted is never a time."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec
import pytest

from control.auth.current_user import USER_ID
from control.db.conversations import list_conversations, list_messages
from loadtests import budgets, microbenchmarks
from loadtests.budgets import Standing
from loadtests.environment import Environment, make_certificate
from loadtests.processes import Pinning, ProgramFailed
from loadtests.results import Arm, Results
from loadtests.scenarios import Sizes
from loadtests.systems_under_test import KEY, start
from relay.sandbox.options import Options
from relay.sandbox.server import serve


@pytest.fixture
async def environment(database_url, tmp_path):
    authority, _ = make_certificate(tmp_path)
    async with serve(Options(api_key=KEY, handshake_delay=0.02)) as agent:
        yield Environment(
            folder=tmp_path,
            pinning=Pinning(),
            database_url=database_url,
            database_pid=0,
            agent=agent,
            agent_url=agent.agent_url,
            agent_tls_url="",
            ca=str(authority),
            orchestrator_url="http://127.0.0.1:9",
        )


@pytest.fixture
async def relay(environment):
    async with start(Arm.OURS, environment) as running:
        yield running.endpoint.url


async def count(database_url, sql):
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_all_the_messages_whose_storing_was_timed_are_stored(database_url):
    speed = await microbenchmarks.store_messages(
        database_url, messages=4_500, conversations=7, warm_up=100
    )

    assert speed > 0
    assert await count(database_url, "SELECT count(*) FROM voice.messages") == 4_600
    assert await count(database_url, "SELECT count(*) FROM voice.conversations") == 7


async def test_a_history_is_filled_evenly_and_the_search_still_has_its_index(database_url, store):
    ids = await microbenchmarks.fill_history(database_url, messages=1_000, conversations=10)

    assert len(ids) == 10
    for conversation_id in ids:
        messages = await list_messages(store, conversation_id, limit=200)
        assert [message.seq for message in messages] == list(range(1, 101))
        assert messages[0].role == "user"
    word = messages[0].content.split()[0]
    assert await list_conversations(store, USER_ID, q=word, limit=20)
    assert await count(database_url, "SELECT to_regclass('voice.messages_search')::text")


async def test_pages_are_read_from_a_real_relay(database_url, relay):
    ids = await microbenchmarks.fill_history(database_url, messages=600, conversations=3)

    pages = await microbenchmarks.read_history(relay, ids, pages=20, deepest=150)

    assert pages.count == 20


async def test_a_page_that_is_refused_is_an_error_and_no_figure(relay):
    with pytest.raises(RuntimeError, match="expected 200, got 404"):
        await microbenchmarks.read_history(relay, [UUID(int=1)], pages=1)


@pytest.mark.parametrize("arm", [Arm.DIRECT, Arm.OURS])
async def test_the_wait_is_measured_with_and_without_the_relay(environment, arm):
    wait = await microbenchmarks.wait_for_settings(environment, arm, times=2)

    assert wait.count == 2
    if arm is Arm.DIRECT:
        assert wait.p50 >= 20_000, "the handshake alone takes that"


async def test_an_agent_that_refuses_is_an_error_and_no_figure(environment):
    async with serve(Options(api_key=KEY, refuse=401)) as agent:
        refused = msgspec.structs.replace(environment, agent_url=agent.agent_url)
        with pytest.raises(ProgramFailed):
            await microbenchmarks.wait_for_settings(refused, Arm.DIRECT, times=1)


async def test_every_line_whose_time_was_taken_was_told_and_stored():
    assert await microbenchmarks.time_lines(lines=100, sessions=5) > 0


async def test_calls_are_real_requests():
    assert await microbenchmarks.time_calls(calls=8) > 0


async def test_those_who_attach_at_once_are_all_let_in(environment):
    found = await microbenchmarks.attach_at_once(environment, sessions=3)

    assert found["storm_seconds"] > 0
    assert found["storm_attach_cpu_ms"] > 0


async def test_all_figures_that_need_no_load_are_measured_together(environment):
    said: list[str] = []
    sizes = Sizes(
        stored=500,
        history=2_000,
        pages=10,
        waits=1,
        handshake=0.01,
        taps=0,
        storm=3,
        lines=20,
        calls=8,
    )

    found = await microbenchmarks.measure(environment, sizes, said.append)

    assert said[0] == "storing 500 messages"
    of = Results(started_at=datetime(2026, 1, 2, tzinfo=UTC), figures=found)
    known = {v.name for v in budgets.evaluate(of) if v.standing is not Standing.NOT_MEASURED}
    assert known >= {"ready", "stored", "history"}
