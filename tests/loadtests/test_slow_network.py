"""The delay is there on each way, and when a connection is opened; nothing is lost or reordered."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import uvloop

from loadtests.processes import HOST, free_port
from loadtests.slow_network import SlowNetwork

ROUND_TRIP = 0.1


class Echo(asyncio.Protocol):
    """Sends back what comes, until it ends."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Talker(asyncio.Protocol):
    """Says something again and again, as long as it can."""

    def connection_made(self, transport):
        self.transport = transport
        self.talk()

    def talk(self):
        if not self.transport.is_closing():
            self.transport.write(b"hello")
            asyncio.get_running_loop().call_later(ROUND_TRIP / 5, self.talk)


@pytest.fixture
async def network():
    async with (
        await asyncio.get_running_loop().create_server(Echo, HOST, 0) as server,
        SlowNetwork(server.sockets[0].getsockname()[1]).running() as network,
    ):
        yield network


async def ask(network, *questions):
    """How long each answer took, the first with the opening of the connection."""
    clock = asyncio.get_running_loop().time
    took = []
    begun = clock()
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(HOST, network.port)
        for question in questions:
            writer.write(question)
            assert await reader.readexactly(len(question)) == question
            took.append(clock() - begun)
            begun = clock()
        writer.close()
        assert await reader.read() == b""
    return took


async def test_an_answer_takes_a_round_trip_and_a_new_connection_another_one(network):
    network.round_trip = ROUND_TRIP

    first, second = await ask(network, b"one", b"two")

    assert first >= 2 * ROUND_TRIP
    assert second >= ROUND_TRIP


async def test_everything_arrives_in_order_while_the_delay_changes(network):
    sent = bytes(range(256)) * 2000
    network.round_trip = ROUND_TRIP
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(HOST, network.port)
        writer.write(sent[:1000])
        await reader.readexactly(1000)
        writer.write(sent[1000:5000])
        network.round_trip = 0.0
        writer.write(sent[5000:])

        assert await reader.readexactly(len(sent) - 1000) == sent[1000:]
        writer.close()


async def test_who_cannot_be_reached_hangs_up():
    async with SlowNetwork(free_port()).running() as network, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(HOST, network.port)

        with suppress(ConnectionError):  # an orderly end would do as well
            assert await reader.read() == b""
        writer.close()


def test_what_arrives_where_somebody_has_hung_up_is_dropped():
    problems = []

    async def hang_up():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        async with (
            await loop.create_server(Talker, HOST, 0) as server,
            SlowNetwork(server.sockets[0].getsockname()[1]).running() as network,
            asyncio.timeout(10),
        ):
            network.round_trip = ROUND_TRIP
            _, writer = await asyncio.open_connection(HOST, network.port)
            while not network._connections:  # noqa: ASYNC110
                await asyncio.sleep(0)  # until it has taken us in: it tells nobody
            writer.transport.abort()
            await asyncio.wait(network._connections)

    uvloop.run(hang_up())  # asyncio's own loop takes it in silence

    assert problems == []
