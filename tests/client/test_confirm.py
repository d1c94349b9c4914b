"""The card that asks: two buttons, a clock, and what comes of a tap."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_asyncio

from relay.sandbox.script import Call, Script, Turn
from tests.client.conftest import LOST, PHONE, every_engine, needs_chromium
from tests.client.stack import standing
from tests.conftest import copy_database

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

PICTURES = Path(__file__).parents[2] / "build/client"
GOAL = Call("create_goal", {"title": "swim", "deadline": "none"})
TURN = Turn(when="text", calls=(GOAL,), say=("Please look at your screen.",), seconds=0.4)
WAITS = "() => document.querySelector('.card[data-status=awaiting]')"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(postgres, template):
    goals = "    path: /goals\n"
    change = "intents.yaml", lambda it: it.replace(goals, f"{goals}    confirm: card\n")
    async with standing(await copy_database(postgres, template), change) as made:
        yield made


async def asked(stack, page):
    """A typed turn, up to its card; the conversation's id."""
    await stack.say(Script(turns=(TURN,), loop=True))
    await page.type("I want to swim")
    await page.until(WAITS)
    await page.says("look at your screen")
    await page.stored(2)
    return await page.conversation()


async def calls_of(stack, conversation):
    listed = await stack.get(f"/conversations/{conversation}/intents")
    return [call["status"] for call in listed["items"]]


async def test_a_tap_on_confirm_does_it(stack, tab):
    page = await tab(size=PHONE)
    conversation = await asked(stack, page)
    PICTURES.mkdir(parents=True, exist_ok=True)
    await page.page.screenshot(path=PICTURES / "phone-confirm.png")
    buttons = page.by(".card .question button")
    labels = [await button.get_attribute("aria-label") for button in await buttons.all()]
    left = await page.by(".card .left").inner_text()

    await buttons.first.focus()
    await page.page.keyboard.press("Enter")
    await page.until("() => document.querySelector('.card[data-status=submitted]')")

    assert labels == ["Confirm: New goal", "Cancel: New goal"]
    assert left.endswith(" s left")
    assert await page.by(".card button").count() == 0
    assert await calls_of(stack, conversation) == ["submitted"]


async def test_a_tap_on_cancel_does_not(stack, tab):
    page = await tab()
    conversation = await asked(stack, page)

    await page.by(".card .question button", has_text="Cancel").click()
    await page.until("() => document.querySelector('.card[data-status=cancelled]')")

    assert await page.by(".card .chip").inner_text() == "Cancelled"
    while await calls_of(stack, conversation) != ["cancelled"]:
        await page.page.wait_for_load_state("networkidle")


@every_engine
async def test_after_a_reload_the_card_is_there_and_a_tap_counts(stack, tab):
    page = await tab()
    conversation = await asked(stack, page)

    await page.page.reload()
    await page.until(WAITS)
    await page.by(".card .question button", has_text="Confirm").click()
    await page.until("() => document.querySelector('.card[data-status=submitted]')", seconds=20)

    assert await calls_of(stack, conversation) == ["submitted"]


async def test_a_tap_without_a_network_is_told_and_may_be_repeated(stack, tab):
    page = await tab()
    await asked(stack, page)
    stack.network.cut()
    page.expected += [*LOST, "Failed to load resource"]
    await page.word("reconnecting")
    await page.by(".card .question button", has_text="Confirm").click()
    await page.until("() => !document.querySelector('#notice').hidden")
    assert await page.by(".card .question button:enabled").count() == 2

    stack.network.mend()
    await page.until("() => document.querySelector('#word').textContent !== 'reconnecting'")
    await page.by(".card .question button", has_text="Confirm").click()
    await page.until("() => document.querySelector('.card[data-status=submitted]')", seconds=20)
