"""The client on a scripted agent: what is heard, shown, kept, and what survives."""

from __future__ import annotations

import pytest

from relay.sandbox.script import Call, Script, Turn
from tests.client.conftest import needs_chromium

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

GOAL = Call("create_goal", {"title": "swim", "deadline": "none"})
GREETING = "Hi! Tell me about a goal, a new task, or something you want to move."


async def test_a_typed_turn_shows_both_bubbles_with_ticks_and_the_intent(stack, tab):
    await stack.say(Script(turns=(Turn(when="text", calls=(GOAL,), say=("Done.", "More?")),)))
    page = await tab()

    await page.type("I want to swim")
    await page.until("() => document.querySelector('.card[data-status=submitted]')")
    await page.stored(3)

    said = [(role, text) for role, text, _ in await page.bubbles()]
    assert said == [
        ("assistant", GREETING),
        ("user", "I want to swim"),
        ("assistant", "Done. More?"),
    ]
    card = await page.by(".card").inner_text()
    assert card.split("\n") == ["Goal", "Done", "Title", "swim", "Deadline", "none"]
    assert await page.page.evaluate("heard.ranges.some(({peak}) => peak > 0.05)")
