"""`@deepgram/sdk` and `@deepgram/browser-agent` from npm against the whole program, unchanged.

In Node and in Chromium; where these cannot be had the tests skip and say why. The agent is
scripted; each client hears the greeting, speaks, and sees what was said.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from loadtests.npm import INSTALL_SECONDS
from tests.end_to_end.official import SCRIPT, WAV, check, environment, readme
from tests.end_to_end.test_converse import granted
from tests.end_to_end.test_relay import whole
from tests.npm import install, need_node

CLIENTS = Path(__file__).parent / "clients"
PACKAGES = ("@deepgram/sdk@5.13.0", "@deepgram/browser-agent@0.2.1")


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """A folder with `node_modules`."""
    need_node()
    folder = tmp_path_factory.mktemp("packages")
    install(folder, "--no-save", *PACKAGES)
    return folder


async def run_node(packages, url, ticket, credential, heard=lambda line: None):
    """What `sdk.mjs` printed, and how it ended; `heard` gets each line as it comes."""
    script = shutil.copy(CLIENTS / "sdk.mjs", packages)
    process = await asyncio.create_subprocess_exec(
        "node", script, url, ticket, credential, WAV, stdout=subprocess.PIPE
    )
    lines = []
    async with asyncio.timeout(40):
        async for line in process.stdout:
            lines.append(json.loads(line))
            heard(lines[-1])
        return lines, await process.wait()


TO_THE_WELCOME = """
connection.on("message", ({ type }) => { console.log(type); connection.close(); });
connection.connect();
"""


@pytest.mark.timeout(INSTALL_SECONDS + 60)
async def test_the_javascript_sdk_in_node(database_url, tmp_path, packages):
    async with whole(database_url, tmp_path, script=SCRIPT) as program:
        for number, credential in enumerate(("apiKey", "accessToken")):
            url = environment(program).base
            lines, code = await run_node(packages, url, await granted(program), credential)
            received = [line for line in lines if not line["type"].startswith("(")]
            closes = [line for line in lines if line["type"] == "(close)"]

            assert code == 0
            assert [close["code"] for close in closes] == [1000]
            assert closes[0]["audio"] > 16000
            await check(program, received, number=number)
        script = packages / "readme.mjs"
        script.write_text(readme("js", program) + TO_THE_WELCOME, "utf-8")
        process = await asyncio.create_subprocess_exec("node", script, stdout=subprocess.PIPE)
        printed, _ = await process.communicate()
        assert (process.returncode, printed) == (0, b"Welcome\n")


@asynccontextmanager
async def cable(program):
    """A way to the relay that can be cut: yields its URL and what cuts all that goes through it."""
    host, port = program.http.base_url.host, program.http.base_url.port
    transports = []

    async def pass_on(reader, writer):
        there, to_there = await asyncio.open_connection(host, port)
        transports.extend((writer.transport, to_there.transport))

        async def copy(source, target):
            try:
                while data := await source.read(65536):
                    target.write(data)
            except ConnectionError:
                pass  # it was cut
            target.transport.abort()

        await asyncio.gather(copy(reader, to_there), copy(there, writer))

    def cut():
        for transport in transports:
            transport.abort()

    async with await asyncio.start_server(pass_on, host, 0) as server:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}", cut


@pytest.mark.timeout(INSTALL_SECONDS + 60)
async def test_a_broken_connection_makes_the_javascript_sdk_try_once_and_stop(
    database_url, tmp_path, packages
):
    async with (
        whole(database_url, tmp_path, script=SCRIPT) as program,
        cable(program) as (url, cut),
    ):

        def heard(line):
            if line["type"] == "SettingsApplied":
                cut()

        ticket = await granted(program)
        lines, code = await run_node(packages, url, ticket, "accessToken", heard)
        session = await program.ended({"session_id": lines[0]["request_id"]})

        errors = [line["text"] for line in lines if line["type"] == "(error)"]
        closes = [line["code"] for line in lines if line["type"] == "(close)"]
        assert (code, errors, closes[0]) == (0, ["Unexpected server response: 401"], 1006)
        assert session["close_reason"] == "browser_lost"
        assert len(program.sandbox.sessions) == 1  # it cost nobody an agent


@asynccontextmanager
async def chromium(program, packages, html):
    """A page at the relay's own address, with a microphone that plays a file."""
    browser_path = shutil.which("chromium")
    if browser_path is None:
        pytest.skip("there is no Chromium")
    url = environment(program).base
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=browser_path,
            args=[
                "--no-sandbox",  # we may be root
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={WAV}",
                "--autoplay-policy=no-user-gesture-required",
                # A page that a test fulfils has no address, so our own looks like a foreign one.
                "--disable-features=LocalNetworkAccessChecks",
            ],
        )
        page = await browser.new_page()
        await page.route(
            f"{url}/page", lambda r: r.fulfill(body=html, content_type="text/html; charset=utf-8")
        )
        await page.route(
            f"{url}/packages/**",
            lambda r: r.fulfill(
                path=packages / "node_modules" / r.request.url.removeprefix(f"{url}/packages/"),
                content_type="text/javascript",
            ),
        )
        await page.goto(f"{url}/page")
        yield page
        await browser.close()


@pytest.mark.timeout(INSTALL_SECONDS + 60)
async def test_the_javascript_sdk_in_a_browser(database_url, tmp_path, packages):
    async with (
        whole(database_url, tmp_path, script=SCRIPT) as program,
        chromium(program, packages, (CLIENTS / "sdk.html").read_text("utf-8")) as page,
    ):
        await page.evaluate("ticket => talk(ticket)", await granted(program))
        await page.wait_for_function("happened.closed !== null", timeout=20_000)
        happened = await page.evaluate("happened")

        assert happened["closed"] == 1000
        assert happened["audio"] > 16000
        await check(program, happened["messages"])


WATCH_THE_WIDGET = """() => {
window.happened = { messages: [], events: [], closed: null };
const agent = document.querySelector("deepgram-agent");
agent.addEventListener("structured message", ({ detail }) => happened.messages.push(detail));
agent.addEventListener("socket close", ({ detail }) => (happened.closed = detail.code));
for (const name of ["socket open", "failed setup", "invalid auth", "empty audio",
    "unknown message", "connection timeout", "failed to connect user media"]) {
  agent.addEventListener(name, () => happened.events.push(name));
}
}"""


@pytest.mark.timeout(INSTALL_SECONDS + 60)
async def test_the_widget(database_url, tmp_path, packages):
    async with whole(database_url, tmp_path, script=SCRIPT) as program:
        html = readme("html", program).replace(
            "@deepgram/browser-agent", "/packages/@deepgram/browser-agent/dist/index.mjs"
        )
        async with chromium(program, packages, html) as page:
            await page.wait_for_function("!!document.querySelector('deepgram-agent').onclick")
            await page.evaluate(WATCH_THE_WIDGET)
            await page.click("deepgram-agent")
            await page.wait_for_function(
                "happened.messages.some(m => m.content === 'What else?')", timeout=20_000
            )
            await page.evaluate(
                "document.querySelector('deepgram-agent').removeAttribute('config')"
            )
            await page.wait_for_function("happened.closed !== null", timeout=5_000)
            happened = await page.evaluate("happened")

        assert happened["events"] == ["socket open"]
        assert happened["closed"] == 1000
        agent = await check(program, happened["messages"])
        assert agent.settings["audio"]["input"]["sample_rate"] in (44100, 48000)
        assert agent.audio_bytes == agent.frames * 8192 > 0
