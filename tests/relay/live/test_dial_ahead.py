"""Agents dialled before their browser comes."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
from websockets.asyncio.server import serve

from relay.live import dial_ahead
from relay.live.dial_ahead import DialAhead
from relay.live.quotas import AgentQuota
from relay.supervisor import Supervisor
from relay.telemetry.metrics import Metrics
from relay.transport.connection import Connection
from relay.transport.connection_handler import BufferingHandler
from relay.transport.dial import DialFailed
from relay.transport.send_queue import SendQueue
from tests.relay.wires import ABOUT, LIMITS, Agent, agent_and_relay, next_event, relaying


async def reached(condition):
    """Give the event loop turns until something is so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (turns of the loop are what we wait for)
            await asyncio.sleep(0)


@asynccontextmanager
async def waiting(dial, **more):
    metrics = Metrics()
    more = {"share": AgentQuota()} | more
    ahead = DialAhead(
        dial, lambda: Connection(SendQueue(100), max_message_bytes=100), metrics, **more
    )
    async with Supervisor(metrics).containing("session", seconds=5.0) as tasks:
        yield ahead, tasks
        ahead.close()


async def test_an_agent_that_was_dialled_ahead_is_used_and_dialled_once():
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        await agent.connected.wait()

        async with relay.attach(session_id) as browser:
            kinds = [json.loads(await browser.recv())["type"] for _ in range(3)]

        assert kinds == ["RelaySession", "Welcome", "SettingsApplied"]
        assert len(agent.connections) == 1
        assert [text["type"] for text in agent.texts] == ["Settings"]
        assert b'relay_dialled_ahead_total{outcome="used"} 1.0' in relay.metrics.text()


async def test_no_settings_are_sent_before_the_browser_has_come():
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        await agent.connected.wait()
        pong = await agent.connections[0].ping()
        await pong

        assert agent.texts == []
        async with relay.attach(session_id) as browser:
            await next_event(browser, "SettingsApplied")


async def test_a_browser_that_comes_while_the_agent_is_still_dialled_waits_for_it():
    agent = Agent()
    go_on = asyncio.Event()

    async def slowly(connection, request):
        await go_on.wait()

    async with serve(agent.handle, "127.0.0.1", 0, process_request=slowly) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay:
            session_id = uuid4()
            relay.session_registry.expect(session_id, ABOUT)
            async with relay.attach(session_id) as browser:
                await next_event(browser, "RelaySession")
                go_on.set()
                await next_event(browser, "SettingsApplied")
            assert len(agent.connections) == 1


async def test_an_agent_that_left_meanwhile_is_dialled_again():
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        await agent.connected.wait()
        await agent.connections[0].close()
        dialled = relay.session_registry._ahead._waiting[session_id]
        await reached(lambda: dialled.connection.is_closed)

        async with relay.attach(session_id) as browser:
            await next_event(browser, "SettingsApplied")

        assert len(agent.connections) == 2
        assert b'relay_dialled_ahead_total{outcome="failed"} 1.0' in relay.metrics.text()
        assert b'outcome="missed"' not in relay.metrics.text()


async def test_one_that_was_not_dialled_is_counted_as_missed_and_one_too_many_as_full():
    async with agent_and_relay() as (_, relay):
        for _ in range(LIMITS.dial_ahead + 1):
            relay.session_registry.expect(uuid4(), ABOUT)
        async with relay.attach(uuid4()) as browser:
            await next_event(browser, "SettingsApplied")

        assert b'relay_dialled_ahead_total{outcome="full"} 1.0' in relay.metrics.text()
        assert b'relay_dialled_ahead_total{outcome="missed"} 1.0' in relay.metrics.text()


async def test_what_nobody_comes_for_is_closed():
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        dialled = relay.session_registry._ahead._waiting[session_id]
        await reached(lambda: dialled.connection.is_open)
        relay.session_registry._ahead._expire(session_id)

        async with asyncio.timeout(5):
            await agent.gone.wait()
        assert agent.closed[0] == 1000
        assert b'relay_dialled_ahead_total{outcome="expired"} 1.0' in relay.metrics.text()


async def test_hanging_up_a_session_that_nobody_attached_to_closes_its_agent():
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        await agent.connected.wait()

        relay.session_registry.hang_up(session_id)

        async with asyncio.timeout(5):
            await agent.gone.wait()
        assert b'relay_dialled_ahead_total{outcome="cancelled"} 1.0' in relay.metrics.text()


async def test_it_expires_by_itself(monkeypatch):
    monkeypatch.setattr(dial_ahead, "KEPT_SECONDS", 0.0)

    async def dial(connection):
        await asyncio.Event().wait()

    async with waiting(dial, limit=2) as (ahead, tasks):
        ahead.begin(uuid4(), tasks)
        await reached(lambda: len(ahead) == 0)


async def test_at_most_so_many_wait_and_zero_turns_it_off():
    async with agent_and_relay() as (_, relay):
        for _ in range(10):
            relay.session_registry.expect(uuid4(), ABOUT)
        assert len(relay.session_registry._ahead) == LIMITS.dial_ahead

    limits = msgspec.structs.replace(LIMITS, dial_ahead=0)
    async with agent_and_relay(limits=limits) as (_, relay):
        relay.session_registry.expect(uuid4(), ABOUT)
        assert len(relay.session_registry._ahead) == 0


async def test_a_dial_that_failed_is_not_handed_over():
    async def dial(connection):
        raise DialFailed("no")

    async with waiting(dial, limit=2) as (ahead, tasks):
        session_id = uuid4()
        ahead.begin(session_id, tasks)
        ahead.begin(session_id, tasks)
        await reached(lambda: ahead._waiting[session_id].task.done())

        assert ahead.take(session_id) is None
        assert ahead.take(session_id) is None
        assert b'outcome="failed"} 1.0' in ahead._metrics.text()


async def test_a_relay_that_stops_leaves_no_agent_behind():
    agent = Agent()
    async with serve(agent.handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay:
            relay.session_registry.expect(uuid4(), ABOUT)
            await agent.connected.wait()
        async with asyncio.timeout(5):
            await agent.gone.wait()


async def test_an_agent_that_talks_to_nobody_is_cut_off():
    connection = Connection(SendQueue(100), max_message_bytes=100)
    connection.listen(BufferingHandler(connection.abort))
    for _ in range(17):
        connection.handler.on_text(b"{}")

    assert connection.is_closed


async def test_an_agent_that_is_not_in_the_share_is_not_dialled_ahead():
    dialled = []

    async def dial(connection):
        dialled.append(connection)
        await asyncio.Event().wait()

    share = AgentQuota(10)
    share.resize(1, 0)
    async with waiting(dial, limit=4, share=share) as (ahead, tasks):
        first = uuid4()
        ahead.begin(first, tasks)
        ahead.begin(uuid4(), tasks)
        await reached(lambda: dialled)

        assert (len(ahead), share.used) == (1, 1)
        ahead.cancel(first)
        assert share.used == 0
