"""`voice-relay talk`: a terminal client that speaks to a relay as a browser would.

It starts a session over REST, opens the WebSocket with the ticket and streams a microphone in real
time: silence while nobody speaks, a WAV file when it is its turn. It is a client of the published
contract and knows nothing of the relay's inside, so that it can find the relay wrong; it decodes
Deepgram's messages with the structs that everybody uses.

From the top: what is asked for (`TalkOptions`), the `Microphone`, one session (`Talk`), and the
conversation from start to exit code (`talk`). The rest is beside it: audio.py, events.py,
connection.py, turns.py and display.py.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec
from websockets.exceptions import ConnectionClosed

from control.talk.audio import (
    FRAME,
    Recording,
    Speech,
    UsageError,
    make_speech,
    read_wav,
    write_wav,
)
from control.talk.connection import Connection, is_here, refusal
from control.talk.display import Screen
from control.talk.events import RelayError, TalkError, decode
from control.talk.turns import Floor
from relay.protocol import deepgram

MAX_ANSWER = 4 << 20  # bytes of the answer to `POST /session`, which brings the history


class Wav(msgspec.Struct, frozen=True):
    """Say what is in this file."""

    path: Path


class Line(msgspec.Struct, frozen=True):
    """Send this as typed text (`InjectUserMessage`)."""

    text: str


class TalkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`inputs` in the order in which they are said; none: typed lines from the terminal.

    `conversation` resumes that conversation; `save` is the WAV file for the agent's audio;
    `timeout` is how long, in seconds, nothing may come while something is due.
    """

    url: str = "http://127.0.0.1:8080"
    inputs: tuple[Wav | Line, ...] = ()
    conversation: str | None = None
    save: Path | None = None
    as_json: bool = False
    timezone: str | None = None
    timeout: float = 60.0
    token: str | None = None  # who we are, for a relay that wants to know


class AudioFormat(msgspec.Struct, frozen=True):
    encoding: str
    sample_rate: int


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


class Microphone:
    """Frames in real time on an absolute schedule: speech while there is some, else silence."""

    def __init__(self, relay: Connection, rate: int, clock: Callable[[], float]) -> None:
        self._relay = relay
        self._size = round(rate * FRAME)
        self._seconds = self._size / rate
        self._clock = clock
        self._frames: deque[bytes] = deque()
        self._silence = bytes(2 * self._size)
        self._said = asyncio.Event()
        self._on_voiced: Callable[[float], None] = lambda now: None
        self._voiced_left = 0

    async def stream(self) -> None:
        began = self._clock()
        count = 0
        while True:
            await self._relay.send_audio(self._frames.popleft() if self._frames else self._silence)
            self._after_frame()
            count += 1
            await asyncio.sleep(max(began + count * self._seconds - self._clock(), 0.0))

    def _after_frame(self) -> None:
        if self._voiced_left:
            self._voiced_left -= 1
            if not self._voiced_left:
                self._on_voiced(self._clock())
        if not self._frames:
            self._said.set()

    async def say(self, speech: Speech, on_voiced: Callable[[float], None]) -> None:
        """Returns when the last frame was sent; `on_voiced` is told when the words were over."""
        self._said.clear()
        self._frames.extend(speech.frames)
        self._voiced_left = speech.voiced
        self._on_voiced = on_voiced
        await self._said.wait()


