"""`voice-relay talk`: a terminal client that speaks to a relay as a browser would.

It starts a session over REST, opens the WebSocket with the ticket and streams a microphone in real
time: silence while nobody speaks, a WAV file when it is its turn. It is a client of the published
contract and knows nothing of the relay's inside.

From the top: what is asked for (`TalkOptions`), one session (`Talk`), and the conversation from
start to exit code (`talk`). The rest is beside it: audio.py, connection.py, turns.py, display.py.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO
from urllib.parse import urljoin

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
from control.talk.connection import Connection, TalkError, is_here, refusal
from control.talk.display import Screen
from control.talk.turns import Floor
from relay.protocol import deepgram, relay_events

MAX_ANSWER = 4 << 20  # bytes of the answer to `POST /session`, which brings the history


class Line(msgspec.Struct, frozen=True):
    """Send this as typed text (`InjectUserMessage`)."""

    text: str

    @property
    def name(self) -> str:
        return self.text


class TalkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`inputs`, files to speak and lines, in the order in which they are said; none: lines typed at
    the terminal.

    `conversation` resumes that conversation; `save` is the WAV file for the agent's audio;
    `timeout` is how long, in seconds, nothing may come while something is due.
    """

    url: str = "http://127.0.0.1:8080"
    inputs: tuple[Path | Line, ...] = ()
    conversation: str | None = None
    save: Path | None = None
    as_json: bool = False
    timezone: str | None = None
    timeout: float = 60.0
    token: str | None = None  # who we are, for a relay that wants to know


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
        self._rate = session.audio.input.sample_rate
        self._speech: asyncio.Queue[bytes] = asyncio.Queue()  # frames to be said
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
                microphone = tasks.create_task(self._stream(), name="microphone")
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
            raise expected.exceptions[0] from None
        if self._relay.close_code != 1000:
            raise TalkError(self._relay.farewell())
        if self.errors:
            raise TalkError(f"the session had {self.errors} error(s)")

    async def _stream(self) -> None:
        """Frames in real time on an absolute schedule: speech while there is some, else silence."""
        silence = bytes(2 * round(self._rate * FRAME))
        seconds = len(silence) / 2 / self._rate
        began = self._clock()
        for number in count(1):
            speaks = not self._speech.empty()
            await self._relay.send_audio(self._speech.get_nowait() if speaks else silence)
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
                self._screen.event(heard)
                if isinstance(heard, deepgram.Error | relay_events.RelayError):
                    self.errors += 1
            self._changed.set()
        if not self._leaving:
            raise TalkError(self._relay.farewell())

    async def _say(self, each: Speech | Line) -> None:
        if isinstance(each, Line):
            await self._type(each)
        else:
            self.floor.user_begins(self._clock(), each.voiced * FRAME)
            for frame in each.frames:
                self._speech.put_nowait(frame)
            await self._speech.join()
        await self._free()
        after = self.floor.reply_after
        shown = f"       (reply after {after * 1000:.0f} ms)" if after is not None else ""
        self._screen.show(
            "turn", shown, input=each.name,
            reply_ms=None if after is None else round(after * 1000),
            at_ms=round((self._clock() - self._began) * 1000),
        )  # fmt: skip

    async def _type(self, line: Line) -> None:
        self.floor.user_begins(self._clock(), 0.0)
        message = deepgram.encode(deepgram.InjectUserMessage(content=line.text))
        try:
            await self._relay.send_text(message.decode())
        except ConnectionClosed:
            raise TalkError(self._relay.farewell()) from None

    async def _chat(self, typed: TextIO) -> None:
        """A person types and minds the pauses; the end of the input ends it."""
        lines: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            # A thread, because a terminal that does not block would not block our output either.
            with suppress(RuntimeError):  # the loop is closed: nobody reads any more
                for line in typed:
                    loop.call_soon_threadsafe(lines.put_nowait, line)
                loop.call_soon_threadsafe(lines.put_nowait, "")

        threading.Thread(target=read, name="typed lines", daemon=True).start()
        self._screen.show("ready", "type and press Enter; Ctrl-D ends")
        while line := await lines.get():
            if not (text := line.strip()):
                continue
            if typed.isatty():
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
                missing = self.floor.turn.value
                raise TalkError(f"waited {self._options.timeout:g} s for {missing}: none came")
            self._changed.clear()
            wake_at = give_up_at if free_at is None else min(free_at, give_up_at)
            with suppress(TimeoutError):  # then look again at what time it is
                await asyncio.wait_for(self._changed.wait(), wake_at - now)


