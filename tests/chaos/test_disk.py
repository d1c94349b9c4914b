"""The disk of the journal is full, with the database there and with it away."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos.stage import staged
from tests.disk import fill_up, mounted

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk", "1m") as place:
        yield place


async def test_a_full_disk_silences_nobody_and_loses_nothing(
    own_postgres, empty_database_url, small_disk, tmp_path, chance, is_long, publish
):
    rounds = 10 if is_long else 2
    recovered = []
    filling = small_disk / "filling"
    database_url = await own_postgres.migrated()
    async with staged(tmp_path, database_url, planner_url=empty_database_url) as stage:
        relay = stage.relay(data_dir=small_disk / "data")
        await relay.start()
        async with stage.people(chance, 3) as browsers:
            for number in range(rounds):
                if number % 2:
                    await own_postgres.leave("stopped")
                fill_up(filling)
                for _ in range(3):
                    answered = await asyncio.gather(*(browser.turn(15) for browser in browsers))
                    assert all(answered), "a conversation fell silent with its disk full"
                filling.unlink()
                if number % 2:
                    await own_postgres.come_back()
                back = time.monotonic()
                verdict = await stage.settle(browsers)
                recovered.append(time.monotonic() - back)
        output = relay.output
    assert "journal_disk_failed" in output  # it was really full
    assert "journal_full" not in output
    publish("disk full", rounds, verdict, recovered, "every second one without a database")
