"""The wall clock of the relay jumps by hours, forwards and back, while people talk.

With libfaketime in front of the relay's clock; the monotonic clock stays true, as on a machine
whose time is corrected. What is measured in durations must not notice.
"""

from __future__ import annotations

import asyncio
import glob
import re

import pytest

from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(600)
LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"


async def test_conversations_do_not_notice_a_jump_of_the_wall_clock(
    database_url, tmp_path, chance, is_long, publish
):
    found = glob.glob(LIBRARY)
    if not found:
        pytest.skip("libfaketime is not installed")
    rounds = 50 if is_long else 4
    recovered = []
    clock = tmp_path / "clock"
    clock.write_text("+0s")
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(
            LD_PRELOAD=found[0],
            FAKETIME_TIMESTAMP_FILE=str(clock),
            FAKETIME_NO_CACHE="1",
            DONT_FAKE_MONOTONIC="1",
        )
        await relay.start()
        async with stage.people(chance, 3) as browsers:
            for number in range(rounds):
                async with asyncio.TaskGroup() as tasks:
                    answered = [tasks.create_task(browser.turn(15)) for browser in browsers]
                    await asyncio.sleep(chance.uniform(0.0, 0.4))  # any moment of a turn
                    clock.write_text(f"{chance.choice([-1, 1]) * chance.randint(60, 864_000):+d}s")
                assert all(task.result() for task in answered), "a jump silenced a conversation"
                if number % 2:
                    browsers[0].cut()  # coming back does not depend on the time of day either
                    recovered.append(await browsers[0].turn_at_last(30))
            assert [browser.sessions for browser in browsers] == [1, 1, 1]
            verdict = await stage.settle(browsers)
        assert was_elsewhere(relay.output), "the clock of the relay did not jump"
        assert "Traceback" not in relay.output
    publish("clock", rounds, verdict, recovered, "jumps of up to ten days")


def was_elsewhere(output):
    """Whether log lines have dates that are more than an hour apart."""
    stamps = re.findall(r"^time=(\d{4}-\d\d-\d\dT\d\d)", output, re.MULTILINE)
    return len(set(stamps)) > 1
