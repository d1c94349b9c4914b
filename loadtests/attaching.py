"""Sessions that attach and say nothing: how long a browser waits, how much memory each takes.

Load tests. The relay is a process of its own, `voice-relay serve` as it is shipped.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

import config
from config.loader import load
from control.api.sessions import PREFIX
from control.auth.current_user import USER_ID
from loadtests.pinning import ANYWHERE
from loadtests.processes import Program, free_port, program
from loadtests.results import Figure, summarize_values
from relay.core import message_policy
from relay.core.admission import Admitted
from relay.protocol import deepgram

KEY = "a-key-for-load-tests"
SECONDS = 60.0  # the longest that one step may take
LATER = 0.1  # seconds from POST /session to the WebSocket where a browser asks for the microphone
PRIMING = 20  # sessions before memory is looked at: what every first one loads is not its price
AT_ONCE = 20  # sessions that attach together
CLOSE_SECONDS = 2.0
SETTLE_SECONDS = 1.0  # between the last session that came or went and looking at the memory


# --- the relay as a process of its own -----------------------------------------------------------


class Relay(msgspec.Struct, frozen=True):
    """`voice-relay serve` with one worker; `url` is where it listens."""

    url: str
    program: Program


@asynccontextmanager
async def run_relay(database_url: str, agent_url: str, folder: Path) -> AsyncIterator[Relay]:
    """Run it while inside. Raises `ProgramFailed`."""
    port = free_port()
    # Nothing of the user's settings: what is measured is what we ship.
    mine = ("RELAY_", "DEEPGRAM_", "ORCHESTRATOR_", "DATABASE_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    environ |= {
        "DEEPGRAM_API_KEY": KEY,
        "DEEPGRAM_AGENT_URL": agent_url,
        "DATABASE_URL": database_url,
        "ORCHESTRATOR_URL": "http://127.0.0.1:9",  # nobody: no function is called here
        "RELAY_AUTH": "mock",
        "RELAY_PORT": str(port),
        "RELAY_DATA_DIR": str(folder / "relay"),
        "RELAY_SETUP_SECONDS": "60",
        "RELAY_SESSIONS": "0",
        "RELAY_SESSIONS_PER_ADDRESS": "0",
    }
    command = [sys.executable, "-c", "from control.cli import main; main()", "serve"]
    async with program(
        command,
        port=port,
        log=folder / "relay.log",
        cores=ANYWHERE,
        environ=environ,
    ) as running:
        yield Relay(f"http://127.0.0.1:{port}", running)


# --- waiting for the agent -----------------------------------------------------------------------


async def compare_waits(
    relay_url: str, agent_url: str, *, times: int, later: float = LATER
) -> dict[str, float]:
    """Medians in ms, from opening the WebSocket to SettingsApplied; the two ways take turns.

    `ready_later_ms` is with `later` seconds between POST /session and the WebSocket, `ready_ms`
    with none.
    """
    settings = _compose_settings()
    direct: list[float] = []
    at_once: list[float] = []
    after: list[float] = []
    for _ in range(times):
        direct.append(await wait_direct(agent_url, settings))
        at_once.append(await wait_relayed(relay_url, pause=0.0))
        after.append(await wait_relayed(relay_url, pause=later))
    return {
        Figure.READY_DIRECT_MS: summarize_values(direct).p50 / 1000,
        Figure.READY_MS: summarize_values(at_once).p50 / 1000,
        "ready_later_ms": summarize_values(after).p50 / 1000,
    }


async def wait_direct(agent_url: str, settings: str) -> float:
    """Microseconds, without a relay: the browser sends the Settings itself."""
    start = time.perf_counter()
    async with asyncio.timeout(SECONDS), _open(agent_url, key=KEY) as agent:
        await _expect(agent, "Welcome")
        await agent.send(settings)
        await _expect(agent, "SettingsApplied")
        return (time.perf_counter() - start) * 1e6


async def wait_relayed(relay_url: str, *, pause: float) -> float:
    """Microseconds, through the relay, `pause` seconds after POST /session."""
    async with asyncio.timeout(SECONDS + pause):
        url, ticket = await begin_session(relay_url)
        await asyncio.sleep(pause)
        start = time.perf_counter()
        async with _open(url, ticket=ticket) as browser:
            await _expect(browser, "SettingsApplied")
            return (time.perf_counter() - start) * 1e6


async def begin_session(relay_url: str) -> tuple[str, str]:
    """POST /session; where to open the WebSocket, and the ticket."""
    return await asyncio.to_thread(_post_session, relay_url)


class _Begun(msgspec.Struct):
    websocket_url: str
    ticket: str


def _post_session(relay_url: str) -> tuple[str, str]:
    connection = http.client.HTTPConnection(urlsplit(relay_url).netloc, timeout=SECONDS)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"{PREFIX}/session", b"{}", headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 201:
        raise RuntimeError(f"POST {PREFIX}/session: expected 201, got {response.status}")
    begun = msgspec.json.decode(answer, type=_Begun)
    return begun.websocket_url, begun.ticket


def _open(url: str, *, key: str | None = None, ticket: str | None = None) -> connect:
    """As a browser would, or (`key`) as a program would that talks to the agent itself."""
    return connect(
        url,
        subprotocols=None if ticket is None else [Subprotocol("relay.v1"), Subprotocol(ticket)],
        additional_headers=None if key is None else {"Authorization": f"Token {key}"},
        compression=None,
        open_timeout=SECONDS,
        close_timeout=CLOSE_SECONDS,
        proxy=None,
    )


class _Typed(msgspec.Struct):
    type: str = ""


async def _expect(connection: ClientConnection, kind: str) -> None:
    """Read until a text of this type; other texts and audio pass."""
    while True:
        frame = await connection.recv()
        if isinstance(frame, str):
            found = msgspec.json.decode(frame, type=_Typed).type
            if found == kind:
                return
            if found in ("Error", "RelayError"):
                raise RuntimeError(f"expected {kind}, got {frame}")


def _compose_settings() -> str:
    """What our own configuration makes of a new conversation."""
    configuration = load(Path(config.__path__[0]), os.environ)
    opening = Admitted(
        session_id=UUID(int=1),
        conversation_id=UUID(int=1),
        user_id=USER_ID,
        timezone="UTC",
        audio=configuration.agent.audio,
    )
    composed = message_policy.settings(configuration, opening, datetime.now(UTC).date(), [])
    return deepgram.encode(composed).decode()


# --- memory --------------------------------------------------------------------------------------


async def weigh_sessions(relay: Relay, *, sessions: int, priming: int = PRIMING) -> float:
    """KiB of resident memory that the relay's processes need more for each attached session."""
    async with _attached(relay.url, priming):
        pass
    await asyncio.sleep(SETTLE_SECONDS)
    before = relay.program.rss_bytes()
    async with _attached(relay.url, sessions):
        await asyncio.sleep(SETTLE_SECONDS)
        return (relay.program.rss_bytes() - before) / 1024 / sessions


@asynccontextmanager
async def _attached(relay_url: str, sessions: int) -> AsyncIterator[None]:
    """So many sessions while inside; their browsers read all that comes."""
    browsers: list[ClientConnection] = []

    async def attach() -> None:
        url, ticket = await begin_session(relay_url)
        browser = await _open(url, ticket=ticket)
        browsers.append(browser)
        await _expect(browser, "SettingsApplied")

    async with asyncio.TaskGroup() as readers:
        try:
            for first in range(0, sessions, AT_ONCE):
                async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
                    for number in range(first, min(first + AT_ONCE, sessions)):
                        tasks.create_task(attach(), name=f"attach {number}")
                for browser in browsers[first:]:
                    readers.create_task(_read(browser), name="read")
            yield
        finally:
            async with asyncio.TaskGroup() as leaving:
                for browser in browsers:
                    leaving.create_task(browser.close(), name="leave")


async def _read(browser: ClientConnection) -> None:
    async for _ in browser:
        pass
