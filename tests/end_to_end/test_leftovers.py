"""Sessions of every kind come and go: nothing of them is left, and no garbage collector is needed.

What is only freed by the collector waits for it, and after the start that comes seldom
(`settle_memory` in control/http/server.py): a cycle in a session looks like a leak for hours.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import config
from config.loader import load
from config.settings import from_environment
from control.app import create_app
from control.dev import orchestrator as local_orchestrator
from control.http.connection_limits import Caller
from control.http.server import listen, serving
from relay.core.admitted import Admitted
from relay.core.deepgram_session import DeepgramSession
from relay.core.resume import ReplayBuffer
from relay.core.session import Session
from relay.functions.executor import Call
from relay.live.agent_side import AgentSide
from relay.live.browser_side import BrowserSide
from relay.live.dial_ahead import Dialled
from relay.live.endpoints import Socket
from relay.live.session_runner import SessionRunner
from relay.sandbox.options import Options
from relay.sandbox.script import Ending, Script, Turn
from relay.sandbox.server import serve
from relay.transport.connection import Connection
from relay.transport.send_queue import SendQueue
from relay.transport.upgrade import Handshake
from tests.end_to_end.test_converse import SETTINGS
from tests.end_to_end.test_relay import API, GOAL, Whole
from tests.relay.wires import listening, next_event

AT_ONCE = 3
KINDS = (
    ReplayBuffer,
    SessionRunner,
    AgentSide,
    BrowserSide,
    Call,
    Dialled,
    DeepgramSession,
    Handshake,
    SendQueue,
    Connection,
    Admitted,
    Session,
    Socket,
)
SCRIPT = Script(
    turns=(
        Turn(when="text", calls=(GOAL,), say=("It is written down.",), seconds=0.1),
        Turn(when="text", say=("Never heard.",), seconds=0.1, end=Ending("drop")),
    ),
    loop=True,
)


@asynccontextmanager
async def program(database_url, tmp_path):
    """The program as `voice-relay serve` runs it, with sandbox and Orchestrator."""
    quick = Options(script=SCRIPT, greeting_delay=0.0, think_delay=0.0, call_delay=0.0, pace=50.0)
    async with (
        serve(quick) as sandbox,
        listening(local_orchestrator.create_app(database_url)) as (orchestrator_port, _),
    ):
        orchestrator = f"http://127.0.0.1:{orchestrator_port}"
        settings = from_environment(
            {
                "DEEPGRAM_API_KEY": "the-real-key",
                "DEEPGRAM_AGENT_URL": sandbox.agent_url,
                "DATABASE_URL": database_url,
                "ORCHESTRATOR_URL": orchestrator,
                "RELAY_DATA_DIR": str(tmp_path),
                "RELAY_GRACE_SECONDS": "1",
            }
        )
        app = create_app(settings, load(Path(config.__file__).parent, {}))
        listener = listen("127.0.0.1", 0)
        async with (
            serving(app, listener),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as http,
        ):
            yield Whole(http, sandbox, orchestrator)


def left():
    """What is alive, by type; of connections of HTTP those that their server has no more: it keeps
    some for the next request, and a WebSocket leaves none."""
    return Counter(
        type(each).__name__
        for each in gc.get_objects()
        if type(each) in KINDS or (type(each) is Caller and each not in each.connections)
    )


async def freed():
    """Wait until nothing is left; fails with what is."""
    try:
        async with asyncio.timeout(5):
            while left():  # noqa: ASYNC110  # what is freed tells nobody
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(left()) from None


async def type_line(browser, text="I want to swim."):
    await browser.send(json.dumps({"type": "InjectUserMessage", "content": text}))


async def talk(program):
    """A call and its answer, then goodbye."""
    async with program.attach(await program.begin()) as browser:
        await next_event(browser, "AgentAudioDone")  # of the greeting
        await browser.send(bytes(640))
        await type_line(browser)
        await next_event(browser, "AgentAudioDone")


async def lose_the_agent(program):
    async with program.attach(await program.begin()) as browser:
        await next_event(browser, "AgentAudioDone")  # of the greeting
        await type_line(browser)
        await next_event(browser, "AgentAudioDone")
        await type_line(browser)
        await next_event(browser, "RelayReconnected")


async def be_hung_up(program):
    begun = await program.begin()
    async with program.attach(begun) as browser:
        await next_event(browser, "SettingsApplied")
        await program.http.delete(f"{API}/session/{begun['session_id']}")
        with contextlib.suppress(ConnectionClosed):
            await next_event(browser, "never")


async def come_back(program):
    begun = await program.begin()
    async with program.attach(begun) as browser:
        ticket = (await next_event(browser, "RelaySession"))["resume_ticket"]
        await next_event(browser, "SettingsApplied")
        browser.transport.abort()
    async with program.attach({**begun, "ticket": ticket}) as browser:
        await next_event(browser, "RelaySession")
        await type_line(browser)
        await next_event(browser, "AgentAudioDone")


async def vanish(program):
    """The grace time runs out."""
    async with program.attach(await program.begin()) as browser:
        await next_event(browser, "SettingsApplied")
        browser.transport.abort()


async def never_come(program):
    """The agent was dialled ahead; nobody will come for it."""
    begun = await program.begin()
    await program.http.delete(f"{API}/session/{begun['session_id']}")


async def have_no_ticket(program):
    begun = await program.begin()
    with pytest.raises(InvalidStatus):
        await program.attach({**begun, "ticket": "wrong"})
    await program.http.delete(f"{API}/session/{begun['session_id']}")


async def be_an_official_client(program):
    granted = await program.http.post("/v1/auth/grant", json={})
    url = str(program.http.base_url).replace("http", "ws", 1) + "/v1/agent/converse"
    protocols = ["bearer", granted.json()["access_token"]]
    # What it does not read must not be in the way of the close.
    async with connect(url, subprotocols=protocols, max_queue=None) as client:
        await client.send(json.dumps(SETTINGS))
        await next_event(client, "SettingsApplied")


VISITS = (
    talk,
    lose_the_agent,
    be_hung_up,
    come_back,
    vanish,
    never_come,
    have_no_ticket,
    be_an_official_client,
)


async def test_of_sessions_nothing_is_left(database_url, tmp_path, no_collector):
    async with program(database_url, tmp_path) as running:
        for visit in VISITS:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(AT_ONCE):
                    tasks.create_task(visit(running), name=visit.__name__)
            try:
                await freed()
            except AssertionError as error:
                error.add_note(f"after {AT_ONCE} times {visit.__name__}")
                raise

        answers = [each for each in gc.get_objects() if type(each) is httpx.Response]
        assert not [each for each in answers if str(each.url).startswith(running.orchestrator)]
