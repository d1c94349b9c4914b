"""Peers that send control frames without end, and read nothing of what they get back."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from pathlib import Path

import pytest

from tests.chaos.stage import until
from tests.outside.raw import begin, connected, read_answer, upgrade

MIB = 1 << 20
MOST = 6 * MIB  # what a process may grow by; it was 1,427 MiB in 6 s
SECONDS = 3.0
MASK = bytes(4)


def control(opcode, payload=b"x" * 125):
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + MASK + payload


PING, PONG = control(9), control(10)


def memory(relay):
    pages = Path(f"/proc/{relay.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def opened(reader, writer, path, ticket):
    writer.write(upgrade(path, ticket))
    assert (await read_answer(reader)).status == 101


async def flood(relay, writer, frames):
    """As fast as it is taken, until the relay cuts the connection; the most that it has grown."""
    before, grown = memory(relay), 0
    ends = time.monotonic() + SECONDS
    try:
        while time.monotonic() < ends:
            writer.write(frames)
            await asyncio.wait_for(writer.drain(), 1.0)
            grown = max(grown, memory(relay) - before)
    except (ConnectionError, TimeoutError):
        pass
    return max(grown, memory(relay) - before)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["pings", "pongs"])
async def test_a_flood_of_control_frames_ends_its_session_and_takes_no_memory(stage, kind):
    relay = stage.relay()
    await relay.start()
    frames = {"pings": PING, "pongs": PONG}[kind] * 500
    path, ticket = await begin(stage, relay)
    async with asyncio.timeout(60), connected(relay.port) as (reader, writer):
        await opened(reader, writer, path, ticket)
        writer.transport.pause_reading()  # nothing is read any more
        grown = await flood(relay, writer, frames)

    async def is_over():
        return await relay.metric(stage.http, "relay_sessions_live") == 0

    await until(is_over, 20)
    assert grown < MOST
    assert "reason=abuse" in relay.output
    assert await relay.metric(stage.http, 'relay_sessions_ended_total{reason="abuse"}') == 1
    await stage.stop_relays()


@pytest.mark.timeout(120)
async def test_pings_that_nobody_counts_take_no_memory_either(stage):
    """The same when as many messages may come as will: what is unread is answered once."""
    relay = stage.relay(RELAY_MESSAGES_PER_SECOND="1e9")
    await relay.start()
    path, ticket = await begin(stage, relay)
    async with asyncio.timeout(60), connected(relay.port) as (reader, writer):
        await opened(reader, writer, path, ticket)
        writer.transport.pause_reading()
        grown = await flood(relay, writer, PING * 500)
    assert grown < MOST
    await stage.stop_relays()


async def test_a_ping_now_and_then_is_answered(stage):
    relay = stage.relay()
    await relay.start()
    path, ticket = await begin(stage, relay)
    async with asyncio.timeout(20), connected(relay.port) as (reader, writer):
        await opened(reader, writer, path, ticket)
        for number in range(30):
            said = struct.pack("!I", number)
            writer.write(control(9, said))
            while (frame := await read_frame(reader)) != (10, said):
                assert frame[0] != 8
    await stage.stop_relays()


async def read_frame(reader):
    first, size = await reader.readexactly(2)
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    return first & 0xF, await reader.readexactly(size)
