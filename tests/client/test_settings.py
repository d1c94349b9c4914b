"""The settings sheet, and what it changes at once: volume, captions, times; where a second went."""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from relay.sandbox.script import Script, Turn
from tests.client.conftest import PHONE, needs_chromium
from tests.client.test_page import LOOKS, SIZES, axe, shoot

__all__ = ["shoot"]

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=1.0),), loop=True)
SIZE = "parseFloat(getComputedStyle(document.querySelector('.bubble')).fontSize)"
LOUDEST = "Math.max(0, ...heard.ranges.map(({ peak }) => peak))"


async def test_the_volume_is_the_users_and_is_kept(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    await page.by("#settings").click()
    await page.by("#volume").fill("0")
    await page.by("#settings-dialog [data-close]").click()
    await page.type("Hello")
    await page.stored(2)
    await page.word("speaking")
    await page.word("ready")
    assert await page.page.evaluate(LOUDEST) == 0

    await page.page.reload()
    await page.stored(2)
    assert await page.by("#volume").input_value() == "0"
    await page.by("#settings").click()
    await page.by("#volume").fill("100")
    await page.by("#settings-dialog [data-close]").click()
    await page.type("Hello again")
    await page.until(f"() => {LOUDEST} > 0.05")


async def test_captions_grow_and_times_are_shown_at_will(stack, tab):
    await stack.say(ECHO)
    page = await tab(size=PHONE)
    await page.type("Hello")
    await page.stored(2)
    before = await page.page.evaluate(SIZE)
    assert not await page.by(".bubble time").first.is_visible()

    await page.by("#menu").click()
    await page.by("#settings").click()
    await page.by("#captions").select_option("largest")
    await page.by("#times").check()
    await page.page.keyboard.press("Escape")

    assert await page.page.evaluate(SIZE) > 1.5 * before
    for time in await page.by(".bubble time").all():
        assert re.fullmatch(r"Today, \d\d:\d\d.* · stored", await time.inner_text())
    await page.page.reload()
    await page.stored(2)
    assert await page.page.evaluate(SIZE) > 1.5 * before
    assert await page.by(".bubble time").first.is_visible()


async def test_a_tap_on_a_bubble_tells_its_time_and_copies_it(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.type("Remember the milk")
    await page.stored(2)

    await page.by(".bubble.user").click()
    stamp = await page.by(".bubble.user time").get_attribute("datetime")
    stored = await stack.get(f"/conversations/{await page.conversation()}/messages")
    assert abs(parse(stamp) - parse(stored["items"][0]["created_at"])) < 5
    await page.by(".bubble.user .meta button").click()
    await page.until("() => document.querySelector('#alert').textContent.startsWith('Copied')")
    assert await page.page.evaluate("navigator.clipboard.readText()") == "Remember the milk"
    assert not await page.by(".bubble.assistant time").last.is_visible()
    await page.by(".bubble.user").click()
    assert not await page.by(".bubble.user time").is_visible()

    await page.by("#export").click()
    await page.by("#export-dialog [value=copy]").click()
    await page.until(
        "async () => (await navigator.clipboard.readText()).includes('Remember the milk\\n')"
    )


def parse(stamp):
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


async def test_where_the_time_of_the_last_turn_went(stack, tab):
    await stack.say(ECHO, think_delay=0.6, voice_delay=0.4)
    page = await tab()
    await page.by("#settings").click()
    assert not await page.by("#latency").is_visible()  # there was none yet
    await page.page.keyboard.press("Escape")
    began = await page.page.evaluate("performance.now()")
    await page.type("Hello")
    await page.word("speaking", 20)
    await page.by("#settings").click()
    await page.by("#latency").wait_for()  # it is there when the first sound is heard
    ended = await page.page.evaluate("performance.now()")

    shown = await page.by("#latency dd").all_inner_texts()
    words, answer, voice, whole = (float(each.removesuffix(" s")) for each in shown)
    assert abs(words + answer + voice - whole) < 0.02
    assert answer >= 0.5  # it thought so long
    assert whole < (ended - began) / 1000 + 0.02


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
async def test_the_sheet_looks_well_and_everybody_can_use_it(stack, tab, shoot, size, scheme):
    await stack.say(ECHO)
    scale = 2 if size == "phone" else 1
    page = await tab(
        size=SIZES[size], color_scheme=scheme, reduced_motion="reduce", device_scale_factor=scale
    )
    await page.type("Hello")
    await page.word("speaking")
    await page.stored(2)
    if size == "phone":
        await page.by("#menu").click()
    await page.by("#settings").click()
    await page.until("() => document.querySelector('#settings-dialog').open")
    await shoot(page, f"{size}-{scheme}-settings")
    assert await axe(page) == []
    await page.page.keyboard.press("Escape")
    await page.until("() => !document.querySelector('#settings-dialog').open")
    await page.by(".bubble.user").click()
    await shoot(page, f"{size}-{scheme}-detailed")
    assert await axe(page) == []
