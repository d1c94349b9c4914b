"""A page of a browser that Playwright does not drive, with those of its names that tests use."""

from __future__ import annotations

import json
from types import SimpleNamespace

from playwright.async_api import TimeoutError

KEYS = {"Enter": "\ue007"}  # as WebDriver calls them
VISIBLE = "selector => document.querySelector(selector)?.checkVisibility()"
WAIT = """(async () => {
    const end = performance.now() + %(timeout)d;
    for (;;) {
        if (await %(condition)s) return true;
        if (performance.now() > end) return false;
        await new Promise((resolve) => setTimeout(resolve, 50));
    } })()"""


class DrivenPage:
    """`tab` does what its protocol can: goes to a URL, loads it again, evaluates, clicks and types.

    Its `evaluate` takes an expression whose value, or what that promises, is JSON or undefined; its
    `messages` are `(type, text)` of the console, the new ones each time.
    """

    def __init__(self, tab):
        self.tab = tab
        self.context = self  # it has one of its own
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

    async def evaluate(self, script, argument=None):
        value = await self.tab.evaluate(
            f"(async () => JSON.stringify(await {_call(script, argument)}))()"
        )
        await self._hear()
        return None if value is None else json.loads(value)

    async def wait_for_function(self, condition, *, arg=None, timeout=None, polling=50):
        wait = {"condition": _call(condition, arg), "timeout": timeout or self.timeout}
        if not await self.evaluate(WAIT % wait):
            raise TimeoutError(f"not so after {wait['timeout']} ms")

    def locator(self, selector):
        return Locator(self, selector)

    async def close(self):
        await self._hear()
        await self.tab.close()

    async def _hear(self):
        for type_, text in await self.tab.messages():
            self._said(SimpleNamespace(type=type_, text=text, location={}))


class Locator:
    """The first element that is found; it is waited for."""

    def __init__(self, page, selector):
        self.page = page
        self.selector = selector
        self.first = self

    async def wait_for(self):
        await self.page.wait_for_function(VISIBLE, arg=self.selector)

    async def click(self):
        await self.wait_for()
        await self.page.tab.click(self.selector)

    async def fill(self, text):
        await self.wait_for()
        await self.page.tab.keys(self.selector, text)

    async def press(self, key):
        await self.page.tab.keys(self.selector, KEYS[key])

    async def inner_text(self):
        await self.wait_for()
        return await self.page.evaluate(
            "selector => document.querySelector(selector).innerText", self.selector
        )


def _call(script, argument):
    """An expression: the value of the script, or of the function that it is."""
    source = script.strip().rstrip(";")
    return (
        f"((value) => typeof value === 'function' ? value({json.dumps(argument)}) : value)"
        f"((\n{source}\n))"
    )
