"""The terminal client's WebSocket: opened with a ticket, and opened again when it breaks.

Written from docs/protocol.md, "Coming back": it counts the text messages that it got, keeps the
newest resume ticket and returns to its session with both. What it hears are the structs that
everybody uses, Deepgram's and the relay's.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from relay.protocol import deepgram, relay_events
from relay.protocol.relay_events import SUBPROTOCOL, RelayEvent

# Broken without a word, pings unanswered, not reading, the relay restarts. Other ends were meant.
BREAKS = frozenset({None, 1001, 1006, 1008, 1012, 1013})
TRIES = 8
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0  # seconds, doubled from try to try; half to all of it
TRY_SECONDS = 5.0


Event = deepgram.ServerMessage | RelayEvent
_RELAY_EVENTS = {kind.__name__: kind for kind in RelayEvent.__subclasses__()}


class TalkError(Exception):
    """The session did not go well: exit code 1."""


class Connection:
    """Events and audio of one session, over one WebSocket after the other.

    `tell` gets a word ("lost", "back") and a line for people.
    """

    def __init__(
        self, url: str, socket: ClientConnection, tell: Callable[[str, str], None]
    ) -> None:
        self._url = url
        self._socket = socket
        self._tell = tell
        self._ticket: str | None = None
        self._received = 0  # text messages of this session, without RelaySession
        self._is_up = asyncio.Event()
        self._is_up.set()

    @classmethod
    async def open(
        cls, url: str, ticket: str, seconds: float, tell: Callable[[str, str], None]
    ) -> Connection:
        """The first WebSocket of a session. Raises `TalkError`."""
        url = re.sub(r"^http", "ws", url)
        try:
            socket = await _connect(url, ticket, seconds)
        except InvalidStatus as error:
            response = error.response
            retry = response.headers.get("Retry-After")
            raise refusal(response.status_code, bytes(response.body or b""), retry) from error
        except (InvalidHandshake, InvalidURI, OSError) as error:  # OSError: TimeoutError too
            cause = error or type(error).__name__
            raise TalkError(f"the WebSocket does not open: {cause}") from error
        if socket.subprotocol != SUBPROTOCOL:
            await socket.close(1000)
            raise TalkError(f"expected the subprotocol {SUBPROTOCOL}, got {socket.subprotocol}")
        return cls(url, socket, tell)

    @property
    def close_code(self) -> int | None:
        return self._socket.close_code

    def farewell(self) -> str:
        """How the last WebSocket ended, in one line."""
        code, reason = self.close_code, self._socket.close_reason
        if code in (None, 1006):
            return "the connection to the relay broke"
        return f"the relay ended the session: {code}{f' {reason}' if reason else ''}"

    async def hear(self) -> AsyncIterator[Event | bytes]:
        """What comes, until the session is over. Raises `TalkError` when there is no way back, and
        for what is broken."""
        while True:
            try:
                async for frame in self._socket:
                    heard = decode(frame) if isinstance(frame, str) else frame
                    match heard:
                        case relay_events.RelaySession(resume_ticket=ticket, resume_within=seconds):
                            self._ticket = ticket if seconds else self._ticket
                        case relay_events.RelayGoAway(resume_ticket=ticket):
                            self._ticket = ticket
                    if isinstance(frame, str) and not isinstance(heard, relay_events.RelaySession):
                        self._received += 1
                    if heard is not None:
                        yield heard
            except ConnectionClosed:
                pass  # its code decides
            if self._ticket is None or self.close_code not in BREAKS:
                return
            self._is_up.clear()
            await self._return(self._ticket)

    async def send_audio(self, frame: bytes) -> None:
        """A microphone frame; dropped while there is no connection: only the present counts."""
        try:
            await self._socket.send(frame)
        except ConnectionClosed:
            pass  # hear() knows

    async def send_text(self, text: str) -> None:
        """Waits for the way back if there is none. Raises `ConnectionClosed` when it is over."""
        while True:
            await self._is_up.wait()
            socket = self._socket
            try:
                await socket.send(text)
                return
            except ConnectionClosed:
                if not self._expects_another(socket):
                    raise

    async def leave(self) -> None:
        """Say goodbye, so that the session ends at once; if it must be, come back to say it."""
        while True:
            await self._is_up.wait()
            socket = self._socket
            await socket.close(1000)
            if not self._expects_another(socket):
                return

    def _expects_another(self, socket: ClientConnection) -> bool:
        """Whether `hear` comes back after the end of this one; then nobody sends until it has."""
        if self._ticket is None or socket.close_code not in BREAKS:
            return False
        if socket is self._socket:
            self._is_up.clear()
        return True

    async def close(self) -> None:
        """Whatever there is, is closed. Again: nothing."""
        await self._socket.close(1000)

    async def _return(self, ticket: str) -> None:
        self._tell("lost", f"connection lost ({self.close_code}), coming back")
        url = f"{self._url}?received={self._received}"
        pause = FIRST_PAUSE
        for _ in range(TRIES):
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._socket = await _connect(url, ticket, TRY_SECONDS)
            except InvalidStatus as error:
                if error.response.status_code < 500:
                    raise TalkError(
                        "the connection to the relay broke, and the session is over"
                    ) from error
            except (InvalidHandshake, OSError, EOFError):
                pass  # nobody is there yet
            else:
                self._tell("back", "connection is back")
                self._is_up.set()
                return
        raise TalkError(f"the connection to the relay broke, and {TRIES} tries did not mend it")


async def _connect(url: str, ticket: str, seconds: float) -> ClientConnection:
    return await connect(
        url,
        subprotocols=[Subprotocol(SUBPROTOCOL), Subprotocol(ticket)],
        compression=None,
        open_timeout=seconds,
        close_timeout=5,
        ping_interval=10,
        ping_timeout=20,
        proxy=None if is_here(url) else True,
    )


def decode(text: str) -> Event | None:
    """None: a type that we do not know, which is nothing bad. Raises `TalkError` if broken."""
    match deepgram.decode_server(text.encode()):
        case deepgram.Mended(message=mended):
            return mended
        case deepgram.Malformed(type, reason):
            raise TalkError(f"the relay sent a broken message {type!r}: {reason}")
        case deepgram.Unknown(type):
            try:
                kind = _RELAY_EVENTS.get(type)
                return None if kind is None else msgspec.json.decode(text, type=kind)
            except msgspec.DecodeError as error:
                raise TalkError(f"the relay sent a broken message {type!r}: {error}") from error
        case message:
            return message


def refusal(status: int, body: bytes, retry_after: str | None) -> TalkError:
    """What a relay's refusal means, in one line."""
    try:
        problem = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = None
    detail = ""
    if isinstance(problem, dict):
        detail = str(problem.get("detail") or problem.get("title") or "")[:500]
    again = f"; try again in {retry_after} s" if retry_after else ""
    return TalkError(f"the relay refused the session: {status} {detail}".rstrip() + again)


def is_here(url: str) -> bool:
    """Whether it is this machine: then no proxy stands in between."""
    return urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}
