"""Deepgram's own clients against the whole program, with nothing changed but addresses and the key.

The real packages: `deepgram-sdk` from PyPI; `@deepgram/sdk` and `@deepgram/browser-agent` from npm,
in Node and in Chromium. Where these cannot be had the tests skip and say why. The agent is
scripted; each client hears the greeting, speaks, and sees what was said.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import wave
from contextlib import asynccontextmanager
from pathlib import Path

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
        there = environment(program)
        signed_in = DeepgramClient(api_key="what the sign-in takes", environment=there)
        for number, name in enumerate(("api_key", "access_token")):
            grant = await asyncio.to_thread(signed_in.auth.v1.tokens.grant, ttl_seconds=20)
            client = DeepgramClient(**{name: grant.access_token}, environment=there)
            received, audio = await asyncio.to_thread(talk_sync, client)

            assert grant.expires_in == 20
            assert audio > 24000
            await check(program, received, number=number)


async def test_the_python_sdk_async(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=SCRIPT) as program:
        there = environment(program)
        signed_in = AsyncDeepgramClient(api_key="what the sign-in takes", environment=there)
        for number, name in enumerate(("api_key", "access_token")):
            grant = await signed_in.auth.v1.tokens.grant()
            client = AsyncDeepgramClient(**{name: grant.access_token}, environment=there)
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


async def run_node(packages, program, ticket, credential):
    """What `sdk.mjs` printed, and how it ended."""
    script = shutil.copy(CLIENTS / "sdk.mjs", packages)
    url = str(program.http.base_url).rstrip("/")
    process = await asyncio.create_subprocess_exec(
        "node", script, url, ticket, credential, WAV, stdout=subprocess.PIPE
    )
    async with asyncio.timeout(40):
        output, _ = await process.communicate()
    return [json.loads(line) for line in output.splitlines()], process.returncode


@pytest.mark.timeout(INSTALL_SECONDS + 60)
async def test_the_javascript_sdk_in_node(database_url, tmp_path, packages):
    async with whole(database_url, tmp_path, script=SCRIPT) as program:
        for number, credential in enumerate(("apiKey", "accessToken")):
            lines, code = await run_node(packages, program, await granted(program), credential)
            received = [line for line in lines if not line["type"].startswith("(")]
            closes = [line for line in lines if line["type"] == "(close)"]

            assert code == 0
            assert [close["code"] for close in closes] == [1000]
            assert closes[0]["audio"] > 16000
            await check(program, received, number=number)


@asynccontextmanager
async def chromium(program, packages, page_name):
    """A page of `clients/` at the relay's own address, with a microphone that plays a file."""
    browser_path = shutil.which("chromium")
    if browser_path is None:
        pytest.skip("there is no Chromium")
    url = str(program.http.base_url).rstrip("/")
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
        await page.route(f"{url}/{page_name}", lambda r: r.fulfill(path=CLIENTS / page_name))
        await page.route(
            f"{url}/packages/**",
            lambda r: r.fulfill(
                path=packages / "node_modules" / r.request.url.removeprefix(f"{url}/packages/"),
                content_type="text/javascript",
            ),
        )
        await page.goto(f"{url}/{page_name}")
        yield page
        await browser.close()


@pytest.mark.timeout(INSTALL_SECONDS + 60)
async def test_the_javascript_sdk_in_a_browser(database_url, tmp_path, packages):
    async with (
        whole(database_url, tmp_path, script=SCRIPT) as program,
        chromium(program, packages, "sdk.html") as page,
    ):
        await page.evaluate("ticket => talk(ticket)", await granted(program))
        await page.wait_for_function("happened.closed !== null", timeout=20_000)
        happened = await page.evaluate("happened")

        assert happened["closed"] == 1000
        assert happened["audio"] > 16000
        await check(program, happened["messages"])


@pytest.mark.timeout(INSTALL_SECONDS + 60)
async def test_the_widget(database_url, tmp_path, packages):
    async with (
        whole(database_url, tmp_path, script=SCRIPT) as program,
        chromium(program, packages, "widget.html") as page,
    ):
        await page.wait_for_function("window.isReady")
        await page.evaluate("ticket => talk(ticket)", await granted(program))
        await page.wait_for_function(
            "happened.messages.some(m => m.content === 'What else?')", timeout=20_000
        )
        await page.evaluate("hangUp()")
        await page.wait_for_function("happened.closed !== null", timeout=5_000)
        happened = await page.evaluate("happened")

        assert happened["events"] == ["socket open"]
        assert happened["closed"] == 1000
        agent = await check(program, happened["messages"])
        assert agent.settings["audio"]["input"]["sample_rate"] in (44100, 48000)
        assert agent.audio_bytes == agent.frames * 8192 > 0
