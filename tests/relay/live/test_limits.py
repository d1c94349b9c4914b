"""What one process lets in, over real sockets: the share of agents, and who is counted."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import msgspec
import pytest
from websockets.exceptions import InvalidStatus

from relay.live.quotas import AgentQuota
from tests.relay.wires import ABOUT, LIMITS, agent_and_relay, next_event


def of(size, limit=10):
    share = AgentQuota(limit)
    share.resize(size, 0)
    return share


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (sockets that go have no event here)
            await asyncio.sleep(0.005)


async def refused(relay):
    with pytest.raises(InvalidStatus) as error:
        async with relay.attach():
            pass
    response = error.value.response
    return response.status_code, msgspec.json.decode(response.body)["code"]


async def test_an_agent_has_its_place_from_before_the_101_until_its_session_is_over():
    share = of(1)
    async with agent_and_relay(share=share) as (agent, relay):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            assert share.used == 1
            assert await refused(relay) == (503, "agent_sessions")
            assert len(agent.connections) == 1  # nobody was dialled for it
        await until(lambda: not share.used)
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
        assert b'relay_refusals_total{code="agent_sessions"} 1.0' in relay.metrics.text()


async def test_an_agent_that_was_dialled_ahead_counts_and_counts_once():
    share = of(2)
    async with agent_and_relay(share=share) as (_, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        assert share.used == 1
        async with relay.attach(session_id) as browser:
            await next_event(browser, "SettingsApplied")
            assert share.used == 1
        await until(lambda: not share.used)


async def test_while_it_is_dialled_again_the_session_keeps_its_place():
    share = of(1)
    async with agent_and_relay(share=share) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        agent.connections[-1].transport.abort()
        await next_event(browser, "RelayReconnecting")
        assert share.used == 1
        assert await refused(relay) == (503, "agent_sessions")
        await next_event(browser, "RelayReconnected")
        assert share.used == 1


async def test_at_a_roll_over_both_agents_count_as_long_as_both_are_there():
    share = of(1)
    limits = msgspec.structs.replace(LIMITS, roll_over_seconds=0.1)
    used = []
    linger, leave = share.linger, share.leave
    share.linger = lambda: (linger(), used.append(share.used))[0]
    share.leave = lambda key: (leave(key), used.append(share.used))
    async with agent_and_relay(share=share, limits=limits) as (agent, relay):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await until(lambda: len(agent.connections) == 2)
            await until(lambda: len(used) >= 2)
            assert used[:2] == [2, 1]
        await until(lambda: not share.used)


async def test_a_user_who_has_enough_sessions_holds_no_agent():
    share = of(5)
    limits = msgspec.structs.replace(LIMITS, sessions_per_user=1)
    async with agent_and_relay(share=share, limits=limits) as (_, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        relay.session_registry.expect(session_id := uuid4(), ABOUT)
        with pytest.raises(InvalidStatus):
            async with relay.attach(session_id):
                pass
        assert share.used == 1


async def test_only_so_many_wait_to_be_let_in():
    limits = msgspec.structs.replace(LIMITS, handshakes=1)
    async with agent_and_relay(limits=limits) as (_, relay):
        relay.may_answer.clear()
        first = asyncio.create_task(relay.attach().__aenter__())
        await relay.asked.wait()
        assert await refused(relay) == (503, "handshakes")
        relay.may_answer.set()
        browser = await first
        await next_event(browser, "SettingsApplied")
        await browser.close()
