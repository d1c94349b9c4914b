"""The agent is reset, falls silent without closing, or refuses: another one takes its place."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from control.replay import play
from tests.chaos.audit import Verdict
from tests.chaos.link import Mood
from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(1800)

LOSSES = {"reset": 2, "silent": 1, "refusing": 1}  # by fault, in one conversation


async def test_a_lost_agent_is_replaced_and_the_browser_stays(
    database_url, tmp_path, chance, is_long, publish
):
    rounds = 20 if is_long else 1
    # In the long form as it ships: a silent one is found after up to 20 s.
    environ = {} if is_long else {"RELAY_PING_SECONDS": "0.5"}
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(RELAY_RECORD_DIR=str(tmp_path / "recordings"), **environ)
        await relay.start()
        for fault in LOSSES:
            recovered = []
            verdict = Verdict()
            for _ in range(rounds):
                # Other people each time: five tries are all that an agent gets in half a minute.
                async with stage.people(chance, 3) as browsers:
                    for _ in range(LOSSES[fault]):
                        recovered += await lose(stage.agent_link, fault, browsers, chance)
                        await asyncio.gather(*(browser.turn_at_last(10) for browser in browsers))
                    assert [one.sessions + one.returns for one in browsers] == [1, 1, 1]
                    verdict += await stage.settle(browsers)
            publish(f"agent {fault}", rounds, verdict, recovered, "until RelayReconnected")
    played = [play(path) for path in (tmp_path / "recordings").glob("*/*.ndjson")]
    assert len(played) >= 9 * rounds
    assert [str(one.difference) for one in played if one.difference] == []
    assert sum(count_losses(one) >= 2 for one in played) >= 3 * rounds


def count_losses(played):
    """How often the user was told that the agent is gone."""
    return sum(
        asked["type"] == "SendBrowser" and asked["event"]["type"] == "RelayReconnecting"
        for step in played.recording.steps
        for asked in step.actions
    )


async def lose(link, fault, browsers, chance):
    """Break it off in mid-turn; how long each browser waits for its next agent."""
    async with asyncio.TaskGroup() as tasks:
        for browser in browsers:
            tasks.create_task(browser.turn(seconds=1.0))
        await asyncio.sleep(chance.uniform(0.0, 0.4))  # any moment of a turn
        broken = time.monotonic()
        tasks.create_task(break_off(link, fault, chance))
    for browser in browsers:
        assert await browser.until(partial(is_back, browser, broken), 45)
    return [browser.reconnected_at - broken for browser in browsers]


def is_back(browser, broken):
    return browser.reconnected_at > broken


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
