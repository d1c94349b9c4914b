"""For how long a session's agents were connected: real sockets on a clock of our own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from relay.core.records import SessionEnded
from relay.live import dial_ahead, session_record
from relay.transport import connection
from tests.relay.wires import ABOUT, LIMITS, agent_and_relay, next_event


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (connection, dial_ahead, session_record):
        monkeypatch.setattr(module, "monotonic", clock)
    return clock


@asynccontextmanager
async def talking(relay, session_id):
    async with relay.attach(session_id) as browser:
        await next_event(browser, "SettingsApplied")
        yield browser


async def dialled_ahead(relay):
    """The id of a session whose browser has not come, and whose agent is connected."""
    relay.session_registry.expect(session_id := uuid4(), ABOUT)
    await relay.session_registry._ahead._waiting[session_id].task
    return session_id


async def seconds_of(relay):
    return (await relay.until(SessionEnded)).figures.agent_seconds


async def test_an_agent_counts_from_its_101_to_the_close(clock):
    async with agent_and_relay() as (_, relay):
        clock.now += 500.0
        async with talking(relay, session_id := uuid4()):
            clock.now += 30.0
            assert relay.session_registry.figures(session_id).agent_seconds == 30.0

        assert await seconds_of(relay) == 30.0


async def test_one_that_was_dialled_ahead_counts_from_before_the_attach(clock):
    async with agent_and_relay() as (agent, relay):
        session_id = await dialled_ahead(relay)
        clock.now += 3.0
        async with talking(relay, session_id):
            clock.now += 30.0

        assert await seconds_of(relay) == 33.0
        assert len(agent.connections) == 1


def in_vain(relay, session_id):
    """The seconds that are to be counted for nobody."""
    times = {time.session_id: time for time in relay.session_registry.agent_times}
    assert times[session_id].epoch == 0
    return times[session_id].seconds


async def test_one_that_was_dialled_ahead_in_vain_counts_for_nobody_until_it_is_stored(clock):
    async with agent_and_relay() as (_, relay):
        registry = relay.session_registry
        session_id = await dialled_ahead(relay)
        clock.now += 8.0
        registry._ahead._expire(session_id)
        clock.now += 100.0

        assert in_vain(relay, session_id) == 8.0
        for time in registry.agent_times:
            registry.counted(time)
        assert registry.agent_times == []
        assert b"relay_agent_seconds_total 8.0" in relay.metrics.text()
        async with talking(relay, session_id):
            clock.now += 30.0
        assert await seconds_of(relay) == 30.0


async def test_one_whose_user_hung_up_before_the_attach_counts_for_nobody(clock):
    async with agent_and_relay() as (_, relay):
        session_id = await dialled_ahead(relay)
        clock.now += 2.0
        relay.session_registry.hang_up(session_id)
        clock.now += 100.0

        assert in_vain(relay, session_id) == 2.0


async def test_one_that_left_before_the_attach_counts_too(clock):
    async with agent_and_relay() as (agent, relay):
        relay.session_registry.expect(session_id := uuid4(), ABOUT)
        await agent.connected.wait()
        dialled = relay.session_registry._ahead._waiting[session_id]
        await dialled.task
        clock.now += 4.0
        await agent.connections[0].close(1000)
        while not dialled.connection.is_closed:
            await agent.gone.wait()
        clock.now += 100.0
        async with talking(relay, session_id):
            clock.now += 30.0
            times = sorted(relay.session_registry.agent_times, key=lambda time: time.seconds)
            assert [time.seconds for time in times] == [4.0, 30.0]

        assert await seconds_of(relay) == 30.0


async def test_the_metrics_have_what_a_live_session_used_and_no_second_twice(clock):
    async with agent_and_relay() as (_, relay):
        async with talking(relay, uuid4()):
            for _ in range(2):
                clock.now += 30.0
                assert len(relay.session_registry.agent_times) == 1
            assert b"relay_agent_seconds_total 60.0" in relay.metrics.text()
            clock.now += 5.0
        await relay.until(SessionEnded)
        assert b"relay_agent_seconds_total 65.0" in relay.metrics.text()


async def test_agents_that_follow_one_another_are_summed_without_the_time_between(clock):
    async with agent_and_relay() as (agent, relay), talking(relay, uuid4()) as browser:
        clock.now += 30.0
        await agent.connections[0].close(1011)
        await next_event(browser, "RelayReconnecting")
        clock.now += 7.0  # nobody is connected: the pause before the next dial
        await next_event(browser, "RelayReconnected")
        clock.now += 50.0
        await browser.close()

        assert await seconds_of(relay) == 80.0


async def test_nobody_is_remembered_for_ever(clock, monkeypatch):
    monkeypatch.setattr("relay.live.dial_ahead.REMEMBERED", 2)
    async with agent_and_relay(limits=LIMITS) as (_, relay):
        ahead = relay.session_registry._ahead
        sessions = []
        for _ in range(3):
            sessions.append(await dialled_ahead(relay))
            clock.now += 8.0
            ahead._expire(sessions[-1])

        assert ahead.in_vain == dict.fromkeys(sessions[1:], 8.0)
