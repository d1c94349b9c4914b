"""An agent that is away, and how often it is dialled meanwhile: each session is bounded by its own
tries, all of them together by a limit, and every browser is told an end."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import socket
import struct
import time
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from relay.core.reconnect import MAX_TRIES
from relay.sandbox.handshake import AGENT_PATH
from tests.chaos.link import Mood
from tests.relay.wires import ABOUT, LIMITS, Agent, next_event, relaying

TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Away:
    """What stands where an agent was; `dials` are the moments at which it was dialled."""

    def __init__(self, how):
        self.how = how
        self.dials = []

    async def handle(self, reader, writer):
        self.dials.append(time.monotonic())
        try:
            await self.how(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # who dials has hung up
        finally:
            writer.close()


def says(answer):
    async def how(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    return how


async def hangs_up(reader, writer):
    pass


async def reads_and_hangs_up(reader, writer):
    await reader.readuntil(b"\r\n\r\n")


async def resets(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


KINDS = {
    "429": says(TOO_MANY),
    "503": says(AWAY),
    "FIN": hangs_up,
    "FIN after the request": reads_and_hangs_up,
    "RST": resets,
    "half an answer": says(b"HTTP/1.1 101 Switching Pro"),
}


@asynccontextmanager
async def away(how, port=0):
    agent = Away(how)
    async with await asyncio.start_server(agent.handle, "127.0.0.1", port, backlog=1024) as server:
        yield agent, server.sockets[0].getsockname()[1]


def limited_dials(relay):
    text = relay.metrics.text().decode()
    return float(re.search(r'relay_dials_total\{outcome="limited"\} (\S+)', text)[1])


async def told_the_end(browser):
    """The code of the RelayError, then that of the close frame."""
    async with asyncio.timeout(30):
        while (event := json.loads(await browser.recv()))["type"] != "RelayError":
            pass
        await browser.wait_closed()
    return event["code"], browser.close_code


async def test_a_session_that_never_gets_an_agent_tries_a_few_times_and_says_so():
    # All tries together take up to 8 s; what ends a session whose set-up is shorter is a race.
    limits = msgspec.structs.replace(LIMITS, setup_seconds=20.0)

    async def count(kind):
        async with (
            away(KINDS[kind]) as (agent, port),
            relaying(f"ws://127.0.0.1:{port}/", limits=limits) as relay,
            relay.attach() as browser,
        ):
            assert await told_the_end(browser) == ("agent_unreachable", 1014), kind
        return len(agent.dials)

    dials = dict(zip(KINDS, await asyncio.gather(*map(count, KINDS)), strict=True))

    assert {kind for kind, count in dials.items() if not 2 <= count <= MAX_TRIES + 1} == set()


def passing_on(port):
    """To whoever listens there, until both sides have ended."""

    async def copy(reader, writer):
        while chunk := await reader.read(65536):
            writer.write(chunk)
        writer.close()

    async def how(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(copy(reader, there[1]))
            tasks.create_task(copy(there[0], writer))

    return how


@asynccontextmanager
async def well():
    """An agent; yields it and its port."""
    agent = Agent()
    async with serve(agent.handle, "127.0.0.1", 0, compression=None) as server:
        yield agent, server.sockets[0].getsockname()[1]


async def test_an_agent_that_hangs_up_once_is_dialled_again():
    async with well() as (_, real_port):
        pass_on = passing_on(real_port)

        async def once(reader, writer):
            if len(agent.dials) > 1:
                await pass_on(reader, writer)

        async with away(once) as (agent, port), relaying(f"ws://127.0.0.1:{port}/") as relay:
            async with relay.attach() as browser:
                await next_event(browser, "SettingsApplied")

            assert len(agent.dials) == 2


async def test_an_agent_that_was_well_and_dies_is_dialled_a_few_times():
    async def count(kind):
        agent = Agent()
        async with serve(agent.handle, "127.0.0.1", 0, compression=None) as server:
            port = server.sockets[0].getsockname()[1]
            async with relaying(f"ws://127.0.0.1:{port}/") as relay, relay.attach() as browser:
                await next_event(browser, "SettingsApplied")
                server.close(close_connections=False)
                async with away(KINDS[kind], port) as (gone, _):
                    agent.connections[-1].transport.abort()

                    assert await told_the_end(browser) == ("agent_unreachable", 1014), kind
                    return len(gone.dials)

    dials = dict(zip(KINDS, await asyncio.gather(*map(count, KINDS)), strict=True))

    assert {kind for kind, count in dials.items() if not 1 <= count <= MAX_TRIES} == set()


async def test_an_agent_that_opens_and_closes_at_once_is_given_up():
    async def leave(connection):
        opened.append(connection)
        await connection.close(1011)

    opened = []
    async with serve(leave, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay, relay.attach() as browser:
            assert (await told_the_end(browser))[1] == 1014

    assert len(opened) <= MAX_TRIES + 1


async def test_retry_after_is_waited_for():
    answer = TOO_MANY.replace(b"\r\n\r\n", b"\r\nRetry-After: 1\r\n\r\n")
    async with (
        away(says(answer)) as (agent, port),
        relaying(f"ws://127.0.0.1:{port}/") as relay,
        relay.attach() as browser,
    ):
        assert (await told_the_end(browser))[0] == "agent_unreachable"

    gaps = [b - a for a, b in zip(agent.dials, agent.dials[1:], strict=False)]
    assert gaps
    assert min(gaps) > 0.95


@pytest.mark.parametrize("seconds", [b"3600", b"999999999999"])
async def test_retry_after_of_an_hour_ends_a_session_that_has_not_begun(seconds):
    answer = AWAY.replace(b"\r\n\r\n", b"\r\nRetry-After: " + seconds + b"\r\n\r\n")
    async with (
        away(says(answer)) as (agent, port),
        relaying(f"ws://127.0.0.1:{port}/") as relay,
        relay.attach() as browser,
    ):
        assert await told_the_end(browser) == ("agent_unreachable", 1014)

    assert len(agent.dials) == 1


@pytest.fixture
def logged():
    """What the relay logs from now on."""
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    handler, logger = Lines(), logging.getLogger("relay")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


async def test_fifty_sessions_do_not_storm_an_agent_that_is_away(logged):
    limits = msgspec.structs.replace(LIMITS, setup_seconds=10.0)
    async with (
        away(KINDS["429"]) as (agent, port),
        relaying(f"ws://127.0.0.1:{port}/", limits=limits) as relay,
    ):

        async def come():
            async with relay.attach() as browser:
                return await told_the_end(browser)

        ends = await asyncio.gather(*[come() for _ in range(50)])
        assert set(ends) == {("agent_unreachable", 1014)}
        limited = limited_dials(relay)

    began = agent.dials[0]
    first = sum(at - began < 1.0 for at in agent.dials)
    later = len(agent.dials) - first
    assert first <= 60
    assert later <= 5 * (agent.dials[-1] - began + 1)
    lines = [line for line in logged if line.startswith(("agent_redialled", "dials_"))]
    assert len(lines) <= 5
    assert "dials_limited" in " ".join(lines)
    assert limited > 100


async def test_the_first_that_gets_through_lets_all_others_go():
    async with (
        well() as (_, real_port),
        away(KINDS["503"]) as (gone, port),
        relaying(f"ws://127.0.0.1:{port}/") as relay,
    ):

        async def come():
            async with relay.attach() as browser:
                await told_the_end(browser)

        await asyncio.gather(*[come() for _ in range(12)])
        assert limited_dials(relay) > 0
        gone.how = passing_on(real_port)
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
        limited = limited_dials(relay)
        for _ in range(8):
            async with relay.attach() as browser:
                await next_event(browser, "SettingsApplied")

        assert limited_dials(relay) == limited


class Broken(Exception):
    """Something that nobody foresaw."""


@pytest.mark.parametrize("ahead", [False, True])
async def test_a_dial_that_breaks_in_an_unforeseen_way_ends_one_session(ahead, logged):
    agent = Agent()
    async with serve(agent.handle, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay, relay.attach() as neighbour:
            await next_event(neighbour, "SettingsApplied")
            dial: Any = relay.session_registry._dial
            gate = dial.__self__
            well = gate._dial

            async def broken(connection):
                raise Broken

            gate._dial = broken
            victim = relay.attach()
            if ahead:
                relay.session_registry.expect(relay.session_id, ABOUT)
            async with victim as browser:
                assert await told_the_end(browser) == ("agent_unreachable", 1014)
            gate._dial = well
            await neighbour.send(b"\1\1")
            # Who was silent for 4 s meanwhile has sent some silence, too.
            await agent.until(lambda: agent.audio[-1:] == [b"\1\1"])
            async with relay.attach() as another:
                await next_event(another, "SettingsApplied")

            assert b'relay_dials_total{outcome="broken"}' in relay.metrics.text()
            (traceback, *_) = [line for line in logged if line.startswith("dial_broken")]
            assert "raise Broken" in traceback


@pytest.mark.parametrize("mood", [Mood.TOO_MANY, Mood.REFUSING, Mood.SLOW])
async def test_the_program_with_another_agent_goes_on_there(stage, mood):
    """The first refuses, resets or does not answer, for new sessions and in the middle of one."""
    other = f"ws://127.0.0.1:{stage.sandbox.port}{AGENT_PATH}"
    relay = stage.relay(DEEPGRAM_AGENT_FALLBACK_URL=other, RELAY_SETUP_SECONDS="3")
    await relay.start()
    async with stage.people(random.Random(1), 1) as (old,):
        stage.agent_link.mood, stage.agent_link.delay = mood, 60.0
        stage.agent_link.cut()
        assert await old.until(lambda: old.reconnected_at, 5)
        await old.turn_at_last(10)
        async with stage.people(random.Random(2), 1) as (new,):
            await stage.settle([old, new])
            assert [one.sessions + one.returns for one in (old, new)] == [1, 1]
    assert "agent_fallback" in relay.output
    await stage.stop_relays()


async def test_the_program_with_an_agent_that_answers_429(stage):
    """What was seen: 250 dials a second for a minute, no end, 16,000 log lines."""
    relay = stage.relay(RELAY_DIAL_AHEAD="0", RELAY_SESSIONS_PER_ADDRESS="100")
    await relay.start()
    stage.agent_link.mood = Mood.TOO_MANY

    async def come(number):
        begun = await stage.http.post(f"{relay.url}/api/v1/voice/session", json={})
        assert begun.status_code == 201, begun.text
        session, ticket = begun.json()["session_id"], begun.json()["ticket"]
        url = f"ws://127.0.0.1:{relay.port}/api/v1/voice/session/{session}/ws"
        async with connect(url, subprotocols=["relay.v1", ticket]) as browser:
            return await told_the_end(browser)

    began = time.monotonic()
    ends = await asyncio.gather(*[come(number) for number in range(30)])
    took = time.monotonic() - began

    assert set(ends) == {("agent_unreachable", 1014)}
    assert stage.agent_link.opened <= 40 + 5 * took
    lines = [line for line in relay.output.splitlines() if "agent_redialled" in line]
    assert 1 <= len(lines) <= 1 + took / 5
    assert relay.is_running
    stage.agent_link.mood = Mood.WELL
    async with stage.people(random.Random(1), 1) as browsers:
        await stage.settle(browsers)
    await stage.stop_relays()
