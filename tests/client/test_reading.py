"""Reading and writing: long texts, links, other scripts, what is out of sight, a phone's Back."""

from __future__ import annotations

import pytest

from relay.sandbox.script import Call, Script, Turn
from tests.client.conftest import PHONE, needs_chromium
from tests.client.test_page import axe, shoot

__all__ = ["shoot"]

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.2),), loop=True)


async def test_what_is_too_long_is_counted_kept_and_not_sent(stack, tab):
    await stack.say(ECHO)
    page = await tab(size=PHONE)
    text = page.by("#text")

    await text.fill("a" * 6000)
    assert await page.by("#count").inner_text() == "6000 / 4000"
    await text.press("Enter")
    await page.by("#notice").wait_for()
    assert "too long" in await page.by("#notice").inner_text()
    assert len(await text.input_value()) == 6000
    assert await page.bubbles() == []

    smiles = "\U0001f600" * 4000  # of two units each
    await text.fill(smiles)
    assert await page.by("#count").inner_text() == "4000 / 4000"
    await text.press("Enter")
    await page.stored(2)
    assert (await page.bubbles())[0][1] == smiles
    assert not await page.by("#count").is_visible()


async def test_several_lines_are_typed_and_shown(stack, tab):
    await stack.say(ECHO)
    page = await tab(size=PHONE)
    text = page.by("#text")
    low = (await text.bounding_box())["height"]

    await text.press_sequentially("Milk")
    await text.press("Shift+Enter")
    await text.press_sequentially("Bread")
    assert (await text.bounding_box())["height"] > 1.8 * low
    await text.press("Enter")
    await page.stored(2)

    assert (await page.bubbles())[0][1] == "Milk\nBread"
    assert (await page.by(".bubble.user").inner_text()).split("\n")[-2:] == ["Milk", "Bread"]
    assert (await text.bounding_box())["height"] == low


async def test_an_input_method_may_use_enter(stack, tab):
    page = await tab()
    await page.by("#text").fill("にほん")

    await page.by("#text").dispatch_event("keydown", {"key": "Enter", "isComposing": True})

    assert await page.by("#text").input_value() == "にほん"


