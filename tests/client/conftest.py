"""A real browser on a real relay: Chromium with a microphone that plays a file, and the two others
with the microphone of a sound system in which nobody speaks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import TimeoutError

from tests.client import engines
from tests.client.engines import CHROMIUM, ENGINES, Chromium, missing
from tests.client.sound_system import sound_system
from tests.client.stack import GREETING, standing
from tests.conftest import copy_database

HERE = Path(__file__).parent
AUDIO = HERE.parent / "audio"
TAP = (HERE / "tap.js").read_text("utf-8")
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 800}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
every_engine = pytest.mark.parametrize("engine", ENGINES, indirect=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(postgres, template):
    async with standing(await copy_database(postgres, template)) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(request):
    # Again and again; "%noloop" behind the name: once for each time that the microphone is opened.
    recording = getattr(request.module, "MICROPHONE", AUDIO / "hello.wav")
    async with engines.chromium({}, recording=recording) as made:
        yield made.browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system():
    """Where Firefox and WebKit find a microphone and a loudspeaker."""
    async with sound_system() as system:
        yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def firefox(system):
    async with ENGINES["firefox"](system.environ) as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webkit(system):
    async with ENGINES["webkit"](system.environ) as browser:
        yield browser


@pytest.fixture
def engine(request):
    """The browser of a test: Chromium, or with `every_engine` one after the other."""
    name = getattr(request, "param", "chromium")
    if why := missing(name):
        pytest.skip(why)
    browser = request.getfixturevalue(name)
    return Chromium(browser) if name == "chromium" else browser


# What the console says in any test: of tap.js; of a session given up as it opens (Chromium);
# of what is given up as the page is loaded again (Firefox).
ALWAYS = [
    *("ScriptProcessorNode is deprecated", "closed before the connection is est"),
    *("intercepted the request and encountered an unexpected error", "was interrupted"),
]
# What the console says when the network is away: Chromium, then Firefox.
LOST = [
    *("ERR_", "WebSocket connection"),
    *("establish a connection", "ServiceWorker passed a promise"),
]


class Page:
    """The client in one tab, with the words of a test; `problems` is what the console said."""

    def __init__(self, page, url):
        self.page = page
        self.url = url
        self.problems = []
        self.expected = [*ALWAYS]
        page.set_default_timeout(8000)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.text} ({message.location.get('url')})")

    def check(self):
        wrong = [p for p in self.problems if not any(re.search(e, p) for e in self.expected)]
        assert wrong == []

    async def open(self, path=""):
        await self.page.goto(self.url + path)
        await self.page.wait_for_function("document.body.dataset.word")

    def by(self, selector, **more):
        return self.page.locator(selector, **more)

    async def word(self, word, seconds=8):
        """Wait for the state word."""
        await self.until(
            "word => document.querySelector('#word').textContent === word", word, seconds
        )

    async def talk(self):
        await self.by("#mic").click()

    async def type(self, text):
        await self.by("#text").fill(text)
        await self.by("#text").press("Enter")

    async def bubbles(self):
        """`(role, text, stored)` of each but the greeting, which who types first never hears."""
        return await self.page.evaluate(
            """(greeting) => [...document.querySelectorAll('.bubble')].map((bubble) => [
                bubble.classList.contains('user') ? 'user' : 'assistant',
                bubble.dataset.text, bubble.querySelector('.tick') !== null])
                .filter(([, text]) => text !== greeting)""",
            GREETING,
        )

    async def until(self, condition, argument=None, seconds=8):
        try:
            await self.page.wait_for_function(
                condition, arg=argument, timeout=seconds * 1000, polling=50
            )
        except TimeoutError as error:
            seen = await self.page.evaluate(
                "[document.body.innerText, heard.events.map(e => e.type)]"
            )
            pytest.fail(f"{error}: {condition}\n{seen}\n{self.problems}", pytrace=False)

    async def says(self, text, seconds=8):
        """Wait until the newest bubble has this in it."""
        condition = """text => [...document.querySelectorAll('.bubble')]
            .at(-1)?.dataset.text.includes(text)"""
        await self.until(condition, text, seconds)

    async def stored(self, count, seconds=8):
        """Wait until so many bubbles are there, all with a tick."""
        await self.until(
            """([count, greeting]) => { const all = [...document.querySelectorAll('.bubble')];
                return all.every((b) => b.querySelector('.tick')) && count <=
                    all.filter((b) => b.dataset.text !== greeting).length; }""",
            [count, GREETING],
            seconds,
        )

    async def conversation(self):
        await self.until("() => location.hash.length > 30")
        return await self.page.evaluate("location.hash.slice(1)")


class Tabs:
    def __init__(self, engine, url):
        self.engine = engine
        self.url = url
        self.pages = []

    async def __call__(self, *scripts, size=DESKTOP, path="", go=True, **options):
        """`scripts` run before those of the page; `options` are for Chromium alone."""
        context = await self.engine.new_context("\n".join([TAP, *scripts]), size, **options)
        return await self._open(context, path if go else None)

    async def beside(self, page):
        """Another tab of the same browser, as of the same person."""
        return await self._open(page.page.context, "")

    async def _open(self, context, path):
        page = Page(await context.new_page(), self.url)
        self.pages.append(page)
        if path is not None:
            await page.open(path)
        return page

    async def close(self):
        for context in {page.page.context for page in self.pages}:
            await context.close()
        for page in self.pages:
            page.check()


@pytest_asyncio.fixture(loop_scope="module")
async def tab(stack, engine):
    """`await tab()` opens a page of its own; what its console says is an error of the test."""
    tabs = Tabs(engine, stack.url)
    yield tabs
    stack.network.mend()
    await tabs.close()
    await stack.hang_up()