class Talk:
    """One session."""

    def __init__(
        self, relay: Connection, session: Session, options: TalkOptions, screen: Screen
    ) -> None:
        self._relay = relay
        self._options = options
        self._screen = screen
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._microphone = Microphone(relay, session.audio.input.sample_rate, self._clock)
        self.floor = Floor(2 * session.audio.output.sample_rate, greeting=not session.messages)
        self.heard = bytearray()  # agent audio
        self.errors = 0
        self._changed = asyncio.Event()
        self._leaving = False

    async def run(self, inputs: list[Speech | Line], typed: TextIO | None) -> None:
        """Say everything and hang up. Raises `TalkError`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="listen")
                microphone = tasks.create_task(self._microphone.stream(), name="microphone")
                await self._free()
                for each in inputs:
                    await self._say(each)
                if typed is not None:
                    await self._chat(typed)
                microphone.cancel()
                self._leaving = True
                await self._relay.leave()
        except BaseExceptionGroup as group:
            # Not `except*`: what is raised in one comes wrapped again (Python 3.11.2).
            expected, rest = group.split(TalkError)
            if expected is None or rest is not None:
                raise
            raise _first(expected) from None
        if self._relay.close_code != 1000:
            raise TalkError(self._farewell())
        if self.errors:
            raise TalkError(f"the session had {self.errors} error(s)")

    async def _listen(self) -> None:
        async for frame in self._relay.frames():
            self._take(frame)
            self._changed.set()
        if not self._leaving:
            raise TalkError(self._farewell())

    def _take(self, frame: str | bytes) -> None:
        now = self._clock()
        if isinstance(frame, bytes):
            if self.floor.audio(len(frame), now):
                self.heard += frame
            return
        event = decode(frame)
        if event is None:
            return
        self.floor.handle(event, now)
        self._screen.event(event)
        if isinstance(event, deepgram.Error | RelayError):
            self.errors += 1

    async def _say(self, each: Speech | Line) -> None:
        self.floor.user_begins(self._clock())
        match each:
            case Speech(name):
                await self._microphone.say(each, self._words_are_over)
            case Line(name):
                await self._type(each)
        await self._free()
        after = self.floor.reply_after
        shown = f"       (reply after {after * 1000:.0f} ms)" if after is not None else ""
        self._screen.note(
            "turn", shown, input=name,
            reply_ms=None if after is None else round(after * 1000),
            at_ms=round((self._clock() - self._began) * 1000),
        )  # fmt: skip

    def _words_are_over(self, now: float) -> None:
        self.floor.user_silent = now

    async def _type(self, line: Line) -> None:
        message = deepgram.encode(deepgram.InjectUserMessage(content=line.text))
        try:
            await self._relay.send_text(message.decode())
        except ConnectionClosed:
            raise TalkError(self._farewell()) from None
        self._words_are_over(self._clock())

    async def _chat(self, typed: TextIO) -> None:
        """A person types and minds the pauses; the end of the input ends it."""
        lines: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            # A thread, because a terminal that does not block would not block our output either.
            while True:
                line = typed.readline()
                try:
                    loop.call_soon_threadsafe(lines.put_nowait, line)
                except RuntimeError:
                    return  # the loop is closed: nobody reads any more
                if not line:
                    return

        threading.Thread(target=read, name="typed lines", daemon=True).start()
        self._screen.note("ready", "type and press Enter; Ctrl-D ends")
        while line := await lines.get():
            if not (text := line.strip()):
                continue
            if typed.isatty():
                self.floor.user_begins(self._clock())
                await self._type(Line(text))
            else:  # nobody is there to mind the pauses
                await self._say(Line(text))

    async def _free(self) -> None:
        """Wait until the agent has finished. Raises `TalkError` when nothing comes any more."""
        waiting_since = self._clock()
        while True:
            now = self._clock()
            free_at = self.floor.free_at()
            if free_at is not None and free_at <= now:
                return
            patience = max(waiting_since, self.floor.last, self.floor.played)
            give_up_at = patience + self._options.timeout
            if now >= give_up_at:
                missing = self.floor.missing()
                raise TalkError(f"waited {self._options.timeout:g} s for {missing}: none came")
            self._changed.clear()
            wake_at = give_up_at if free_at is None else min(free_at, give_up_at)
            try:
                async with asyncio.timeout(wake_at - now):
                    await self._changed.wait()
            except TimeoutError:
                pass  # look again at what time it is

    def _farewell(self) -> str:
        code, reason = self._relay.close_code, self._relay.close_reason
        if code in (None, 1006):
            return "the connection to the relay broke"
        return f"the relay ended the session: {code}{f' {reason}' if reason else ''}"


async def talk(options: TalkOptions, out: TextIO, typed: TextIO | None = None) -> int:
    """Hold one conversation and return the exit code: 0 it went well, 1 it did not, 2 usage.

    It went well when every input came back as text and was answered, no error was told, and the
    session closed with 1000. Without inputs, lines come from `typed` (standard input), which must
    be a terminal unless it was passed in.
    """
    screen = Screen(out, as_json=options.as_json)
    try:
        if not options.inputs and typed is None:
            if not sys.stdin.isatty():
                raise UsageError("nothing to say: give WAV files or lines, or run it in a terminal")
            typed = sys.stdin
        _check_url(options.url)
        if options.save is not None and not options.save.absolute().parent.is_dir():
            raise UsageError(f"{options.save}: there is no such folder")
        recordings = await asyncio.to_thread(_read_all, options.inputs)
    except UsageError as error:
        screen.trouble("", str(error))
        return 2
    began = asyncio.get_running_loop().time()
    session: Session | None = None
    try:
        session = await _start(options)
        _check_audio(session.audio)
        await _converse(session, options, recordings, screen, typed)
    except TalkError as error:
        screen.trouble("", str(error))
    else:
        _end(screen, session, 0, began, options)
        return 0
    if session is not None:
        _end(screen, session, 1, began, options)
    return 1


def _end(screen: Screen, session: Session, code: int, began: float, options: TalkOptions) -> None:
    conversation = session.conversation_id
    seconds = asyncio.get_running_loop().time() - began
    screen.note(
        "end",
        f"conversation {conversation} ({seconds:.1f} s)   resume it: --resume {conversation}",
        conversation_id=conversation,
        session_id=session.session_id,
        exit_code=code,
        seconds=round(seconds, 3),
        saved=str(options.save) if options.save else None,
    )


async def _converse(
    session: Session,
    options: TalkOptions,
    recordings: list[Recording | Line],
    screen: Screen,
    typed: TextIO | None,
) -> None:
    rate = session.audio.input.sample_rate
    inputs: list[Speech | Line] = [
        each if isinstance(each, Line) else await asyncio.to_thread(make_speech, each, rate)
        for each in recordings
    ]
    screen.note(
        "session", f"conversation {session.conversation_id}",
        session_id=session.session_id, conversation_id=session.conversation_id,
    )  # fmt: skip
    for message in session.messages:
        screen.said(str(message.get("role")), str(message.get("content")), earlier=True)
    relay = await Connection.open(
        urljoin(options.url, session.websocket_url),
        session.ticket,
        options.timeout,
        lambda state, line: screen.note("connection", line, state=state),
    )
    conversation = Talk(relay, session, options, screen)
    try:
        await conversation.run(inputs, typed if not options.inputs else None)
    finally:
        await relay.close()
        if options.save is not None:
            await _save(options.save, session.audio.output.sample_rate, conversation.heard)


async def _save(path: Path, rate: int, heard: bytearray) -> None:
    try:
        await asyncio.to_thread(write_wav, path, rate, bytes(heard[: len(heard) & ~1]))
    except OSError as error:
        raise TalkError(f"{path}: {error.strerror or error}") from error


async def _start(options: TalkOptions) -> Session:
    url = urljoin(options.url.rstrip("/") + "/", "api/v1/voice/session")
    body: dict[str, str] = {}
    if options.conversation is not None:
        body["conversation_id"] = options.conversation
    if options.timezone is not None:
        body["timezone"] = options.timezone
    try:
        async with httpx.AsyncClient(
            timeout=min(options.timeout, 30.0), trust_env=not is_here(url)
        ) as client:
            bearer = {"Authorization": f"Bearer {options.token}"} if options.token else {}
            answer = await client.post(url, json=body, headers=bearer)
    except httpx.ConnectError as error:
        raise TalkError(f"nothing answers at {options.url}: is the relay running?") from error
    except httpx.HTTPError as error:
        raise TalkError(f"{options.url}: {error or type(error).__name__}") from error
    if answer.status_code != 201:
        raise refusal(answer.status_code, answer.content, answer.headers.get("Retry-After"))
    try:
        return msgspec.json.decode(answer.content[:MAX_ANSWER], type=Session)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TalkError(f"{url}: not the answer of a relay: {error}") from error


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{url!r}: expected an address such as http://127.0.0.1:8080")


def _check_audio(audio: SessionAudio) -> None:
    for way, form in (("input", audio.input), ("output", audio.output)):
        if form.encoding != "linear16" or form.sample_rate < 50:
            raise TalkError(
                f"the session's audio {way} is {form.encoding} at {form.sample_rate} Hz, "
                "expected linear16"
            )


def _read_all(inputs: tuple[Wav | Line, ...]) -> list[Recording | Line]:
    return [each if isinstance(each, Line) else read_wav(each.path) for each in inputs]


def _first(group: BaseExceptionGroup[TalkError]) -> TalkError:
    """The root of the matter: a group holds what fell over afterwards too."""
    first = group.exceptions[0]
    return first if isinstance(first, TalkError) else _first(first)
