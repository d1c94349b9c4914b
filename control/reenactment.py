"""`voice-relay replay --url`: plays both sides of a recording against a whole relay.

It is the browser, and the agent that the relay dials. Each frame is sent as long after the one
before as it was, or faster; connections open, break and close as they did. Calls, the database and
the clock are the relay's own: what depends on them is left out when the messages that each side got
are compared, in order and by their types.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import urljoin

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from config.errors import Explained
from relay.core import events
from relay.protocol.relay_events import SUBPROTOCOL
from relay.recorder.recording import SENT, Recording, Side, Step

HOST = "127.0.0.1"
PATIENCE = 10.0  # seconds for what the relay has to do before the next step
# They depend on a call, on the database or on the clock.
_ITS_OWN = frozenset(
    {
        *("RelayMessageSaved", "RelayIntent", "RelayNotice", "RelayGoAway", "KeepAlive"),
        *("FunctionCallResponse", "UpdatePrompt", "InjectAgentMessage"),
    }
)

Attach: TypeAlias = Callable[[str, int], Awaitable[ClientConnection]]
"""Opens a WebSocket of the browser, with this ticket (empty: the first of a session) and so many
texts that it has."""
Told: TypeAlias = dict[Side, list[str]]
"""The types of the messages that each side got."""
_Connection: TypeAlias = ClientConnection | ServerConnection


class ReenactmentFailed(Explained):
    """What the relay did not do, or did otherwise."""


async def reenact(recording: Recording, scene: Scene, *, speed: float) -> Told:
    """Play it; what each side got. Raises `ReenactmentFailed` if it was something else than what
    is recorded."""
    expected = list_expected(recording.steps)
    at = recording.beginning.now
    try:
        for step in recording.steps:
            await asyncio.sleep((step.at - at) / speed)
            at = step.at
            await scene.play(step)
        await scene.until(lambda: _reaches(scene.told, expected), "the end")
    except ConnectionClosed as error:
        raise ReenactmentFailed(f"the relay closed a connection: {error}") from error
    finally:
        await scene.close()
    return scene.told


def list_expected(steps: Sequence[Step]) -> Told:
    """What each side was told, but for what is the relay's own."""
    expected: Told = {"agent": [], "browser": []}
    for step in steps:
        for asked in step.actions:
            kind, name = asked["type"], None
            if kind == "Forward" and step.decoded is None:
                name = kind_of(step)
                side: Side = "browser" if step.side == "agent" else "agent"
            elif kind in SENT and SENT[kind] in asked:
                name = asked[SENT[kind]]["type"]
                side = "agent" if kind in ("SendSettings", "SendAgent") else "browser"
            if name is not None and name not in _ITS_OWN:
                expected[side].append(name)
    return expected


def kind_of(step: Step) -> str:
    """The type of its frame."""
    kind: str = msgspec.json.decode(step.text)["type"]
    return kind


def _reaches(told: Told, expected: Told) -> bool:
    """Whether all has come. Raises `ReenactmentFailed` as soon as something else has."""
    for side, wanted in expected.items():
        got = told[side]
        for place, (one, other) in enumerate(zip(wanted, got, strict=False)):
            if one != other:
                where = f"the {side} got {other} as its message {place + 1}"
                raise ReenactmentFailed(f"{where}, and not {one} as recorded")
        if len(got) > len(wanted):
            raise ReenactmentFailed(f"the {side} got {got[len(wanted)]}, which is not recorded")
    return all(len(told[side]) == len(wanted) for side, wanted in expected.items())


