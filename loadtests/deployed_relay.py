"""A deployed relay, measured from outside: what its users wait for.

Load tests. Sessions are begun over REST as a browser does, with a microphone that hears nothing;
each turn is a typed line. Nothing is known of the agent behind: its time is part of every answer.
"""

from __future__ import annotations

import asyncio
import time

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from loadtests.percentiles import summarize_values
from relay.protocol import deepgram
from relay.protocol.relay_events import SUBPROTOCOL

LINE = "Hello, what can you do for me?"
FRAME_SECONDS = 0.020
SILENCE = bytes(640)  # as long, of linear16 at 16,000 Hz
AGENT_BYTES_PER_SECOND = 48_000  # linear16 at 24,000 Hz, what we ask for
ATTACH_SECONDS = 20.0
TURN_SECONDS = 30.0  # to the first audio of the answer
GREETING_SECONDS = 5.0  # not every agent greets
PAUSE = 0.5  # between what was played out and the next turn
STAGGER = 0.1  # seconds between sessions that begin


# Of all sessions: the name in the JSON, the name in the table.
TIMES = {
    "begin": "POST /session",
    "settle": "WebSocket to SettingsApplied",
    "text": "line to the agent's text",
    "audio": "line to the agent's voice",
    "frame_lag": "our own frames, late by",
}


class Found:
    """Microseconds for each name of `TIMES`, and why sessions failed."""

    def __init__(self, sessions: int) -> None:
        self.sessions = sessions
        self.times: dict[str, list[float]] = {name: [] for name in TIMES}
        self.failed: list[str] = []

    def add(self, name: str, since: float) -> None:
        """A time that ends now; `since` is a second of the monotonic clock."""
        self.times[name].append((time.monotonic() - since) * 1e6)


class TurnFailed(Exception):
    """The agent did not answer; the text says how."""


class _Talk:
    """One session: a microphone that never stops, and ears."""

    def __init__(self, connection: ClientConnection, found: Found) -> None:
        self.settled = asyncio.Event()
        self._connection = connection
        self._found = found
        self._audio = asyncio.Event()
        self._played_out = 0.0  # monotonic second
        self._ended = 0.0  # the user's line
        self._awaited: set[str] = set()  # what has not come since then

    async def listen(self) -> None:
        async for frame in self._connection:
            if isinstance(frame, bytes):
                now = time.monotonic()
                self._played_out = max(self._played_out, now) + len(frame) / AGENT_BYTES_PER_SECOND
                self._take("audio")
                self._audio.set()
                continue
            match deepgram.decode_server(frame.encode()):
                case deepgram.SettingsApplied():
                    self.settled.set()
                case deepgram.ConversationText(role="assistant"):
                    self._take("text")
                case deepgram.Error(code=code, description=description):
                    raise TurnFailed(f"the agent reported {code}: {description}")

    def _take(self, name: str) -> None:
        if name in self._awaited:
            self._awaited.discard(name)
            self._found.add(name, self._ended)

    async def speak(self) -> None:
        """A frame every 20 ms."""
        due = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._found.add("frame_lag", due)
            due += FRAME_SECONDS
            await self._connection.send(SILENCE)

    async def turn(self) -> None:
        """Type a line; `TurnFailed` when there is no answer."""
        self._awaited.clear()
        line = deepgram.InjectUserMessage(content=LINE)
        await self._connection.send(deepgram.encode(line).decode())
        self._audio.clear()
        self._awaited = {"text", "audio"}
        self._ended = time.monotonic()
        if not await self.hear(TURN_SECONDS):
            raise TurnFailed(f"no audio within {TURN_SECONDS:.0f} s")

    async def hear(self, seconds: float) -> bool:
        """Wait until the agent has spoken; False when it does not begin within `seconds`."""
        try:
            await asyncio.wait_for(self._audio.wait(), seconds)
        except TimeoutError:
            return False
        # It grows while more comes.
        while (rest := self._played_out + PAUSE - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(rest)
        return True


async def measure(url: str, *, sessions: int = 1, turns: int = 3) -> Found:
    """All sessions side by side, `turns` of each; what failed is listed, not raised."""
    found = Found(sessions)
    async with (
        httpx.AsyncClient(base_url=url, timeout=ATTACH_SECONDS) as rest,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(sessions):
            tasks.create_task(_session(rest, turns, found))
            await asyncio.sleep(STAGGER)
    return found


async def begin_session(rest: httpx.AsyncClient) -> tuple[str, str]:
    """POST /session as a browser does; where to open the WebSocket, and the ticket."""
    begun = await rest.post("/api/v1/voice/session", json={})
    begun.raise_for_status()
    where = begun.json()
    return where["websocket_url"], where["ticket"]


async def _session(rest: httpx.AsyncClient, turns: int, found: Found) -> None:
    try:
        start = time.monotonic()
        url, ticket = await begin_session(rest)
        found.add("begin", start)
        start = time.monotonic()
        async with connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL), Subprotocol(ticket)],
            compression=None,
            open_timeout=ATTACH_SECONDS,
        ) as connection:
            talk = _Talk(connection, found)
            async with asyncio.TaskGroup() as tasks:
                ears = tasks.create_task(talk.listen(), name="listen")
                async with asyncio.timeout(ATTACH_SECONDS):
                    await talk.settled.wait()
                found.add("settle", start)
                microphone = tasks.create_task(talk.speak(), name="speak")
                await talk.hear(GREETING_SECONDS)
                for _ in range(turns):
                    await talk.turn()
                microphone.cancel()
                ears.cancel()
    except* (httpx.HTTPError, WebSocketException, OSError, TimeoutError, TurnFailed) as group:
        first = group.exceptions[0]
        found.failed.append(f"{type(first).__name__}: {first}")


def describe(found: Found) -> str:
    """A table for the terminal."""
    lines = [f"{'milliseconds':34}{'count':>7}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}"]
    for name, title in TIMES.items():
        latency = summarize_values(found.times[name])
        values = (latency.p50, latency.p90, latency.p99, latency.max)
        shown = "".join(f"{value / 1000:9.1f}" for value in values)
        lines.append(f"{title:34}{latency.count:7}{shown}")
    lines += [f"failed: {why}" for why in found.failed]
    return "\n".join(lines)


def to_json(found: Found) -> bytes:
    latencies = {name: summarize_values(values) for name, values in found.times.items()}
    told = latencies | {"sessions": found.sessions, "failed": found.failed}
    return msgspec.json.format(msgspec.json.encode(told), indent=1)
