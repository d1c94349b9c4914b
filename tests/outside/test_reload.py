"""SIGHUP: what the files say now, for sessions that begin from then on."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import asynccontextmanager

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from tests.chaos.stage import staged, until
from tests.relay.wires import Agent, next_event

API = "/api/v1/voice"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def stage(database_url, tmp_path):
    async with staged(tmp_path, database_url) as stage:
        yield stage
        await stage.stop_relays()


class Agents(Agent):
    """Keeps the key of each connection."""

    def __init__(self):
        super().__init__()
        self.keys = []

    async def handle(self, connection):
        self.keys.append(connection.request.headers["Authorization"])
        await super().handle(connection)


@asynccontextmanager
async def agents():
    agent = Agents()
    async with serve(agent.handle, "127.0.0.1", 0) as server:
        yield agent, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@asynccontextmanager
async def attached(stage, relay):
    begun = (await stage.http.post(f"{relay.url}{API}/session")).json()
    ticket = ["relay.v1", begun["ticket"]]
    async with connect(begun["websocket_url"], subprotocols=ticket) as browser:
        await next_event(browser, "SettingsApplied")
        yield browser


async def said(relay, line, times=1):
    async def is_said():
        return relay.output.count(line) >= times

    await until(is_said, 30)


def told(agent):
    """The prompts of the agents, in the order of their Settings."""
    settings = [text for text in agent.texts if text["type"] == "Settings"]
    return [one["agent"]["think"][0]["prompt"] for one in settings]


async def test_new_sessions_have_what_the_files_say_and_live_ones_stay(stage, tmp_path):
    key = tmp_path / "key"
    key.write_text("the-old-key\n")
    async with agents() as (agent, url):
        relay = stage.relay(
            DEEPGRAM_API_KEY="",
            DEEPGRAM_API_KEY_FILE=str(key),
            DEEPGRAM_AGENT_URL=url,
            RELAY_DIAL_AHEAD="0",
        )
        await relay.start()
        folder = tmp_path / "config"
        async with attached(stage, relay) as first:
            prompt = folder / "system_prompt.md"
            prompt.write_text("A new prompt. " + prompt.read_text("utf-8"), "utf-8")
            key.write_text("the-new-key\n")
            relay.signal(signal.SIGHUP)
            await said(relay, "configuration_reloaded")
            async with attached(stage, relay):
                pass
            # The live one: its next agent is told what the first was, with a key that is good.
            await agent.connections[0].close(1011)
            await next_event(first, "RelayReconnected")

    old, new, again = told(agent)
    assert new.startswith("A new prompt. ")
    assert old.startswith(again.split("\n")[0])
    assert not again.startswith("A new prompt. ")
    assert agent.keys == ["Token the-old-key", "Token the-new-key", "Token the-new-key"]
    assert "the-new-key" not in relay.output


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_mistake_is_told_whole_and_changes_nothing(stage, tmp_path, workers):
    relay = stage.relay(RELAY_WORKERS=workers)
    await relay.start()
    async with stage.people(random.Random(1), 2) as browsers:
        folder = tmp_path / "config"
        (folder / "system_prompt.md").write_text("Today is {tody}.", "utf-8")
        intents = (folder / "intents.yaml").read_text("utf-8")
        (folder / "intents.yaml").write_text(intents.replace("path: /goals", "path: goals"))
        relay.signal(signal.SIGHUP)
        await said(relay, "configuration_refused", 2 * int(workers))
        assert all(await asyncio.gather(*(browser.turn(15) for browser in browsers)))
        async with attached(stage, relay):
            pass

    assert "system_prompt.md" in relay.output
    assert "intents.yaml: $.intents[0].path" in relay.output
    assert "configuration_reloaded" not in relay.output
    assert len(psutil.Process(relay.process.pid).children()) == (2 if workers == "2" else 0)


async def test_where_the_user_is_asked_for_may_not_change(stage, tmp_path):
    relay = stage.relay()
    await relay.start()
    agent = tmp_path / "config" / "agent.yaml"
    text = agent.read_text("utf-8")
    assert "path: /voice-context" in text
    agent.write_text(text.replace("path: /voice-context", "path: /elsewhere"), "utf-8")
    relay.signal(signal.SIGHUP)

    await said(relay, "configuration_refused")
    assert "restart for it" in relay.output
