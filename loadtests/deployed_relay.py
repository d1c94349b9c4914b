"""A deployed relay, measured from outside: what its users wait for.

Load tests. Sessions are begun over REST as a browser does; each turn is a file that is spoken in
real time, or a typed line. Nothing is known of the agent behind: its time is part of every answer.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from loadtests.percentiles import Latency, summarize_values
from relay.protocol import deepgram
from relay.protocol.relay_events import SUBPROTOCOL

LINE = "Hello, what can you do for me?"
FRAME_SECONDS = 0.020
RATE = 16_000
SILENCE = bytes(int(RATE * FRAME_SECONDS) * 2)
AGENT_BYTES_PER_SECOND = 48_000  # linear16 at 24,000 Hz, what we ask for
ATTACH_SECONDS = 20.0
TURN_SECONDS = 30.0  # to the first audio of the answer
GREETING_SECONDS = 5.0  # not every agent greets
PAUSE = 0.5  # between what was played out and the next turn
STAGGER = 0.1  # seconds between sessions that begin


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`turns` of each session; the files are spoken in order, over again when they run out."""

    url: str
    wav: tuple[Path, ...] = ()
    sessions: int = 1
    turns: int = 3


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds. `text` and `audio`: from the end of the user's words to the agent's first."""

    begin: Latency  # POST /session
    settle: Latency  # from opening the WebSocket to SettingsApplied
    text: Latency
    audio: Latency
    frame_lag: Latency  # of our own frames against their schedule
    sessions: int
    failed: list[str]


class _Times(msgspec.Struct):
    """What all sessions add to, in microseconds."""

    begin: list[float] = []
    settle: list[float] = []
    text: list[float] = []
    audio: list[float] = []
    lag: list[float] = []
    failed: list[str] = []


class _Talk:
    """One session: a microphone that never stops, and ears."""

    def __init__(self, connection: ClientConnection, times: _Times) -> None:
        self._connection = connection
        self._times = times
        self._frames: list[bytes] = []
        self._spoken = asyncio.Event()
        self._played_out = 0.0  # monotonic second
        self._ended = 0.0  # when the user's words ended; 0: nothing is waited for
        self._text_seen = True
        self._audio = asyncio.Event()
        self.settled = asyncio.Event()

    async def listen(self) -> None:
        async for frame in self._connection:
            now = time.monotonic()
            if isinstance(frame, bytes):
                self._heard(len(frame), now)
                continue
            match deepgram.decode_server(frame.encode()):
                case deepgram.SettingsApplied():
                    self.settled.set()
                case deepgram.ConversationText(role="assistant") if not self._text_seen:
                    self._text_seen = True
                    self._times.text.append((now - self._ended) * 1e6)
                case deepgram.Error(code=code, description=description):
                    raise TurnFailed(f"the agent reported {code}: {description}")

    def _heard(self, size: int, now: float) -> None:
        self._played_out = max(self._played_out, now) + size / AGENT_BYTES_PER_SECOND
        if self._ended and not self._audio.is_set():
            self._times.audio.append((now - self._ended) * 1e6)
        self._audio.set()

    async def speak(self) -> None:
        """A frame every 20 ms, of words when there are some."""
        due = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._times.lag.append((time.monotonic() - due) * 1e6)
            words = bool(self._frames)
            await self._connection.send(self._frames.pop(0) if words else SILENCE)
            if words and not self._frames:
                self._spoken.set()
            due += FRAME_SECONDS

    async def greeting(self) -> None:
        """Wait for the agent's greeting, if it has one, to be played out."""
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                await self._audio.wait()
        except TimeoutError:
            return
        await self._quiet()

    async def turn(self, speech: list[bytes] | None) -> None:
        """One turn until the answer is played out; `TurnFailed` when there is none."""
        self._audio.clear()
        self._ended = 0.0
        if speech is None:
            line = deepgram.InjectUserMessage(content=LINE)
            await self._connection.send(deepgram.encode(line).decode())
        else:
            self._spoken.clear()
            self._frames = list(speech)
            await self._spoken.wait()
        self._audio.clear()
        self._text_seen = False
        self._ended = time.monotonic()
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._audio.wait()
        except TimeoutError:
            raise TurnFailed(f"no audio within {TURN_SECONDS:.0f} s") from None
        await self._quiet()

    async def _quiet(self) -> None:
        # It grows while more comes.
        while (rest := self._played_out + PAUSE - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(rest)


class TurnFailed(Exception):
    """The agent did not answer; the text says how."""


async def measure(options: Options) -> Found:
    """All sessions side by side; what failed is listed, not raised."""
    times = _Times()
    speeches = [_read(path) for path in options.wav]
    async with (
        httpx.AsyncClient(base_url=options.url, timeout=ATTACH_SECONDS) as rest,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(options.sessions):
            tasks.create_task(_session(rest, options, speeches, times, number * STAGGER))
    return Found(
        begin=summarize_values(times.begin),
        settle=summarize_values(times.settle),
        text=summarize_values(times.text),
        audio=summarize_values(times.audio),
        frame_lag=summarize_values(times.lag),
        sessions=options.sessions,
        failed=times.failed,
    )


async def begin_session(rest: httpx.AsyncClient) -> tuple[str, str]:
    """POST /session as a browser does; where to open the WebSocket, and the ticket."""
    begun = await rest.post("/api/v1/voice/session", json={})
    begun.raise_for_status()
    where = begun.json()
    return where["websocket_url"], where["ticket"]


async def _session(
    rest: httpx.AsyncClient,
    options: Options,
    speeches: list[list[bytes]],
    times: _Times,
    delay: float,
) -> None:
    await asyncio.sleep(delay)
    try:
        start = time.monotonic()
        url, ticket = await begin_session(rest)
        times.begin.append((time.monotonic() - start) * 1e6)
        start = time.monotonic()
        async with connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL), Subprotocol(ticket)],
            compression=None,
            open_timeout=ATTACH_SECONDS,
        ) as connection:
            talk = _Talk(connection, times)
            async with asyncio.TaskGroup() as tasks:
                ears = tasks.create_task(talk.listen(), name="listen")
                async with asyncio.timeout(ATTACH_SECONDS):
                    await talk.settled.wait()
                times.settle.append((time.monotonic() - start) * 1e6)
                microphone = tasks.create_task(talk.speak(), name="speak")
                await talk.greeting()
                for number in range(options.turns):
                    await talk.turn(speeches[number % len(speeches)] if speeches else None)
                microphone.cancel()
                ears.cancel()
    except* (httpx.HTTPError, WebSocketException, OSError, TimeoutError, TurnFailed) as group:
        first = group.exceptions[0]
        times.failed.append(f"{type(first).__name__}: {first}")


def _read(path: Path) -> list[bytes]:
    """The frames of a file up to the end of its words."""
    # Needs the extra "sandbox" (numpy); typed turns do not.
    from control.talk.audio import make_speech, read_wav

    speech = make_speech(read_wav(path), RATE)
    return speech.frames[: speech.voiced]


def describe(found: Found) -> str:
    """A table for the terminal."""
    lines = [f"{'milliseconds':34}{'count':>7}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}"]
    for name, latency in (
        ("POST /session", found.begin),
        ("WebSocket to SettingsApplied", found.settle),
        ("end of words to the agent's text", found.text),
        ("end of words to the agent's voice", found.audio),
        ("our own frames, late by", found.frame_lag),
    ):
        values = (latency.p50, latency.p90, latency.p99, latency.max)
        shown = "".join(f"{value / 1000:9.1f}" for value in values)
        lines.append(f"{name:34}{latency.count:7}{shown}")
    lines += [f"failed: {why}" for why in found.failed]
    return "\n".join(lines)


def to_json(found: Found) -> str:
    return msgspec.json.format(msgspec.json.encode(found), indent=1).decode()
