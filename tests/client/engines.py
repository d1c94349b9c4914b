"""The browsers that we test in, each with `new_context(script, size)`.

Their `environ` says where the sound system is. What a context has is that of Playwright's: a person
of their own, whose pages run `script` before their own; `size` is that of the page.
"""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from functools import cache

from playwright.async_api import async_playwright

from tests.client.firefox import FIREFOX, firefox
from tests.client.sound_system import PULSEAUDIO
from tests.client.webkit import missing as missing_for_webkit
from tests.client.webkit import webkit

CHROMIUM = shutil.which("chromium")


class Chromium:
    def __init__(self, browser):
        self.browser = browser

    async def new_context(self, script, size, **options):
        context = await self.browser.new_context(viewport=size, **options)
        await context.add_init_script(script)
        return context


@asynccontextmanager
async def chromium(environ, *, deny=False, recording=None):
    """`deny`: whoever asks for the microphone is refused; `recording`: what it plays."""
    arguments = [
        "--no-sandbox",
        "--autoplay-policy=user-gesture-required",
        "--host-resolver-rules=MAP relay.test 127.0.0.1",  # http that is not this machine
        "--deny-permission-prompts" if deny else "--use-fake-ui-for-media-stream",
    ]
    if deny or recording:
        arguments.append("--use-fake-device-for-media-stream")
    if recording:
        arguments.append(f"--use-file-for-fake-audio-capture={recording}")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=arguments,
            ignore_default_args=None if recording else ["--mute-audio"],
            env=os.environ | environ,
        )
        yield Chromium(browser)
        await browser.close()


ENGINES = {"chromium": chromium, "firefox": firefox, "webkit": webkit}


@cache
def missing(name):
    """Why this engine cannot be had; "" when it can."""
    if name == "chromium":
        return "" if CHROMIUM else "there is no chromium"
    if PULSEAUDIO is None:
        return "there is no pulseaudio"
    return missing_for_webkit() if name == "webkit" else "" if FIREFOX else "there is no firefox"