class Scene:
    """Both ends of one session; `agent_refuses` has of each dial whether it is refused."""

    def __init__(self, attach: Attach, agent_refuses: list[bool]) -> None:
        self.told: Told = {"agent": [], "browser": []}
        self._attach = attach
        self._refuses = agent_refuses
        self._agents: list[ServerConnection] = []
        self._place = -1  # of the agent that plays
        self._browser: ClientConnection | None = None
        self._ticket = ""
        self._hearing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def admit(self, connection: ServerConnection, _: Request) -> Response | None:
        """The answer to a dial; None: come in."""
        if self._refuses and self._refuses.pop(0):
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "as recorded\n")
        return None

    async def answer(self, connection: ServerConnection) -> None:
        """The relay has dialled the agent."""
        self._agents.append(connection)
        self._changed.set()
        await self._hear("agent", connection)

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Raises `ReenactmentFailed` when that takes too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not is_so():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise ReenactmentFailed(f"{what} did not come within {PATIENCE:g} s") from None

    async def play(self, step: Step) -> None:
        """What was not the relay's own doing. A frame that was no message is not in the file."""
        match step.event:
            case None if step.side is not None:
                if step.decoded is None:
                    await self._say(step, step.side)
            case None:
                await self._come("", 0)
            case events.BrowserAttached(received=received):
                await self._come(self._ticket, received)
            case events.AgentOpened():
                self._place += 1
                await self.until(lambda: len(self._agents) > self._place, "a dial")
            case events.AgentClosed(code=code):
                await _end(self._agents[self._place], code)
            case events.BrowserClosed(code=code) if self._browser is not None:
                await _end(self._browser, code)

    async def close(self) -> None:
        """Both sides leave."""
        for connection in [self._browser, *self._agents]:
            if connection is not None:
                await connection.close()

    async def _say(self, step: Step, side: Side) -> None:
        text = step.text.decode()
        if side == "browser":
            assert self._browser is not None, "it said something: it was here"
            await self._browser.send(text)
            return
        if kind_of(step) == "SettingsApplied":  # each agent gets its Settings once
            count = self.told["agent"].count
            await self.until(lambda: count("Settings") > self._place, "Settings")
        await self._agents[self._place].send(text)

    async def _come(self, ticket: str, received: int) -> None:
        self._browser = await self._attach(ticket, received)
        task = asyncio.create_task(self._hear("browser", self._browser), name="hear browser")
        self._hearing.add(task)
        task.add_done_callback(self._hearing.discard)

    async def _hear(self, side: Side, connection: _Connection) -> None:
        try:
            async for frame in connection:
                if isinstance(frame, str):
                    message = msgspec.json.decode(frame)
                    self._ticket = message.get("resume_ticket", self._ticket)
                    if message["type"] not in _ITS_OWN:
                        self.told[side].append(message["type"])
                    self._changed.set()
        except ConnectionClosed:
            pass  # as recorded; if not, something is missing in the end


async def _end(connection: _Connection, code: int) -> None:
    """As it was seen: 1005 without a code, 1006 without a word."""
    if code == 1006:
        connection.transport.abort()
    else:
        await connection.close(1000 if code == 1005 else code)


@asynccontextmanager
async def staging(recording: Recording, attach: Attach, port: int) -> AsyncIterator[Scene]:
    """The agent listens on this port while inside. Raises `OSError` if it cannot."""
    dials = (events.AgentOpened, events.AgentUnreachable)
    outcomes = [step.event for step in recording.steps if isinstance(step.event, dials)]
    scene = Scene(attach, [isinstance(one, events.AgentUnreachable) for one in outcomes])
    async with serve(
        scene.answer,
        HOST,
        port,
        process_request=scene.admit,
        select_subprotocol=lambda _, offered: next(iter(offered), None),
        compression=None,
        ping_interval=None,
    ):
        yield scene


def attach_at(url: str, token: str | None) -> Attach:
    """To the relay at this address."""
    place: list[str] = []

    async def attach(ticket: str, received: int) -> ClientConnection:
        try:
            if not ticket:
                ticket = await begin()
            query = f"?received={received}" if received else ""
            protocols = [Subprotocol(SUBPROTOCOL), Subprotocol(ticket)]
            return await connect(place[0] + query, subprotocols=protocols, compression=None)
        except (httpx.HTTPError, InvalidHandshake, OSError, KeyError, ValueError) as error:
            raise ReenactmentFailed(f"{url}: {error or type(error).__name__}") from error

    async def begin() -> str:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            target = urljoin(url.rstrip("/") + "/", "api/v1/voice/session")
            answer = await client.post(target, json={}, headers=headers)
            begun = answer.raise_for_status().json()
        place.append(urljoin(url, begun["websocket_url"]).replace("http", "ws", 1))
        ticket: str = begun["ticket"]
        return ticket

    return attach
