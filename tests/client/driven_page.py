"""A page of a browser that Playwright does not drive, with those of its names that tests use."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

from playwright.async_api import TimeoutError

KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Space": " ", "Tab": "\ue004"}  # for WebDriver
WAIT = """(async () => {
    const end = performance.now() + %(timeout)d;
    for (;;) {
        if (await %(condition)s) return true;
        if (performance.now() > end) return false;
        await new Promise((resolve) => setTimeout(resolve, 50));
    } })()"""
FIND = """([selector, text, index]) => {
    const all = [...document.querySelectorAll(selector)]
        .filter((node) => !text || node.innerText.includes(text));
    const one = all.at(index);
    return %s; }"""
CENTRE = """(() => { one.scrollIntoView({ block: 'nearest', behavior: 'instant' });
    const { x, y, width, height } = one.getBoundingClientRect();
    return [Math.round(x + width / 2), Math.round(y + height / 2)]; })()"""
EMPTY = """(one.focus(), one.value &&= '',
    one.dispatchEvent(new Event('input', { bubbles: true })))"""


class DrivenPage:
    """`tab` does what its protocol can: goes to a URL, loads it again, comes to the front,
    evaluates, clicks at a point and types to where the focus is.

    Its `evaluate` takes an expression whose value, or what that promises, is JSON or undefined; its
    `messages` are `(type, text)` of the console, the new ones each time.
    """

    def __init__(self, tab, context):
        self.tab = tab
        self.context = context
        self.keyboard = self
        self.timeout = 8000
        self._said = lambda message: None

    def set_default_timeout(self, milliseconds):
        self.timeout = milliseconds

    def on(self, event, handler):
        if event == "console":  # what is thrown comes as a message, too
            self._said = handler

    async def goto(self, url):
        await self.tab.goto(url)

    async def reload(self):
        await self.tab.reload()

    async def bring_to_front(self):
        await self.tab.bring_to_front()

    async def evaluate(self, script, argument=None):
        value = await self.tab.evaluate(
            f"(async () => JSON.stringify(await {_call(script, argument)}))()"
        )
        await self.hear()
        return None if value is None else json.loads(value)

    async def wait_for_function(self, condition, *, arg=None, timeout=None, polling=50):
        wait = {"condition": _call(condition, arg), "timeout": timeout or self.timeout}
        if not await self.evaluate(WAIT % wait):
            raise TimeoutError(f"not so after {wait['timeout']} ms")

    async def wait_for_timeout(self, milliseconds):
        await asyncio.sleep(milliseconds / 1000)

    async def press(self, key):
        await self.tab.type(KEYS[key])

    def locator(self, selector, has_text=""):
        return Locator(self, selector, has_text)

    async def hear(self):
        """What its console has said meanwhile."""
        for type_, text in await self.tab.messages():
            self._said(SimpleNamespace(type=type_, text=text, location={}))


class Locator:
    """The first element that is found, or another one; what is done to it waits until it is
    seen."""

    def __init__(self, page, selector, text, index=0):
        self.page = page
        self.selector = selector
        self.text = text
        self.index = index

    @property
    def first(self):
        return Locator(self.page, self.selector, self.text, 0)

    @property
    def last(self):
        return Locator(self.page, self.selector, self.text, -1)

    async def wait_for(self):
        await self._until("one?.checkVisibility()")

    async def click(self):
        await self._until("one?.checkVisibility() && !one.disabled")
        await self.page.tab.click(*await self._ask(CENTRE))
        await self.page.hear()

    async def focus(self):
        await self.wait_for()
        await self._ask("one.focus()")

    async def fill(self, text):
        await self.wait_for()
        await self._ask(EMPTY)
        await self.press_sequentially(text)

    async def press_sequentially(self, text):
        await self.focus()
        if text:
            await self.page.tab.type(text)

    async def press(self, key):
        await self.focus()
        await self.page.press(key)

    async def inner_text(self):
        await self.wait_for()
        return await self._ask("one.innerText")

    async def input_value(self):
        return await self._ask("one.value")

    async def get_attribute(self, name):
        return await self._ask(f"one.getAttribute('{name}')")

    async def is_visible(self):
        return await self._ask("Boolean(one?.checkVisibility())")

    async def is_disabled(self):
        return await self._ask("one.disabled")

    async def count(self):
        return await self._ask("all.length")

    async def all_inner_texts(self):
        return await self._ask("all.map((node) => node.innerText)")

    async def _ask(self, what):
        return await self.page.evaluate(FIND % what, self._which)

    async def _until(self, what):
        await self.page.wait_for_function(FIND % what, arg=self._which)

    @property
    def _which(self):
        return [self.selector, self.text, self.index]


def _call(script, argument):
    """An expression: the value of the script, or of the function that it is."""
    source = script.strip().rstrip(";")
    return (
        f"((value) => typeof value === 'function' ? value({json.dumps(argument)}) : value)"
        f"((\n{source}\n))"
    )
