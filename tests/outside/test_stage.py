"""The stage itself: a relay on it works."""

from __future__ import annotations

import random


async def test_a_conversation_on_the_stage_is_stored(stage):
    await stage.relay().start()

    async with stage.people(random.Random(1), 1) as browsers:
        verdict = await stage.settle(browsers)

    assert verdict.told > 0
    await stage.stop_relays()
