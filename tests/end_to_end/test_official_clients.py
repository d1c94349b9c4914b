"""Deepgram's own clients against the whole program, with nothing changed but addresses and the key.

The real packages: `deepgram-sdk` from PyPI; `@deepgram/sdk` and `@deepgram/browser-agent` from npm,
in Node and in Chromium. Where these cannot be had the tests skip and say why. The agent is
scripted; each client hears the greeting, speaks, and sees what was said.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import wave
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.agent.v1.types import (
    AgentV1Settings,
    AgentV1SettingsAgent,
    AgentV1SettingsAgentListen,
    AgentV1SettingsAgentListenProvider_V1,
    AgentV1SettingsAudio,
    AgentV1SettingsAudioInput,
)
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from deepgram.types.speak_settings_v1 import SpeakSettingsV1
from deepgram.types.speak_settings_v1provider import SpeakSettingsV1Provider_Deepgram
from deepgram.types.think_settings_v1 import ThinkSettingsV1
from deepgram.types.think_settings_v1provider import ThinkSettingsV1Provider_OpenAi
from playwright.async_api import async_playwright

from relay.sandbox.script import Script, Turn
from tests.end_to_end.test_converse import granted
from tests.end_to_end.test_relay import GOAL, whole

# The SDK for Python uses old names of `websockets`.
pytestmark = pytest.mark.filterwarnings("ignore:websockets:DeprecationWarning")

CLIENTS = Path(__file__).parent / "clients"
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
WAV = Path(__file__).parents[1] / "audio" / "goal_marathon.wav"
PACKAGES = ("@deepgram/sdk@5.13.0", "@deepgram/browser-agent@0.2.1")
INSTALL_SECONDS = 120

SPOKEN = "I want to run a marathon in April."
TURN = Turn(when="audio", after=0.4, user=SPOKEN, calls=(GOAL,), say=("Done.", "What else?"))
SCRIPT = Script(turns=(TURN,))


# --- what each of them has to see, and must not ---------------------------------------------------


async def check(program, received, *, number=0):
    """`received`: the JSON messages that a client of the `number`-th session got, in order."""
    types = [message["type"] for message in received]
    texts = [(m["role"], m["content"]) for m in received if m["type"] == "ConversationText"]
    assert types[0] == "Welcome"
    assert types.count("SettingsApplied") == types.count("Welcome") == 1
    assert texts[0][0] == "assistant"
    assert texts[1:] == [("user", SPOKEN), ("assistant", "Done."), ("assistant", "What else?")]
    assert "Error" not in types

    agent = await program.sandbox.session(number)
    everything = json.dumps(received)
    think = agent.settings["agent"]["think"][0]
    secrets = [line for line in think["prompt"].splitlines() if len(line) > 20]
    secrets += [function["name"] for function in think["functions"]] + ["the-real-key"]
    assert len(secrets) > 5
    assert [secret for secret in secrets if secret in everything] == []
    assert "Relay" not in everything

    session = await program.ended({"session_id": received[0]["request_id"]})
    assert session["close_reason"] == "browser_left"
    conversation = f"/conversations/{session['conversation_id']}"
    stored = (await program.get(f"{conversation}/messages"))["items"]
    assert [(m["role"], m["content"]) for m in stored] == texts
    (call,) = (await program.get(f"{conversation}/intents"))["items"]
    assert (call["intent"], call["status"]) == ("GOAL", "submitted")
    return agent


# --- Python --------------------------------------------------------------------------------------


def readme(language, program):
    """The code in this language of the README's section on these clients, for this program."""
    section = README.split("## Use an official Deepgram client")[1].split("\n## ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert "127.0.0.1:8080" in code
    return code.replace("127.0.0.1:8080", f"127.0.0.1:{program.http.base_url.port}")


def environment(program):
    http = str(program.http.base_url).rstrip("/")
    ws = http.replace("http", "ws", 1)
    return DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)