async def test_links_can_be_followed_and_a_text_has_its_direction(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    await page.type("See https://example.org/a?b=(c). Or javascript:alert(1)")
    await page.stored(2)
    await page.type("שלום, מה שלומך?")
    await page.stored(4)

    links = page.by(".bubble a")
    assert await links.count() == 1
    assert await links.get_attribute("href") == "https://example.org/a?b=(c"
    assert "noopener" in await links.get_attribute("rel")
    direction = "nodes => nodes.map((node) => getComputedStyle(node).direction)"
    assert await page.by(".bubble.user").evaluate_all(direction) == ["ltr", "rtl"]


async def test_new_messages_below_are_told_and_ones_own_is_in_view(stack, tab):
    lines = tuple(f"This is sentence {n} of quite a long answer." for n in range(50))
    turns = (Turn(when="text", say=lines, seconds=0.2),)
    await stack.say(Script(turns=turns, loop=True))
    page = await tab(size=PHONE)
    await page.type("Talk")
    await page.stored(2, seconds=20)
    top = "document.querySelector('#main').scrollTop"
    seen = """() => { const { bottom } = [...document.querySelectorAll('.bubble')].at(-1)
        .getBoundingClientRect();
        return bottom <= document.querySelector('#main').getBoundingClientRect().bottom; }"""
    await page.until(seen)

    await page.by("#main").hover()
    await page.page.mouse.wheel(0, -5000)
    await page.until(f"() => {top} === 0")
    assert not await page.by("#newer").is_visible()
    await page.type("Again")
    await page.until(f"() => {top} > 100")  # one's own is in view
    await page.page.mouse.wheel(0, -5000)
    await page.by("#newer").wait_for()
    await page.by("#newer").click()

    await page.until(seen)
    await page.until("() => document.querySelector('#newer').hidden")


async def test_back_closes_the_list_on_a_phone_and_new_is_in_the_header(stack, tab):
    await stack.say(ECHO)
    page = await tab(size=PHONE)
    await page.type("Hello")
    await page.stored(2)
    conversation = await page.conversation()
    open_ = "() => document.querySelector('#drawer').classList.contains('open')"
    closed = "() => !document.querySelector('#drawer').classList.contains('open')"

    await page.by("#menu").click()
    await page.until(open_)
    await page.page.go_back()
    await page.until(closed)
    assert await page.conversation() == conversation

    await page.by("#new-here").click()
    await page.by("#welcome").wait_for()
    await page.by("#menu").click()
    await page.until(open_)
    await page.by("#list a").first.click()
    await page.until(closed)
    await page.stored(2)
    await page.page.go_back()  # not into the list
    await page.by("#welcome").wait_for()
    assert await page.page.evaluate(closed)


async def test_nothing_was_found_is_said_once(stack, tab):
    page = await tab()
    await page.page.evaluate(
        """() => { window.notes = [];
            const note = document.querySelector('#list-note');
            new MutationObserver(() => notes.push(note.textContent))
                .observe(note, { childList: true, characterData: true, subtree: true }); }"""
    )

    await page.by("#search").press_sequentially("xylophone", delay=300)
    await page.until("() => notes.includes('Nothing was found.')")

    notes = await page.page.evaluate("notes.filter(Boolean)")
    assert notes == ["Nothing was found."]
    assert await page.by("#list a").count() == 0


LONG = "preferred_delivery_window_of_the_recipient"
SHOWN = """(given) => import('./bubbles.js').then(({ Bubbles }) => {
    const place = document.querySelector('#transcript');
    new Bubbles(place, document.querySelector('#main'), {}).show([{ kind: 'card', key: 'x',
        intent: 'NEW_TASK', status: 'submitted', arguments: given, result: null }]); })"""


async def test_long_names_of_parameters_leave_room_for_the_values(stack, tab, shoot):
    page = await tab(size={"width": 320, "height": 600}, device_scale_factor=2)
    value = "on a Saturday morning between nine and eleven, if at all possible"
    await page.page.evaluate(SHOWN, {LONG: value, "title": "milk"})
    await page.page.evaluate("document.querySelector('#welcome').hidden = true")
    await shoot(page, "phone-long-names")

    widths = await page.page.evaluate(
        """() => ['.card', '.card dd', '.card dt'].map((name) =>
            document.querySelector(name).getBoundingClientRect().width)"""
    )
    over = await page.page.evaluate(
        """() => { const card = document.querySelector('.card');
            const { right } = card.getBoundingClientRect();
            return [...card.querySelectorAll('*')]
                .filter((node) => node.getBoundingClientRect().right > right).length; }"""
    )
    assert widths[1] > 0.45 * widths[0]
    assert over == 0


@pytest.mark.parametrize("size", [(740, 360), (568, 320), (932, 430)])
async def test_on_a_phone_on_its_side_there_is_room_to_read(stack, tab, shoot, size):
    call = Call("create_task", {"title": "buy milk"})
    say = ("That is on your list now.", "Is there anything else?")
    turns = (Turn(when="text", calls=(call,), say=say, seconds=0.5),)
    await stack.say(Script(turns=turns, loop=True))
    width, height = size
    page = await tab(size={"width": width, "height": height}, device_scale_factor=2)
    await shoot(page, f"landscape-{width}-empty")
    fits = """() => [...document.querySelectorAll('#page *')].filter((node) => {
        const { right, bottom, width } = node.getBoundingClientRect();
        const outside = right > innerWidth + 0.5 || bottom > innerHeight + 0.5;
        return width > 1 && outside && !node.closest('main');
    }).map((node) => node.outerHTML.slice(0, 80))"""
    assert await page.page.evaluate(fits) == []
    await page.type("Buy milk")
    await page.stored(2)
    await page.talk()
    await page.word("listening")
    await shoot(page, f"landscape-{width}")

    high = (await page.by("#main").bounding_box())["height"]
    assert high > 0.55 * height
    assert await page.page.evaluate(fits) == []
    assert await axe(page) == []
    for name in ("#mic", "#text", "#mute"):
        assert await page.by(name).is_visible()
    await page.talk()
