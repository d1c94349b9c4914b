"""relay/transport/fallback_dial.py over real sockets: two agents, of which one is away."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from relay.sandbox.options import Options
from relay.sandbox.server import serve
from relay.transport import fallback_dial as module
from relay.transport.connection import Connection
from relay.transport.dial import DialFailed, Dialler
from relay.transport.fallback_dial import FallbackDial
from relay.transport.send_queue import SendQueue

SECONDS = 0.2


@asynccontextmanager
async def silent_agent():
    """It takes connections and never answers; yields its address and a queue of those who came."""
    came = asyncio.Queue()
    gone = asyncio.Event()

    async def hear(reader, writer):
        came.put_nowait(writer)
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}/v1/agent/converse", came
        gone.set()


def dialler(url):
    return Dialler(url, lambda: "key", ping_seconds=5, seconds=5, max_message_bytes=1 << 20).dial


def both(first, second):
    return FallbackDial(dialler(first), dialler(second), SECONDS)


async def dial(ways):
    connection = Connection(SendQueue(1024), max_message_bytes=1 << 20)
    try:
        await ways.dial(connection)
        assert connection.is_open
    finally:
        connection.abort()


@pytest.fixture
async def well():
    async with serve(Options()) as agent:
        yield agent


@pytest.mark.parametrize("status", [401, 404, 429, 503])
async def test_where_the_first_refuses_the_second_is_dialled(well, status, caplog):
    with caplog.at_level(logging.WARNING):
        async with serve(Options(refuse=status)) as refusing:
            await dial(both(refusing.agent_url, well.agent_url))

    await well.session()
    assert [
        line for line in caplog.messages if f"HTTP {status}" in line and "agent_fallback" in line
    ]


async def test_where_the_first_does_not_answer_the_second_is_dialled_in_time(well):
    async with silent_agent() as (url, came):
        async with asyncio.timeout(SECONDS + 2):
            await dial(both(url, well.agent_url))

        assert came.qsize() == 1


async def test_the_second_is_left_alone_while_the_first_is_well(well):
    async with serve(Options()) as other:
        await dial(both(well.agent_url, other.agent_url))

        assert len(other.sessions) == 0


async def test_who_was_away_is_not_waited_for_each_time_and_gets_another_chance(well, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    async with silent_agent() as (url, came):
        ways = both(url, well.agent_url)
        for _ in range(3):
            await dial(ways)
        assert came.qsize() == 1

        now += module.AWAY_SECONDS
        await dial(ways)

        assert came.qsize() == 2


async def test_when_the_second_fails_too_the_first_is_dialled_again(well):
    async with serve(Options(refuse=503)) as broken:
        ways = both(broken.agent_url, well.agent_url)
        await dial(ways)
        ways._fallback, ways._dial = ways._dial, ways._fallback  # they change places
        await dial(ways)
        await dial(ways)

    assert len(well.sessions) == 3


@pytest.mark.parametrize(
    ("first", "second", "told"), [(503, 401, 503), (401, 503, 503), (401, 404, 401)]
)
async def test_when_both_fail_it_is_told_what_another_try_may_mend(first, second, told):
    async with serve(Options(refuse=first)) as one, serve(Options(refuse=second)) as other:
        with pytest.raises(DialFailed) as caught:
            await dial(both(one.agent_url, other.agent_url))

    assert caught.value.status == told
    assert f"HTTP {first}" in str(caught.value)
    assert f"HTTP {second}" in str(caught.value)
    assert caught.value.body


async def test_given_up_it_leaves_no_socket_behind(well):
    async with silent_agent() as (url, came):
        ways = FallbackDial(dialler(url), dialler(well.agent_url), 60.0)
        task = asyncio.create_task(dial(ways))
        async with asyncio.timeout(5):
            await came.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert len(well.sessions) == 0
