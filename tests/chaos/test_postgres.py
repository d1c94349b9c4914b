"""Postgres stands still, is killed, is restarted: conversations go on, and all of it arrives."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(900)


async def test_postgres_fails_and_nobody_falls_silent(
    own_postgres, empty_database_url, tmp_path, chance, is_long, publish
):
    rounds = 10 if is_long else 1
    database_url = await own_postgres.migrated()
    async with staged(tmp_path, database_url, planner_url=empty_database_url) as stage:
        relay = stage.relay()
        await relay.start()
        for fault in ("stopped", "killed", "restarted"):
            recovered = []
            async with stage.people(chance, 3) as browsers:
                for _ in range(rounds):
                    await asyncio.sleep(chance.uniform(0.0, 0.3))  # any moment
                    await own_postgres.leave(fault)
                    for _ in range(chance.randint(2, 4)):
                        answered = await asyncio.gather(*(browser.turn(15) for browser in browsers))
                        assert all(answered), "a conversation fell silent without its database"
                    await own_postgres.come_back()
                    back = time.monotonic()
                    verdict = await stage.settle(browsers)
                    recovered.append(time.monotonic() - back)
                assert [browser.sessions + browser.returns for browser in browsers] == [1, 1, 1]
            publish(f"postgres {fault}", rounds, verdict, recovered, "until all is stored")
