"""The agent is reset, falls silent without closing, or refuses: another one takes its place."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.link import Mood
from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("fault", ["reset", "silent", "refusing"])
async def test_a_lost_agent_is_replaced_and_the_browser_stays(
    database_url, tmp_path, chance, is_long, publish, fault
):
    rounds = 20 if is_long else 2
    recovered = []
    # In the long form as it ships; a silent one is then found after up to 20 s.
    environ = {} if is_long else {"RELAY_PING_SECONDS": "1"}
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(**environ)
        await relay.start()
        async with stage.people(chance, 3) as browsers:
            for _ in range(rounds):
                async with asyncio.TaskGroup() as tasks:
                    for browser in browsers:
                        tasks.create_task(browser.turn())
                    await asyncio.sleep(chance.uniform(0.0, 0.4))  # any moment of a turn
                    await break_off(stage.agent_link, fault, chance)
                recovered += await asyncio.gather(*(b.turn_at_last(45) for b in browsers))
            assert [browser.sessions + browser.returns for browser in browsers] == [1, 1, 1]
            verdict = await stage.verdict(browsers)
        assert relay.output.count("agent_redialled") >= rounds
    publish(f"agent {fault}", rounds, verdict, recovered)


async def break_off(link, fault, chance):
    match fault:
        case "reset":
            link.cut()
        case "silent":
            link.mute()
        case "refusing":
            link.mood = chance.choice([Mood.TOO_MANY, Mood.REFUSING])
            link.cut()
            await asyncio.sleep(chance.uniform(0.1, 1.0))  # shorter than the tries last
            link.mood = Mood.WELL
