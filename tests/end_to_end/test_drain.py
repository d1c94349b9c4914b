"""The whole program is told to stop in the middle of a turn."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

import config
from config.loader import load
from config.settings import from_environment
from control.app import create_app
from control.http.server import listen, serving
from tests.relay.wires import Agent, next_event

API = "/api/v1/voice"


@asynccontextmanager
async def program(database_url, tmp_path, stop):
    """Agent, HTTP client and port of a program that runs until `stop` is set."""
    agent = Agent()
    async with serve(agent.handle, "127.0.0.1", 0) as server:
        agent_port = server.sockets[0].getsockname()[1]
        settings = from_environment(
            {
                "DEEPGRAM_API_KEY": "the-real-key",
                "DEEPGRAM_AGENT_URL": f"ws://127.0.0.1:{agent_port}/",
                "DATABASE_URL": database_url,
                "ORCHESTRATOR_URL": "http://127.0.0.1:1",
                "RELAY_DATA_DIR": str(tmp_path),
            }
        )
        app = create_app(settings, load(Path(config.__file__).parent, {}))
        listener = listen("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        async def run():
            async with serving(app, listener):
                started.set()
                await stop.wait()

        started = asyncio.Event()
        async with asyncio.TaskGroup() as tasks, httpx.AsyncClient(base_url=url) as http:
            tasks.create_task(run(), name="program")
            await started.wait()
            yield agent, http
            stop.set()


async def events_until_closed(browser):
    seen = []
    try:
        while True:
            seen.append(json.loads(await browser.recv())["type"])
    except ConnectionClosed:
        return seen


async def attach(http):
    begun = (await http.post(f"{API}/session")).json()
    return await connect(begun["websocket_url"], subprotocols=["relay.v1", begun["ticket"]])


async def test_while_a_turn_comes_to_its_end_nobody_else_is_let_in(database_url, tmp_path):
    stop = asyncio.Event()
    async with asyncio.timeout(20), program(database_url, tmp_path, stop) as (agent, http):
        browser = await attach(http)
        await next_event(browser, "SettingsApplied")
        await agent.say(type="ConversationText", role="user", content="Hello.")
        await next_event(browser, "ConversationText")

        stop.set()
        assert (await next_event(browser, "RelayGoAway"))["resume_ticket"]
        refused = await http.post(f"{API}/session")
        ready = await http.get("/health/ready")
        await agent.say(type="ConversationText", role="assistant", content="Hi.")
        await agent.say(type="AgentAudioDone")
        seen = await events_until_closed(browser)

        assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
        assert ready.json()["reasons"] == ["the relay stops"]
        assert "AgentAudioDone" in seen
        assert browser.close_code == 1012


async def test_a_browser_that_comes_back_to_the_whole_program_goes_on(database_url, tmp_path):
    stop = asyncio.Event()
    async with asyncio.timeout(20), program(database_url, tmp_path, stop) as (agent, http):
        begun = (await http.post(f"{API}/session")).json()
        offered = ["relay.v1", begun["ticket"]]
        browser = await connect(begun["websocket_url"], subprotocols=offered)
        ticket = (await next_event(browser, "RelaySession"))["resume_ticket"]
        await next_event(browser, "SettingsApplied")
        browser.transport.abort()
        await agent.say(type="ConversationText", role="assistant", content="Are you there?")

        url = f"{begun['websocket_url']}?received=2"
        async with connect(url, subprotocols=["relay.v1", ticket]) as browser:
            await next_event(browser, "RelaySession")
            text = await next_event(browser, "ConversationText")
            await next_event(browser, "RelayMessageSaved")

        assert text["content"] == "Are you there?"
