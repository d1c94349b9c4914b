"""The relay is killed with -9 at random moments, in the middle of conversations."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(1800)


async def test_what_was_told_and_accepted_survives_a_kill_at_any_moment(
    database_url, tmp_path, chance, is_long, publish
):
    rounds = 100 if is_long else 2
    recovered = []
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay()
        await relay.start()
        async with stage.people(chance, 3) as browsers:
            for _ in range(rounds):
                async with asyncio.TaskGroup() as tasks:
                    for browser in browsers:
                        tasks.create_task(talk_until_lost(browser))
                    await asyncio.sleep(chance.uniform(0.0, 1.0))  # any moment of some turns
                    await relay.kill()
                killed = time.monotonic()
                await relay.start()
                await asyncio.gather(*(browser.turn_at_last(30) for browser in browsers))
                recovered.append(time.monotonic() - killed)
            await stage.settle(browsers, hurry=not is_long)
            await stage.stop_relays()
            verdict = await stage.audit(browsers)
    publish("kill", rounds, verdict, recovered, "restart included")


async def talk_until_lost(browser):
    while await browser.turn():
        pass