async def talk(options: TalkOptions, out: TextIO, typed: TextIO | None = None) -> int:
    """Hold one conversation and return the exit code: 0 it went well, 1 it did not, 2 usage.

    It went well when every input came back as text and was answered, no error was told, and the
    session closed with 1000. Without inputs, lines come from `typed` (standard input), which must
    be a terminal unless it was passed in.
    """
    screen = Screen(out, as_json=options.as_json)
    began = asyncio.get_running_loop().time()
    session: Session | None = None
    code = 1
    try:
        if not options.inputs and typed is None:
            if not sys.stdin.isatty():
                raise UsageError("nothing to say: give WAV files or lines, or run it in a terminal")
            typed = sys.stdin
        if options.save is not None and not options.save.absolute().parent.is_dir():
            raise UsageError(f"{options.save}: there is no such folder")
        recordings = [each if isinstance(each, Line) else read_wav(each) for each in options.inputs]
        session = await _start(options)
        await _converse(session, options, recordings, screen, typed)
        code = 0
    except UsageError as error:
        screen.trouble("", str(error))
        return 2
    except (TalkError, OSError) as error:  # OSError: the recording cannot be saved
        screen.trouble("", str(error))
    if session is not None:
        conversation = session.conversation_id
        seconds = asyncio.get_running_loop().time() - began
        screen.show(
            "end",
            f"conversation {conversation} ({seconds:.1f} s)   resume it: --resume {conversation}",
            conversation_id=conversation,
            session_id=session.session_id,
            exit_code=code,
            seconds=round(seconds, 3),
            saved=str(options.save) if options.save else None,
        )
    return code


async def _converse(
    session: Session,
    options: TalkOptions,
    recordings: list[Recording | Line],
    screen: Screen,
    typed: TextIO | None,
) -> None:
    rate = session.audio.input.sample_rate
    inputs: list[Speech | Line] = [
        each if isinstance(each, Line) else make_speech(each, rate) for each in recordings
    ]
    screen.show(
        "session", f"conversation {session.conversation_id}",
        session_id=session.session_id, conversation_id=session.conversation_id,
    )  # fmt: skip
    for message in session.messages:
        screen.said(str(message.get("role")), str(message.get("content")), earlier=True)
    relay = await Connection.open(
        urljoin(options.url, session.websocket_url),
        session.ticket,
        options.timeout,
        lambda state, line: screen.show("connection", line, state=state),
    )
    conversation = Talk(relay, session, options, screen)
    try:
        await conversation.run(inputs, typed if not options.inputs else None)
    finally:
        await relay.close()
        if options.save is not None:
            heard = bytes(conversation.heard[: len(conversation.heard) & ~1])
            write_wav(options.save, session.audio.output.sample_rate, heard)


async def _start(options: TalkOptions) -> Session:
    url = urljoin(options.url.rstrip("/") + "/", "api/v1/voice/session")
    wanted = {"conversation_id": options.conversation, "timezone": options.timezone}
    body = {name: value for name, value in wanted.items() if value is not None}
    try:
        async with httpx.AsyncClient(
            timeout=min(options.timeout, 30.0), trust_env=not is_here(url)
        ) as client:
            bearer = {"Authorization": f"Bearer {options.token}"} if options.token else {}
            answer = await client.post(url, json=body, headers=bearer)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        hint = "expected an address such as http://127.0.0.1:8080"
        raise UsageError(f"{options.url!r}: {hint}") from error
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
