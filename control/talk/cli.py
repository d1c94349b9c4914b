"""`voice-relay talk`: a terminal client that speaks to a relay as a browser would.

It starts a session over REST, opens the WebSocket with the ticket and streams a microphone in real
time: silence while nobody speaks, a WAV file when it is its turn. It is a client of the published
contract and knows nothing of the relay's inside.

From the top: what is asked for (`TalkOptions`), and the conversation from start to exit code
(`talk`). The rest is beside it: caller.py (one session), audio.py, connection.py, turns.py,
display.py.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TextIO
from urllib.parse import urljoin

import msgspec

from control.talk.audio import Recording, Speech, UsageError, make_speech, read_wav, write_wav
from control.talk.caller import Caller, Line, Session, start_session
from control.talk.connection import Connection, TalkError
from control.talk.display import Screen


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
        session = await start_session(
            options.url,
            token=options.token,
            seconds=options.timeout,
            conversation_id=options.conversation,
            timezone=options.timezone,
        )
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
    caller = Caller(relay, session, timeout=options.timeout, hear=screen.event)
    terminal = Terminal(caller, screen)
    try:
        await caller.run(partial(terminal.hold, inputs, typed if not options.inputs else None))
    finally:
        await relay.close()
        if options.save is not None:
            heard = bytes(caller.heard[: len(caller.heard) & ~1])
            write_wav(options.save, session.audio.output.sample_rate, heard)


class Terminal:
    """What is said in one session: what was asked for, or what is typed."""

    def __init__(self, caller: Caller, screen: Screen) -> None:
        self._caller = caller
        self._screen = screen
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    async def hold(self, inputs: list[Speech | Line], typed: TextIO | None) -> None:
        for each in inputs:
            await self._say(each)
        if typed is not None:
            await self._chat(typed)

    async def _say(self, each: Speech | Line) -> None:
        await self._caller.say(each)
        await self._caller.wait_until_free()
        after = self._caller.floor.reply_after
        shown = f"       (reply after {after * 1000:.0f} ms)" if after is not None else ""
        self._screen.show(
            "turn", shown, input=each.name,
            reply_ms=None if after is None else round(after * 1000),
            at_ms=round((self._clock() - self._began) * 1000),
        )  # fmt: skip

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
                await self._caller.say(Line(text))
            else:  # nobody is there to mind the pauses
                await self._say(Line(text))
