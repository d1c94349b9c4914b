"""The browsers that we test in, each with `new_page(*scripts)`.

Their `environ` says where the sound system is.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

from playwright.async_api import async_playwright

from tests.client.conftest import CHROMIUM, DESKTOP
from tests.client.firefox import FIREFOX, firefox
from tests.client.webkit import missing as missing_for_webkit
from tests.client.webkit import webkit


class Chromium:
    def __init__(self, browser):
        self.browser = browser

    async def new_page(self, *scripts):
        context = await self.browser.new_context(viewport=DESKTOP)
        for script in scripts:
            await context.add_init_script(script)
        return await context.new_page()


@asynccontextmanager
async def chromium(environ, *, deny=False):
    """`deny`: whoever asks for the microphone is refused."""
    if deny:
        asked = ["--deny-permission-prompts", "--use-fake-device-for-media-stream"]
    else:
        asked = ["--use-fake-ui-for-media-stream"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", *asked],
            ignore_default_args=["--mute-audio"],
            env=os.environ | environ,
        )
        yield Chromium(browser)
        await browser.close()


ENGINES = {"chromium": chromium, "firefox": firefox, "webkit": webkit}


def missing(name):
    """Why this engine cannot be had; "" when it can."""
    if name == "webkit":
        return missing_for_webkit()
    found = {"chromium": CHROMIUM, "firefox": FIREFOX}[name]
    return "" if found else f"there is no {name}"
