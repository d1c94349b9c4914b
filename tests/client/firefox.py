"""Firefox, over WebDriver BiDi: it speaks that itself, and Debian has no geckodriver."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from websockets.asyncio.client import connect

from tests.client.driven_page import DrivenPage

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
# Nothing is fetched from elsewhere but what a page asks for: Firefox itself sees to most of it.
PREFERENCES = {"dom.ipc.processCount": 1}
# Nobody answers a question; a refusal needs a device to refuse.
GRANTED = {"permissions.default.microphone": 1}
REFUSED = {"permissions.default.microphone": 2, "media.navigator.streams.fake": True}


@asynccontextmanager
async def firefox(environ, *, deny=False):
    """`deny`: whoever asks for the microphone is refused."""
    preferences = PREFERENCES | (REFUSED if deny else GRANTED)
    with tempfile.TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True) as profile:
        folder = Path(profile)
        lines = (f'user_pref("{k}", {json.dumps(v)});\n' for k, v in preferences.items())
        (folder / "user.js").write_text("".join(lines), "utf-8")
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                FIREFOX, "--headless", "--remote-debugging-port=0", "--profile", profile,
                env=os.environ | {"HOME": profile} | environ, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            url = await _listening(process, folder / "log")
            async with connect(
                f"{url}/session", max_size=None, max_queue=None, ping_interval=None, proxy=None
            ) as socket:
                browser = Firefox(socket)
                await browser.call("session.new", capabilities={})
                await browser.call("session.subscribe", events=["log.entryAdded"])
                yield browser
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _listening(process, log):
    async with asyncio.timeout(60):
        while process.returncode is None:
            if found := re.search(r"BiDi listening on (ws://\S+)", log.read_text("utf-8")):
                return found[1]
            await asyncio.sleep(0.05)  # another program: there is nothing to wait on
    raise AssertionError(f"Firefox did not start: {log.read_text('utf-8')}")


class Firefox:
    """One command after the other; what is told meanwhile is kept for the tab that it is about."""

    def __init__(self, socket):
        self._socket = socket
        self._ids = count(1)
        self._messages = {}  # by tab
        self.front = None  # the tab that is seen

    async def call(self, method, **params):
        number = next(self._ids)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            told = json.loads(await self._socket.recv())
            if told.get("method") == "log.entryAdded":
                entry = told["params"]
                told_by = self._messages.setdefault(entry["source"].get("context"), [])
                told_by.append((entry["level"].replace("warn", "warning"), entry["text"]))
            if told.get("id") != number:
                continue
            if told["type"] == "error":
                raise AssertionError(f"{method}: {told['message']}")
            return told["result"]

    async def new_context(self, script, size):
        """A person of their own, whose pages run `script` before their own."""
        person = (await self.call("browser.createUserContext"))["userContext"]
        await self.call(
            "script.addPreloadScript",
            functionDeclaration=f"() => {{ if (isSecureContext) {{ {script} }} }}",  # no empty tab
            userContexts=[person],
        )
        return Person(self, person, size)

    def take_messages(self, tab):
        return self._messages.pop(tab, [])


class Person:
    def __init__(self, browser, id_, size):
        self.browser = browser
        self.id = id_
        self.size = size
        self.pages = []

    async def new_page(self):
        told = await self.browser.call("browsingContext.create", type="tab", userContext=self.id)
        tab = Tab(self.browser, told["context"])
        self.browser.front = tab.id
        await tab.call("browsingContext.setViewport", viewport=self.size)
        self.pages.append(DrivenPage(tab, self))
        return self.pages[-1]

    async def close(self):
        for page in self.pages:
            await page.hear()
        await self.browser.call("browser.removeUserContext", userContext=self.id)


class Tab:
    def __init__(self, browser, id_):
        self.browser = browser
        self.id = id_

    async def call(self, method, **params):
        return await self.browser.call(method, context=self.id, **params)

    async def goto(self, url):
        await self.call("browsingContext.navigate", url=url, wait="complete")

    async def bring_to_front(self):
        if self.browser.front != self.id:
            await self.call("browsingContext.activate")
            self.browser.front = self.id

    async def reload(self):
        await self.call("browsingContext.reload", wait="complete")

    async def evaluate(self, expression):
        told = await self.browser.call(
            "script.evaluate",
            expression=expression,
            target={"context": self.id},
            awaitPromise=True,
        )
        if told["type"] == "exception":
            raise AssertionError(told["exceptionDetails"]["text"])
        return told["result"].get("value")

    async def click(self, x, y):
        """As a person does: a page may ask for sound and microphone then."""
        await self._act(
            "pointer",
            [
                {"type": "pointerMove", "x": x, "y": y},
                {"type": "pointerDown", "button": 0},
                {"type": "pointerUp", "button": 0},
            ],
        )

    async def type(self, text):
        strokes = ({"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp"))
        await self._act("key", list(strokes))

    async def _act(self, device, actions):
        await self.bring_to_front()  # in another tab nobody clicks
        await self.call(
            "input.performActions", actions=[{"type": device, "id": device, "actions": actions}]
        )

    async def messages(self):
        return self.browser.take_messages(self.id)
