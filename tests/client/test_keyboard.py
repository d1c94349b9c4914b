"""Without a mouse, and with a screen reader: the focus, the space bar, what is said."""

from __future__ import annotations

import pytest

from relay.sandbox.script import Script, Turn
from tests.client.conftest import PHONE, every_engine, needs_chromium

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.3),), loop=True)
FOCUS = "document.activeElement.id"
PRESSED = "document.querySelector('#mic').getAttribute('aria-pressed')"


async def test_the_microphone_is_two_keys_away_however_long_the_list_is(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    for n in range(3):
        await page.type(f"Conversation number {n}")
        await page.stored(2)
        await page.by("#new").click()
    await page.open()
    await page.until("() => document.querySelectorAll('#list a').length >= 3")

    await page.page.keyboard.press("Tab")
    assert await page.page.evaluate(FOCUS) == "skip"
    assert (await page.by("#skip").bounding_box())["width"] > 100  # it is seen
    await page.page.keyboard.press("Enter")

    assert await page.page.evaluate(FOCUS) == "mic"
    assert (await page.by("#skip").bounding_box())["width"] <= 1


async def test_the_focus_goes_into_what_opens_and_comes_back(stack, tab):
    await stack.say(ECHO)
    page = await tab(size=PHONE)
    await page.type("Hello there")
    await page.stored(2)

    await page.by("#menu").focus()
    await page.page.keyboard.press("Enter")
    await page.until(f"() => {FOCUS} === 'search'")
    for _ in range(12):  # the page behind is out of reach
        await page.page.keyboard.press("Tab")
        assert await page.page.evaluate("document.activeElement.closest('#page') === null")
    await page.page.keyboard.press("Escape")
    await page.until(f"() => {FOCUS} === 'menu'")

    for opener, dialog in (("rename", "rename"), ("export", "export"), ("erase", "erase")):
        await page.by(f"#{opener}").focus()
        await page.page.keyboard.press("Enter")
        inside = f"document.activeElement.closest('dialog')?.id === '{dialog}-dialog'"
        await page.until(f"() => {inside}")
        await page.page.keyboard.press("Escape")
        await page.until(f"() => {FOCUS} === '{opener}'")


async def test_a_phone_that_is_turned_with_the_list_open_has_both(stack, tab):
    page = await tab(size=PHONE)
    await page.by("#menu").click()
    await page.until("() => document.querySelector('#page').inert")

    await page.page.set_viewport_size({"width": 932, "height": 430})

    await page.until("() => !document.querySelector('#page').inert")
    await page.talk()
    await page.word("listening")
    await page.talk()


async def test_the_space_bar_is_the_microphone_only_where_nothing_else_wants_it(stack, tab):
    lines = tuple(f"This is sentence {n} of quite a long answer." for n in range(40))
    await stack.say(Script(turns=(Turn(when="text", say=lines, seconds=0.05),), loop=True))
    page = await tab()
    await page.type("Talk")
    await page.says("sentence 39", seconds=20)
    await page.stored(2)
    await page.page.evaluate("document.querySelector('#main').scrollTop = 0")

    await page.by("#main").focus()
    await page.page.keyboard.press("Space")  # scrolls
    await page.until("() => document.querySelector('#main').scrollTop > 0")
    assert await page.page.evaluate(PRESSED) == "false"
    await page.page.evaluate("document.activeElement.blur()")
    await page.page.keyboard.press("Control+Space")
    await page.by("#export").click()
    await page.page.evaluate("document.activeElement.blur()")
    await page.page.keyboard.press("Space")  # behind a dialog
    assert await page.page.evaluate(PRESSED) == "false"
    await page.page.keyboard.press("Escape")
    await page.page.evaluate("document.activeElement.blur()")

    await page.page.keyboard.press("Space")
    await page.until(f"() => {PRESSED} === 'true'")
    await page.word("listening")
    await page.talk()


@every_engine
async def test_what_appears_is_told_by_a_region_that_was_always_there(stack, tab):
    page = await tab()
    await page.page.evaluate(
        """() => { window.told = []; const region = document.querySelector('[role=alert]');
            new MutationObserver(() => told.push(region.textContent))
                .observe(region, { childList: true, characterData: true, subtree: true });
            navigator.mediaDevices.getUserMedia = async () => {
                throw new DOMException('no', 'NotAllowedError'); }; }"""
    )

    await page.talk()
    await page.until("() => told.some((text) => text.startsWith('The microphone is blocked.'))")
    await page.by("#notice-close").click()
    await page.until("() => told.at(-1) === ''")

    hidden = await page.page.evaluate(
        """() => [...document.querySelectorAll('[role=alert], [role=status], [role=log]')]
            .filter((node) => node.id !== 'copy-text' && !node.getClientRects().length)
            .map((node) => node.id)"""
    )
    assert hidden == []


@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 700}])
async def test_what_is_out_of_sight_cannot_scroll_the_page_away(stack, tab, size):
    lines = tuple(f"This is sentence {n} of quite a long answer." for n in range(20))
    await stack.say(Script(turns=(Turn(when="text", say=lines, seconds=0.05),), loop=True))
    page = await tab(size=size)
    for n in range(3):
        await page.type(f"Talk {n}")
        await page.stored(2 * n + 2, seconds=20)

    scrolled = await page.page.evaluate(
        """() => { for (const node of document.querySelectorAll('.unseen')) {
                node.scrollIntoView(); node.focus?.(); }
            const root = document.scrollingElement;
            return [scrollY, root.scrollTop, document.body.scrollTop,
                root.scrollHeight - innerHeight, document.body.scrollHeight - innerHeight]; }"""
    )

    assert scrolled == [0, 0, 0, 0, 0]
