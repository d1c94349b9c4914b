"""One session as who speaks has it: a microphone that never stops, and whose turn it is.

A client of the published contract that knows nothing of the relay's inside. What is said and when
is the business of whoever uses it: the terminal client (cli.py), an evaluation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Annotated, Any, Literal
from urllib.parse import urljoin

import httpx
import msgspec
from websockets.exceptions import ConnectionClosed

from control.talk.audio import FRAME, Speech, UsageError
from control.talk.connection import Connection, Event, TalkError, is_here, refusal
from control.talk.turns import Floor
from relay.protocol import deepgram, relay_events

MAX_ANSWER = 4 << 20  # bytes of the answer to `POST /session`, which brings the history


class Line(msgspec.Struct, frozen=True):
    """Send this as typed text (`InjectUserMessage`)."""

    text: str

    @property
    def name(self) -> str:
        return self.text


class AudioFormat(msgspec.Struct, frozen=True):
    encoding: Literal["linear16"]
    sample_rate: Annotated[int, msgspec.Meta(ge=50)]


class SessionAudio(msgspec.Struct, frozen=True):
    input: AudioFormat
    output: AudioFormat


class Session(msgspec.Struct, frozen=True):
    """The answer to `POST /session`, as far as we need it."""

    session_id: str
    conversation_id: str
    websocket_url: str
    ticket: str
    audio: SessionAudio
    messages: list[dict[str, Any]] = []


async def start_session(
    base: str, *, token: str | None, seconds: float, **wanted: str | None
) -> Session:
    """`POST /session` at the relay `base`; `wanted` are fields of its body. Raises `UsageError` if
    that is no address, and `TalkError`."""
    url = urljoin(base.rstrip("/") + "/", "api/v1/voice/session")
    body = {name: value for name, value in wanted.items() if value is not None}
    try:
        async with httpx.AsyncClient(
            timeout=min(seconds, 30.0), trust_env=not is_here(url)
        ) as client:
            bearer = {"Authorization": f"Bearer {token}"} if token else {}
            answer = await client.post(url, json=body, headers=bearer)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        hint = "expected an address such as http://127.0.0.1:8080"
        raise UsageError(f"{base!r}: {hint}") from error
    except httpx.ConnectError as error:
        raise TalkError(f"nothing answers at {base}: is the relay running?") from error
    except httpx.HTTPError as error:
        raise TalkError(f"{base}: {error or type(error).__name__}") from error
    if answer.status_code != 201:
        raise refusal(answer.status_code, answer.content, answer.headers.get("Retry-After"))
    try:
        return msgspec.json.decode(answer.content[:MAX_ANSWER], type=Session)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TalkError(f"{url}: not the answer of a relay: {error}") from error


class Caller:
    """`hear` gets every event. `mix` makes a frame of the microphone, speech or silence, into the
    one that is sent: a room that is not quiet. `timeout` is how long, in seconds, nothing may come
    while something is due."""

    def __init__(
        self,
        relay: Connection,
        session: Session,
        *,
        timeout: float,
        hear: Callable[[Event], None],
        mix: Callable[[bytes], bytes] = lambda frame: frame,
    ) -> None:
        self._relay = relay
        self._timeout = timeout
        self._hear = hear
        self._mix = mix
        self._clock = asyncio.get_running_loop().time
        self._rate = session.audio.input.sample_rate
        self._speech: asyncio.Queue[bytes] = asyncio.Queue()  # frames to be said
        self.floor = Floor(2 * session.audio.output.sample_rate, greeting=not session.messages)
        self.heard = bytearray()  # agent audio
        self.errors = 0
        self._changed = asyncio.Event()
        self._leaving = False

    async def run(self, converse: Callable[[], Awaitable[None]]) -> None:
        """Hold the conversation from when the agent has greeted, and hang up. Raises `TalkError`,
        also after an error that the session told."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="listen")
                microphone = tasks.create_task(self._stream(), name="microphone")
                await self.wait_until_free()
                await converse()
                microphone.cancel()
                self._leaving = True
                await self._relay.leave()
        except BaseExceptionGroup as group:
            # Not `except*`: what is raised in one comes wrapped again (Python 3.11.2).
            expected, rest = group.split((TalkError, UsageError))
            if expected is None or rest is not None:
                raise
            raise expected.exceptions[0] from None
        if self._relay.close_code != 1000:
            raise TalkError(self._relay.farewell())
        if self.errors:
            raise TalkError(f"the session had {self.errors} error(s)")

    async def say(self, each: Speech | Line) -> None:
        """Until it is said; a typed line is said at once."""
        if isinstance(each, Line):
            await self._type(each)
            return
        self.floor.user_begins(self._clock(), each.voiced * FRAME)
        for frame in each.frames:
            self._speech.put_nowait(frame)
        await self._speech.join()

    async def wait_until_free(self) -> None:
        """Until the agent has finished. Raises `TalkError` when nothing comes any more."""
        await self._wait(self.floor.free_at)

    async def wait_until_agent_speaks(self, seconds: float) -> None:
        """Until it has spoken for so long. Raises `TalkError` when nothing comes any more."""
        await self._wait(lambda: self.floor.spoken_at(seconds))

    # --- the rest ----------------------------------------------------------------------------

    async def _stream(self) -> None:
        """Frames in real time on an absolute schedule: speech while there is some, else silence."""
        silence = bytes(2 * round(self._rate * FRAME))
        seconds = len(silence) / 2 / self._rate
        began = self._clock()
        for number in count(1):
            speaks = not self._speech.empty()
            frame = self._speech.get_nowait() if speaks else silence
            await self._relay.send_audio(self._mix(frame))
            if speaks:
                self._speech.task_done()
            await asyncio.sleep(max(began + number * seconds - self._clock(), 0.0))

    async def _listen(self) -> None:
        async for heard in self._relay.hear():
            now = self._clock()
            if isinstance(heard, bytes):
                if self.floor.audio(len(heard), now):
                    self.heard += heard
            else:
                self.floor.handle(heard, now)
                self._hear(heard)
                if isinstance(heard, deepgram.Error | relay_events.RelayError):
                    self.errors += 1
            self._changed.set()
        if not self._leaving:
            raise TalkError(self._relay.farewell())

    async def _type(self, line: Line) -> None:
        self.floor.user_begins(self._clock(), 0.0)
        message = deepgram.encode(deepgram.InjectUserMessage(content=line.text))
        try:
            await self._relay.send_text(message.decode())
        except ConnectionClosed:
            raise TalkError(self._relay.farewell()) from None

    async def _wait(self, when: Callable[[], float | None]) -> None:
        """Until that moment; None: something else is due before."""
        waiting_since = self._clock()
        while True:
            now = self._clock()
            moment = when()
            if moment is not None and moment <= now:
                return
            patience = max(waiting_since, self.floor.last, self.floor.played)
            give_up_at = patience + self._timeout
            if now >= give_up_at:
                missing = self.floor.turn.value
                raise TalkError(f"waited {self._timeout:g} s for {missing}: none came")
            self._changed.clear()
            wake_at = give_up_at if moment is None else min(moment, give_up_at)
            with suppress(TimeoutError):  # then look again at what time it is
                await asyncio.wait_for(self._changed.wait(), wake_at - now)
