"""Two relay processes on one Postgres: a browser goes from one to the other.

Real processes, each with a data directory of its own as on two machines; the agent is one of the
test's, so that it says what a test wants, and when.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from control.db.conversations import list_messages
from control.db.ownership import GAP
from control.db.store import Store
from loadtests.processes import free_port
from tests.conftest import copy_database
from tests.relay.wires import Agent

VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))
API = "/api/v1/voice"
SECONDS = 40  # a machine that does much else
HOPS = 20
SEED = random.randrange(1 << 32)  # printed; put a number here to see a failure again
LOOK = 0.05  # for what other processes do there is no event

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Relay:
    """A `voice-relay serve` of its own; killed, stopped and started again as a test likes."""

    def __init__(self, database_url, agent_url, data_dir):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RELAY_", "DEEPGRAM_"))},
            "DATABASE_URL": database_url,
            "DEEPGRAM_API_KEY": "the-real-key",
            "DEEPGRAM_AGENT_URL": agent_url,
            "ORCHESTRATOR_URL": "http://127.0.0.1:1",
            "RELAY_PORT": str(self.port),
            "RELAY_DATA_DIR": str(data_dir),
            "RELAY_AUTH": "mock",
            "RELAY_DIAL_AHEAD": "0",
        }
        self.log = data_dir.with_suffix(".log")
        self.process = None

    async def start(self):
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                VOICE_RELAY, "serve", env=self.environ, stdout=log, stderr=log
            )
        async with httpx.AsyncClient() as http:
            while True:
                try:
                    if (await http.get(f"{self.url}/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(LOOK)

    async def kill(self):
        self.process.kill()
        await self.process.wait()

    async def stop(self):
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            await self.process.wait()

    def url_of(self, session_id, **query):
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return f"ws://127.0.0.1:{self.port}{API}/session/{session_id}/ws?{asked}"


class Browser:
    """A client as docs/protocol.md has it: bubbles by `seq`; `ticket` is the newest."""

    def __init__(self, begun):
        self.id = begun["session_id"]
        self.conversation = begun["conversation_id"]
        self.ticket = begun["ticket"]
        self.received = self.seq = 0
        self.bubbles = {}
        self.events = []

    @property
    def last_saved(self):
        return max((seq for seq, bubble in self.bubbles.items() if bubble["saved"]), default=0)

    @property
    def shown(self):
        return [self.bubbles[seq]["content"] for seq in sorted(self.bubbles)]

    async def attach(self, relay):
        url = relay.url_of(self.id, received=self.received, seq=self.last_saved)
        self.socket = await connect(url, subprotocols=["relay.v1", self.ticket])
        return await self.until(lambda event: event["type"] == "RelaySession")

    async def until(self, condition):
        """Read on to the first event that makes `condition` true."""
        while True:
            event = json.loads(await self.socket.recv())
            self._take(event)
            if condition(event):
                return event

    async def read_to_the_end(self):
        try:
            await self.until(lambda _: False)
        except ConnectionClosed:
            return self.socket.close_code, self.socket.close_reason

    def _take(self, event):
        self.events.append(event["type"])
        match event:
            case {"type": "RelaySession"}:
                self.ticket = event["resume_ticket"]
                self.received = 0 if event.get("taken_over") else self.received
                self.seq = event.get("last_seq", self.seq)
                for message in event.get("messages", []):
                    self.bubbles[message["seq"]] = {**message, "saved": True}
                return
            case {"type": "ConversationText", **rest}:
                self.seq += 1
                self.bubbles[self.seq] = {**rest, "saved": False}
            case {"type": "RelayMessageSaved", "seq": seq}:
                self.bubbles[seq]["saved"] = True
        self.received += 1


class Stage:
    """Two relays `a` and `b`, an agent, a database."""

    def __init__(self, agent, relays, store):
        self.agent, (self.a, self.b), self.store = agent, relays, store

    async def begin(self, relay):
        """A browser that is attached to `relay`; its agent is ready."""
        async with httpx.AsyncClient(base_url=relay.url) as http:
            begun = (await http.post(f"{API}/session")).json()
        browser = Browser(begun)
        assert await browser.attach(relay)
        await browser.until(lambda event: event["type"] == "SettingsApplied")
        return browser

    async def say(self, browser, role, content, *, saved=False):
        """The agent says it and the browser hears it; `saved`: and Postgres has it."""
        await self.agent.say(type="ConversationText", role=role, content=content)
        await browser.until(lambda event: event.get("content") == content)
        if saved:
            await browser.until(lambda event: event["type"] == "RelayMessageSaved")

    async def stored(self, browser):
        messages = await list_messages(self.store, UUID(browser.conversation), limit=100)
        return [(message.seq, message.content) for message in messages]

    async def until_stored(self, browser, count):
        while True:
            stored = await self.stored(browser)
            if len(stored) >= count:
                return stored
            await asyncio.sleep(LOOK)

    async def row(self, browser, columns):
        """These columns of its session."""
        [row] = await self.fetch(
            f"SELECT {columns} FROM voice.sessions WHERE id = $1", UUID(browser.id)
        )
        return tuple(row)

    async def until_row(self, browser, columns, wanted):
        while await self.row(browser, columns) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)

    async def fetch(self, sql, *arguments):
        async with self.store.transaction() as connection:
            return await connection.fetch(sql, *arguments)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_stage(postgres, template, tmp_path_factory):
    database_url = await copy_database(postgres, template)
    directory, agent, store = tmp_path_factory.mktemp("relays"), Agent(), Store(database_url)
    await store.open()
    async with serve(agent.handle, "127.0.0.1", 0) as server:
        agent_url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        relays = [Relay(database_url, agent_url, directory / name) for name in "ab"]
        try:
            yield Stage(agent, relays, store)
        finally:
            for relay in relays:
                await relay.stop()
    await store.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(one_stage):
    """Both relays run: a start takes seconds on a busy machine, so what lives is used again."""
    async with asyncio.TaskGroup() as tasks:
        for relay in (one_stage.a, one_stage.b):
            if relay.process is None or relay.process.returncode is not None:
                tasks.create_task(relay.start())
    return one_stage


def told(agent):
    """What the newest agent was told of the past, and whether it greets."""
    settings = [text for text in agent.texts if text["type"] == "Settings"][-1]
    history = settings["agent"].get("context", {}).get("messages", [])
    return [line.get("content") for line in history], "greeting" in settings["agent"]


async def test_a_browser_goes_on_at_the_other_relay_when_its_own_is_killed(stage):
    async with asyncio.timeout(SECONDS):
        browser = await stage.begin(stage.a)
        await stage.say(browser, "user", "one", saved=True)
        await stage.say(browser, "assistant", "two", saved=True)
        # The database does not get these: they are only on the disk of A.
        async with stage.store.transaction() as connection:
            await connection.execute("LOCK voice.messages IN SHARE MODE")
            await stage.say(browser, "user", "three")
            await stage.say(browser, "assistant", "four")
            await stage.a.kill()

        introduced = await browser.attach(stage.b)
        await browser.until(lambda event: event["type"] == "RelayReconnected")
        history = told(stage.agent)
        await stage.say(browser, "user", "five", saved=True)

        assert introduced["taken_over"]
        assert history == (["one", "two"], False)
        assert browser.shown == ["one", "two", "three", "four", "five"]
        assert await stage.stored(browser) == [(1, "one"), (2, "two"), (GAP + 3, "five")]

        await stage.a.start()
        stored = await stage.until_stored(browser, 5)

    assert [content for _, content in stored] == ["one", "two", "three", "four", "five"]
    assert [seq for seq, _ in stored] == sorted(browser.bubbles)


async def test_what_a_killed_relay_left_unanswered_is_asked_at_the_other(stage):
    question = {"type": "InjectUserMessage", "content": "one"}
    async with asyncio.timeout(SECONDS):
        browser = await stage.begin(stage.a)
        await stage.say(browser, "user", "one", saved=True)
        await stage.a.kill()

        await browser.attach(stage.b)
        await browser.until(lambda event: event["type"] == "RelayReconnected")
        while stage.agent.texts[-1] != question:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        assert told(stage.agent) == ([], False)
        await stage.agent.say(type="ConversationText", role="user", content="one")  # its echo
        await stage.say(browser, "assistant", "two", saved=True)

    assert browser.shown == ["one", "two"]
    assert [content for _, content in await stage.stored(browser)] == ["one", "two"]


async def test_a_relay_that_was_stopped_and_goes_on_has_lost_its_session(stage):
    async with asyncio.timeout(SECONDS):
        browser = await stage.begin(stage.a)
        await stage.say(browser, "user", "one", saved=True)
        first, first_agent = browser.socket, stage.agent.connections[-1]
        stage.a.process.send_signal(signal.SIGSTOP)
        await browser.attach(stage.b)
        await browser.until(lambda event: event["type"] == "RelayReconnected")
        ghost = json.dumps({"type": "ConversationText", "role": "assistant", "content": "ghost"})
        await first_agent.send(ghost)
        await stage.say(browser, "assistant", "two", saved=True)

        stage.a.process.send_signal(signal.SIGCONT)
        await first_agent.wait_closed()
        async for _ in first:  # what it had not read yet; a browser ignores that
            pass
        await stage.until_row(browser, "settled_epoch", (1,))
        await stage.say(browser, "user", "three", saved=True)

        assert (first.close_code, first.close_reason) == (1000, "continued elsewhere")
        assert "message_void" in stage.a.log.read_text()
        assert [content for _, content in await stage.stored(browser)] == ["one", "two", "three"]
        assert await stage.row(browser, "state, epoch") == ("live", 2)
        await browser.socket.close()


async def test_a_browser_of_a_relay_that_drains_goes_on_at_the_other(stage):
    async with asyncio.timeout(SECONDS):
        browser = await stage.begin(stage.a)
        await stage.say(browser, "user", "one")
        stage.a.process.terminate()
        go = await browser.until(lambda event: event["type"] == "RelayGoAway")
        assert go["resume_ticket"] == browser.ticket
        await stage.agent.say(type="ConversationText", role="assistant", content="two")
        await stage.agent.say(type="AgentAudioDone")
        assert await browser.read_to_the_end() == (1012, "restarting")

        introduced = await browser.attach(stage.b)
        await browser.until(lambda event: event["type"] == "RelayReconnected")
        await stage.say(browser, "user", "three", saved=True)
        assert await stage.a.process.wait() == 0

        # A had time for its last words: nothing is missing, no number is left free.
        assert told(stage.agent) == (["one", "two"], False)
        assert introduced["last_seq"] == 2
        assert await stage.stored(browser) == [(1, "one"), (2, "two"), (3, "three")]
        assert browser.shown == ["one", "two", "three"]
        await browser.socket.close()
        await stage.until_row(browser, "state, end_reason", ("ended", "browser_left"))


async def test_a_second_signal_ends_at_once_and_loses_nothing(stage):
    async with asyncio.timeout(SECONDS):
        browser = await stage.begin(stage.a)
        async with stage.store.transaction() as connection:
            await connection.execute("LOCK voice.messages IN SHARE MODE")
            await stage.say(browser, "user", "one")
            await stage.say(browser, "assistant", "two")
            stage.a.process.terminate()
            await browser.until(lambda event: event["type"] == "RelayGoAway")
            began = asyncio.get_running_loop().time()
            stage.a.process.send_signal(signal.SIGINT)
            assert await browser.read_to_the_end() == (1012, "restarting")
            assert await stage.a.process.wait() == 0
            seconds = asyncio.get_running_loop().time() - began
        print(f"ended after {seconds:.2f} s")
        await browser.attach(stage.b)
        await browser.until(lambda event: event["type"] == "RelayReconnected")
        await stage.say(browser, "user", "three", saved=True)
        await stage.a.start()
        stored = await stage.until_stored(browser, 3)

        assert (
            seconds < 4
        )  # with nobody in a hurry it would be 5 s for the turn and 5 s for each flush
        assert [content for _, content in stored] == browser.shown == ["one", "two", "three"]
        assert "Traceback" not in stage.a.log.read_text()
        await browser.socket.close()


async def test_a_browser_that_goes_to_and_fro_misses_nothing(stage):
    chance = random.Random(SEED)
    lines = [f"line {n}" for n in range(HOPS)]
    taken_over = 0
    async with asyncio.timeout(SECONDS):
        browser = await stage.begin(stage.a)
        for line in lines:
            await stage.say(browser, chance.choice(["user", "assistant"]), line)
            browser.socket.transport.abort()
            introduced = await browser.attach(chance.choice([stage.a, stage.b]))
            if introduced.get("taken_over"):
                taken_over += 1
                await browser.until(lambda event: event["type"] == "RelayReconnected")
        stored = await stage.until_stored(browser, HOPS)
        print(f"seed={SEED} hops={HOPS} taken_over={taken_over} last_seq={stored[-1][0]}")

        assert [content for _, content in stored] == browser.shown == lines
        assert [seq for seq, _ in stored] == sorted(browser.bubbles)
        assert taken_over > 0
        await browser.socket.close()


async def test_a_session_is_hung_up_from_the_other_relay(stage):
    async with asyncio.timeout(SECONDS):
        browser = await stage.begin(stage.a)
        async with httpx.AsyncClient(base_url=stage.b.url) as http:
            await http.delete(f"{API}/session/{browser.id}")

            assert await browser.read_to_the_end() == (1000, "hung up")
            with pytest.raises(InvalidStatus) as refused:
                await browser.attach(stage.b)
            assert refused.value.response.status_code == 409

            other = await stage.begin(stage.a)
            await http.delete(f"{API}/conversations/{other.conversation}")
            assert await other.read_to_the_end() == (1000, "hung up")


async def test_the_newest_session_of_a_conversation_wins_at_any_relay(stage):
    async with asyncio.timeout(SECONDS):
        first = await stage.begin(stage.a)
        await stage.say(first, "user", "one")
        async with httpx.AsyncClient(base_url=stage.b.url) as http:
            body = {"conversation_id": first.conversation}
            begun = (await http.post(f"{API}/session", json=body)).json()
        second = Browser(begun)
        introduced = await second.attach(stage.b)
        await second.until(lambda event: event["type"] == "SettingsApplied")
        await stage.say(second, "assistant", "two", saved=True)

        assert await first.read_to_the_end() == (1000, "continued elsewhere")
        assert introduced["last_seq"] == 1
        assert await stage.stored(second) == [(1, "one"), (2, "two")]
        with pytest.raises(InvalidStatus) as refused:
            await first.attach(stage.b)
        assert refused.value.response.status_code == 409
        await second.socket.close()


async def test_a_ticket_that_was_used_or_is_anothers_opens_nothing(stage):
    async with asyncio.timeout(SECONDS):
        browser, other = await stage.begin(stage.a), await stage.begin(stage.a)
        used, theirs = browser.ticket, other.ticket
        await browser.attach(stage.b)
        await browser.socket.send(json.dumps({"type": "KeepAlive"}))
        await stage.agent.until(lambda: {"type": "KeepAlive"} in stage.agent.texts)

        for relay, ticket in [(stage.a, used), (stage.b, used), (stage.b, theirs)]:
            with pytest.raises(InvalidStatus) as refused:
                await connect(relay.url_of(browser.id), subprotocols=["relay.v1", ticket])
            assert refused.value.response.status_code == 401
        for one in (browser, other):
            await one.socket.close()
