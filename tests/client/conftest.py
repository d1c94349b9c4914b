"""A real browser on a real relay: Chromium with a microphone that plays a file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from playwright.async_api import TimeoutError, async_playwright

from tests.client.stack import standing

CHROMIUM = shutil.which("chromium")
HERE = Path(__file__).parent
AUDIO = HERE.parent / "audio"
TAP = (HERE / "tap.js").read_text("utf-8")
PHONE = {"width": 360, "height": 740}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(postgres, template):
    name = f"client_{id(object()):x}"
    connection = await asyncpg.connect(postgres, statement_cache_size=0)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    finally:
        await connection.close()
    async with standing(postgres.replace("/postgres?", f"/{name}?", 1)) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(request):
    recording = getattr(request.module, "MICROPHONE", AUDIO / "hello.wav")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}%noloop",
                "--autoplay-policy=user-gesture-required",
            ],
        )
        yield browser
        await browser.close()


class Page:
    """The client in one tab, with the words of a test; `problems` is what the console said."""

    def __init__(self, page, url):
        self.page = page
        self.url = url
        self.problems = []
        self.expected = ["ScriptProcessorNode is deprecated"]  # ours, in tap.js
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

    def by(self, selector):
        return self.page.locator(selector)

    async def word(self, word, seconds=15):
        """Wait for the state word."""
        await self.page.wait_for_function(
            "word => document.querySelector('#word').textContent === word",
            arg=word,
            timeout=seconds * 1000,
        )

    async def talk(self):
        await self.by("#mic").click()

    async def type(self, text):
        await self.by("#text").fill(text)
        await self.by("#text").press("Enter")

    async def bubbles(self):
        """`(role, text, stored)` of each."""
        return await self.page.evaluate(
            """() => [...document.querySelectorAll('.bubble')].map((bubble) => [
                bubble.classList.contains('user') ? 'user' : 'assistant',
                bubble.dataset.text, bubble.querySelector('.tick') !== null])"""
        )

    async def until(self, condition, argument=None, seconds=15):
        try:
            await self.page.wait_for_function(
                condition, arg=argument, timeout=seconds * 1000, polling=50
            )
        except TimeoutError as error:
            seen = await self.page.evaluate("[document.body.innerText, heard.events.map(e => e.type)]")
            pytest.fail(f"{error}: {condition}\n{seen}\n{self.problems}", pytrace=False)

    async def stored(self, count, seconds=15):
        """Wait until so many bubbles are there, all with a tick."""
        await self.until(
            """count => document.querySelectorAll('.bubble').length >= count &&
                [...document.querySelectorAll('.bubble')].every((b) => b.querySelector('.tick'))""",
            count,
            seconds,
        )

    async def conversation(self):
        await self.until("() => location.hash.length > 30")
        return await self.page.evaluate("location.hash.slice(1)")


@pytest_asyncio.fixture(loop_scope="module")
async def tab(stack, chromium):
    """`await tab()` opens a page of its own; what its console says is an error of the test."""
    made = []

    async def make(*, size=None, path="", go=True, **context):
        context = await chromium.new_context(viewport=size or {"width": 1280, "height": 800}, **context)
        await context.add_init_script(TAP)
        page = Page(await context.new_page(), stack.url)
        made.append((context, page))
        if go:
            await page.open(path)
        return page

    yield make
    stack.network.mend()
    for context, page in made:
        await context.close()
    for _, page in made:
        page.check()

