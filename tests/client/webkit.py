"""WebKitGTK, as Debian has it, over WebDriver and on a display of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import httpx

from loadtests.processes import free_port
from tests.client.driven_page import DrivenPage

DRIVER = shutil.which("WebKitWebDriver")
DISPLAY = shutil.which("Xvfb")
PYTHON = "/usr/bin/python3"  # of the system: no other has its GTK
SOUND = "*/gstreamer-1.0/libgstpulseaudio.so"
BROWSER = Path(__file__).with_name("webkit_browser.py")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, says the standard


def missing():
    """What is not there of what it needs; "" when all is."""
    if DRIVER is None or DISPLAY is None or not Path(PYTHON).exists():
        return f"there is no WebKitWebDriver, no Xvfb or no {PYTHON}"
    wants = "import gi; gi.require_version('WebKit2', '4.1'); from gi.repository import WebKit2"
    found = subprocess.run([PYTHON, "-c", wants], capture_output=True, check=False)
    if found.returncode:
        return "the Python of the system has no WebKitGTK"
    return "" if any(Path("/usr/lib").glob(SOUND)) else "GStreamer has no PulseAudio"


@asynccontextmanager
async def webkit(environ):
    with tempfile.TemporaryDirectory(prefix="webkit-", ignore_cleanup_errors=True) as home:
        display = await asyncio.create_subprocess_exec(
            DISPLAY, "-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp",
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            number = (await display.stdout.readline()).decode().strip()
            yield WebKit(Path(home), {"HOME": home, "DISPLAY": f":{number}"} | environ)
        finally:
            display.terminate()
            await display.wait()


@asynccontextmanager
async def _driver(log, environ):
    port = free_port()
    with log.open("wb") as out:
        driver = await asyncio.create_subprocess_exec(
            DRIVER, f"--port={port}", stdout=out, stderr=out, env=os.environ | environ
        )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=90, trust_env=False) as http:
            await _ready(http)
            yield http
    finally:
        driver.terminate()
        await driver.wait()


async def _ready(http):
    async with asyncio.timeout(30):
        while True:
            try:
                await http.get("/status")
                return
            except httpx.TransportError:
                await asyncio.sleep(0.05)  # another program: there is nothing to wait on


class WebKit:
    """`environ` is for its programs, which keep their files in `folder`."""

    def __init__(self, folder, environ):
        self.folder = folder
        self.environ = environ
        self._ids = count(1)

    async def new_context(self, script, size):
        """A program of its own, with nothing kept of it; its pages run `script` before their
        own."""
        number = next(self._ids)
        log, before = self.folder / f"log-{number}", self.folder / f"script-{number}.js"
        before.write_text(script, "utf-8")
        stack = AsyncExitStack()
        http = await stack.enter_async_context(_driver(log, self.environ))
        options = {"binary": str(BROWSER), "args": [str(before)]}
        wanted = {"webkitgtk:browserOptions": options, "timeouts": {"script": 80_000}}
        made = await http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
        assert made.status_code == 200, made.text + log.read_text("utf-8")
        return Program(stack, http, made.json()["value"]["sessionId"], log, size)


class Program:
    """One browser: a driver has only one. Its pages are windows."""

    def __init__(self, stack, http, session, log, size):
        self.stack = stack
        self.http = http
        self.session = session
        self.log = log
        self.size = size
        self.pages = []
        self._read = log.stat().st_size
        self._window = None  # that commands are about

    async def new_page(self):
        if self.pages:
            window = (await self.post("window/new", type="window"))["handle"]
        else:
            window = await self.ask("GET", "window")
        page = DrivenPage(Tab(self, window), self)
        self.pages.append(page)
        await self.turn_to(window)
        await self.post("window/rect", **self.size)
        return page

    async def turn_to(self, window):
        if window != self._window:
            await self.post("window", handle=window)
            self._window = window

    async def close(self):
        for page in self.pages:
            await page.hear()
        await self.ask("DELETE", "")
        await self.stack.aclose()

    async def post(self, path, **body):
        return await self.ask("POST", path, body)

    async def ask(self, method, path, body=None):
        url = f"/session/{self.session}/{path}".rstrip("/")
        answer = await self.http.request(method, url, json=body)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer.json()["value"]

    def take_messages(self):
        """Of all its pages: they say it into one file."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        said = (json.loads(line) for line in whole.splitlines() if line.startswith(b"["))
        return [(type_.replace("warn", "warning"), text) for type_, text in said]


class Tab:
    def __init__(self, program, window):
        self.program = program
        self.window = window

    async def goto(self, url):
        await self._post("url", url=url)

    async def bring_to_front(self):
        pass  # each is a window that is seen

    async def reload(self):
        await self._post("refresh")

    async def evaluate(self, expression):
        script = (
            "const done = arguments[0];\n"
            f"({expression}).then((value) => done([value]), (error) => done(String(error)));"
        )
        told = await self._post("execute/async", script=script, args=[])
        if isinstance(told, str):
            raise AssertionError(told)
        return told[0]

    async def click(self, x, y):
        steps = [
            {"type": "pointerMove", "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        await self._post("actions", actions=[{"type": "pointer", "id": "mouse", "actions": steps}])

    async def type(self, text):
        found = await self._post("execute/sync", script="return document.activeElement", args=[])
        await self._post(f"element/{found[ELEMENT]}/value", text=text)

    async def messages(self):
        return self.program.take_messages()

    async def _post(self, path, **body):
        await self.program.turn_to(self.window)
        return await self.program.post(path, **body)
