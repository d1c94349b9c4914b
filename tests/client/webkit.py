"""WebKitGTK, as Debian has it, over WebDriver and on a display of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
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
        log = Path(home, "log")
        display = await asyncio.create_subprocess_exec(
            DISPLAY, "-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp",
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            number = (await display.stdout.readline()).decode().strip()
            environ = {"HOME": home, "DISPLAY": f":{number}"} | environ
            async with _driver(log, environ) as http:
                yield WebKit(http, log)
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
    """One page at a time, each in a program of its own, with nothing kept of it."""

    def __init__(self, http, log):
        self.http = http
        self.log = log

    async def new_page(self, *scripts):
        """A tab of a person of its own, whose pages run `scripts` before their own."""
        arguments = []
        for number, script in enumerate(scripts):
            file = self.log.with_name(f"script-{number}.js")
            file.write_text(script, "utf-8")
            arguments.append(str(file))
        options = {"binary": str(BROWSER), "args": arguments}
        wanted = {"webkitgtk:browserOptions": options, "timeouts": {"script": 80_000}}
        made = await self.http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
        assert made.status_code == 200, made.text + self.log.read_text("utf-8")
        return DrivenPage(Tab(self, made.json()["value"]["sessionId"]))


class Tab:
    def __init__(self, browser, session):
        self.browser = browser
        self.session = session
        self._read = browser.log.stat().st_size

    async def goto(self, url):
        await self._post("url", url=url)

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

    async def click(self, selector):
        await self._post(f"element/{await self._find(selector)}/click")

    async def keys(self, selector, text):
        await self._post(f"element/{await self._find(selector)}/value", text=text)

    async def messages(self):
        with self.browser.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        said = (json.loads(line) for line in whole.splitlines() if line.startswith(b"["))
        return [(type_.replace("warn", "warning"), text) for type_, text in said]

    async def close(self):
        answer = await self.browser.http.delete(f"/session/{self.session}")
        assert answer.status_code == 200, answer.text

    async def _find(self, selector):
        found = await self._post("element", using="css selector", value=selector)
        return found[ELEMENT]

    async def _post(self, path, **body):
        answer = await self.browser.http.post(f"/session/{self.session}/{path}", json=body)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer.json()["value"]
