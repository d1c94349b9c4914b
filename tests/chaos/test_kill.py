"""The relay is killed with -9 at random moments, in the middle of conversations."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.chaos.audit import audit
from tests.chaos.stage import staged, until

pytestmark = pytest.mark.timeout(1800)
BROWSERS = 3


async def test_what_was_told_and_accepted_survives_a_kill_at_any_moment(
    database_url, tmp_path, chance, is_long, publish
):
    rounds = 100 if is_long else 3
    recovered = []
    async with staged(tmp_path, database_url) as stage, AsyncExitStack() as stack:
        relay = stage.relay()
        await relay.start()
        browsers = [
            await stack.enter_async_context(stage.browser(chance, f"b{number}").at_work())
            for number in range(BROWSERS)
        ]
        for _ in range(rounds):
            await asyncio.gather(*(browser.turn_at_last(30) for browser in browsers))
            async with asyncio.TaskGroup() as tasks:
                for browser in browsers:
                    tasks.create_task(talk_until_lost(browser))
                await asyncio.sleep(chance.uniform(0.0, 1.0))  # any moment of some turns
                await relay.kill()
            await relay.start()
            recovered += await asyncio.gather(*(b.turn_at_last(30) for b in browsers))

        await until(lambda: is_all_there(database_url, browsers), 60)
        await stage.stop_relays()
    publish("kill", rounds, await audit(database_url, browsers), recovered)


async def talk_until_lost(browser):
    while await browser.turn():
        pass


async def is_all_there(database_url, browsers):
    return (await audit(database_url, browsers)).is_right
