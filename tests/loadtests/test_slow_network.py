"""The delay is there on each way, and when a connection is opened; nothing is lost or reordered."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from loadtests.processes import HOST, free_port
from loadtests.slow_network import SlowNetwork

ROUND_TRIP = 0.1


class Echo(asyncio.Protocol):
    """Sends back what comes, until it ends."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


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
