"""SIGTERM in the middle of turns, once and twice: it ends in time and loses nothing."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(900)
GRACE = 15.0  # control/http/server.py: after this uvicorn cancels


async def test_a_stop_in_mid_turn_loses_nothing(database_url, tmp_path, chance, is_long, publish):
    rounds = 20 if is_long else 1
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay()
        await relay.start()
        for signals in (1, 2):
            recovered, exits = [], []
            async with stage.people(chance, 3) as browsers:
                for _ in range(rounds):
                    async with asyncio.TaskGroup() as tasks:
                        for browser in browsers:
                            tasks.create_task(browser.turn(seconds=1.0))
                        await asyncio.sleep(chance.uniform(0.0, 0.4))  # any moment of a turn
                        stopped = time.monotonic()
                        for _ in range(signals):
                            relay.signal(signal.SIGTERM)
                            await asyncio.sleep(chance.uniform(0.0, 0.2))
                        assert await relay.end(GRACE) == 0
                        exits.append(time.monotonic() - stopped)
                    await relay.start()
                    await asyncio.gather(*(browser.turn_at_last(30) for browser in browsers))
                    recovered.append(time.monotonic() - stopped)
                verdict = await stage.settle(browsers, hurry=not is_long)
            codes = {code for browser in browsers for code in browser.codes}
            assert 1012 in codes, codes
            note = f"restart included; it ended after {max(exits):.1f} s at most"
            publish(f"SIGTERM x{signals}", rounds, verdict, recovered, note)
        assert "Traceback" not in relay.output