def settings_of_the_readme():
    return AgentV1Settings(
        audio=AgentV1SettingsAudio(
            input=AgentV1SettingsAudioInput(encoding="linear16", sample_rate=16000)
        ),
        agent=AgentV1SettingsAgent(
            listen=AgentV1SettingsAgentListen(
                provider=AgentV1SettingsAgentListenProvider_V1(type="deepgram", model="nova-3")
            ),
            think=ThinkSettingsV1(
                provider=ThinkSettingsV1Provider_OpenAi(type="open_ai", model="gpt-4o-mini"),
                prompt="You are a helpful AI assistant.",
            ),
            speak=SpeakSettingsV1(
                provider=SpeakSettingsV1Provider_Deepgram(
                    type="deepgram", model="aura-2-asteria-en"
                )
            ),
        ),
    )


def microphone():
    with wave.open(str(WAV)) as file:
        samples = file.readframes(file.getnframes())
    return [samples[at : at + 1600] for at in range(0, len(samples), 1600)]


def as_json(message):
    return message if isinstance(message, dict) else json.loads(message.json())


def talk_sync(client):
    received, audio = [], 0
    with client.agent.v1.connect() as agent:
        agent.send_settings(settings_of_the_readme())
        agent.send_media(bytes(1600))  # at once
        while not received or received[-1].get("content") != "What else?":
            message = agent.recv()
            if isinstance(message, bytes):
                audio += len(message)
                continue
            received.append(as_json(message))
            if received[-1]["type"] == "AgentAudioDone":
                for frame in microphone():
                    agent.send_media(frame)
    return received, audio


async def talk_async(client):
    received, audio = [], 0
    async with client.agent.v1.connect() as agent:
        await agent.send_settings(settings_of_the_readme())
        await agent.send_media(bytes(1600))
        while not received or received[-1].get("content") != "What else?":
            message = await agent.recv()
            if isinstance(message, bytes):
                audio += len(message)
                continue
            received.append(as_json(message))
            if received[-1]["type"] == "AgentAudioDone":
                for frame in microphone():
                    await agent.send_media(frame)
    return received, audio


async def test_the_python_sdk_sync(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=SCRIPT) as program:
        await check_the_readme(program)
        there = environment(program)
        with httpx.Client() as http:  # the SDK closes none
            signed_in = DeepgramClient(api_key="none", environment=there, httpx_client=http)
            for number, name in enumerate(("api_key", "access_token"), 1):
                grant = await asyncio.to_thread(signed_in.auth.v1.tokens.grant, ttl_seconds=20)
                client = DeepgramClient(
                    **{name: grant.access_token}, environment=there, httpx_client=http
                )
                received, audio = await asyncio.to_thread(talk_sync, client)

                assert grant.expires_in == 20
                assert audio > 24000
                await check(program, received, number=number)


async def check_the_readme(program):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", readme("python", program), stdout=subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    assert b"Welcome" in printed


async def test_the_python_sdk_async(database_url, tmp_path):
    async with (
        whole(database_url, tmp_path, script=SCRIPT) as program,
        httpx.AsyncClient() as http,
    ):
        there = environment(program)
        signed_in = AsyncDeepgramClient(api_key="none", environment=there, httpx_client=http)
        for number, name in enumerate(("api_key", "access_token")):
            grant = await signed_in.auth.v1.tokens.grant()
            client = AsyncDeepgramClient(
                **{name: grant.access_token}, environment=there, httpx_client=http
            )
            received, audio = await talk_async(client)

            assert audio > 24000
            await check(program, received, number=number)
        with pytest.raises(ApiError) as refused:  # the ticket was used
            await talk_async(client)
        assert refused.value.status_code == 401


# --- JavaScript ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """A folder with `node_modules`."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no Node.js with npm")
    folder = tmp_path_factory.mktemp("packages")
    quiet = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
    try:
        done = subprocess.run(
            [npm, "install", "--prefer-offline", *quiet, *PACKAGES],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not answer within {INSTALL_SECONDS} s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install: {done.stderr.strip()[-200:]}")
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
