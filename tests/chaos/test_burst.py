"""A thousand browsers connect at once, while somebody is in conversation."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(600)


async def test_a_burst_of_connects_is_served_and_disturbs_nobody(
    database_url, tmp_path, chance, is_long, publish
):
    count = 1_000 if is_long else 60
    turns = []
    async with staged(tmp_path, database_url) as stage:
        # The sandbox is one process of Python and no faster than that.
        relay = stage.relay(
            RELAY_SETUP_SECONDS="120",
            RELAY_SESSIONS="0",
            RELAY_SESSIONS_PER_ADDRESS="0",
            RELAY_REQUESTS_PER_ADDRESS="0",
        )
        await relay.start()
        async with stage.people(chance, 1) as (before,):
            quotas = [stage.browser(chance, f"crowd {number}") for number in range(count)]
            all_ready = asyncio.Event()

            async def join(browser):
                async with browser.at_work():
                    assert await browser.until(lambda: browser.is_ready, 300)
                    if all(one.is_ready for one in quotas):
                        all_ready.set()
                    await all_ready.wait()

            async def talk_on():
                while not all_ready.is_set():
                    turns.append(await before.turn_at_last(120))

            began = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                for browser in quotas:
                    tasks.create_task(join(browser))
                tasks.create_task(talk_on())
                await all_ready.wait()
                seconds = time.monotonic() - began
            late = await longest_lag(stage, relay)
            verdict = await stage.settle([before, *quotas], 120)
    # Who waits too long for a connection to the database is told 503, and comes again.
    refused = sum(len(browser.refusals) for browser in quotas)
    note = (
        f"{count} browsers until the last has its agent; {refused} refusals on the way;"
        f" turns meanwhile {max(turns):.1f} s at most, the relay's loop {late:.2f} s late at most"
    )
    publish("burst", count, verdict, [seconds], note)
    # A turn waits for the sandbox and for this process, too, which have as much to do.
    assert late < 1.0


async def longest_lag(stage, relay):
    """For how long at most the relay left what was due undone, in seconds."""
    text = await relay.metrics(stage.http)
    buckets = re.findall(r'relay_loop_lag_seconds_bucket{le="(.+)"} (.+)', text)
    return next(float(bound) for bound, count in buckets if count == buckets[-1][1])
