"""The same in every engine: the page opens, is typed in, read again, and says what it lacks.

There is no sound system: nothing of this needs one.
"""

from __future__ import annotations

import pytest
import pytest_asyncio

from relay.sandbox.script import Script, Turn
from tests.client.conftest import TAP, Page
from tests.client.engines import ENGINES, missing
from tests.client.test_page import axe
from tests.client.test_states import HOSTILE, answered, notice

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.2),), loop=True)
STILL = """() => document.getAnimations().every((one) => one.playState !== 'running'
    || one.effect.getComputedTiming().endTime === Infinity)"""
SILENT = {"PULSE_SERVER": "unix:/nowhere"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def engine(request):
    if why := missing(request.param):
        pytest.skip(why)
    options = {} if request.param == "webkit" else {"deny": True}
    async with ENGINES[request.param](SILENT, **options) as browser:
        browser.name = request.param
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def opened(stack, engine):
    """`await opened()` is a page of a person of its own; its console has to stay empty."""
    pages = []

    async def open_page(*scripts, path=""):
        await stack.say(ECHO)
        page = Page(await engine.new_page(TAP, *scripts), stack.url)
        pages.append(page)
        await page.open(path)
        return page

    yield open_page
    for page in pages:
        await page.page.context.close()
        page.check()


async def test_what_is_typed_is_answered_stored_and_read_again(stack, opened):
    page = await opened()

    await answered(page)
    conversation = await page.conversation()
    kept = (await stack.get(f"/conversations/{conversation}/messages"))["items"]
    assert [(m["role"], m["content"]) for m in kept][-2:] == [
        ("user", "Hello"),
        ("assistant", "All right."),
    ]
    before = await page.bubbles()

    await page.page.reload()
    await page.stored(2)
    assert await page.bubbles() == before
    await page.by("#new").click()
    await page.until("() => !document.querySelector('.bubble')")
    await page.by("#list a").click()
    await page.stored(2)
    assert await page.bubbles() == before
    await answered(page, "Still there?")
    assert await page.conversation() == conversation


async def test_typing_needs_no_sound_and_its_lack_is_told(engine, opened):
    # The two others play into nothing, and say that it is heard.
    page = await opened(*[] if engine.name == "firefox" else [HOSTILE, "hostile.silence()"])

    await answered(page)
    await notice(page, "There is no sound")


async def test_axe_finds_nothing(opened):
    page = await opened()

    assert await axe(page) == []
    await answered(page)
    await page.until(STILL)
    assert await axe(page) == []


async def test_a_refused_microphone_is_told_and_typing_works(engine, opened):
    # WebKit does not ask when a WebDriver controls it.
    refusal = [HOSTILE, "hostile.refuse('NotAllowedError')"] if engine.name == "webkit" else []
    page = await opened(*refusal)

    await page.talk()
    await notice(page, "The microphone is blocked")
    await answered(page)


async def test_an_error_of_the_page_is_seen(opened):
    page = await opened()

    await page.page.evaluate("console.error('first')")
    await page.page.evaluate(
        """new Promise((resolve) => { addEventListener('error', () => resolve(1));
            setTimeout(() => { throw new Error('second'); }); })"""
    )
    await page.page.evaluate("1")  # what was said comes at the latest with the next answer

    assert any("first" in problem for problem in page.problems)
    assert any("second" in problem for problem in page.problems)
    page.problems.clear()
