"""The way out to one side of a session, and what waits for it. At most so much of it.

A send queue sends at once while the other end reads and keeps a bounded queue while it does not. It
outlives the WebSocket that it sends by: the next one of that side takes it over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import NamedTuple

from picows import WSMsgType, WSTransport

from relay.telemetry.histogram import Histogram
from relay.transport.connection_handler import NOBODY, Payload

STALL_SECONDS = 20.0  # that the other end may be connected and read nothing

HALF = b"\0"  # what completes a sample of which half has come

_HEADER_BYTES = 14  # the longest header of a frame, mask included

BINARY = WSMsgType.BINARY
TEXT = WSMsgType.TEXT


class _Waiting(NamedTuple):
    kind: WSMsgType
    payload: bytes
    since: float  # monotonic second
    for_this_end: bool


class SendQueue:
    """At most `limit` bytes wait while it is held or does not read, `audio_limit` of them audio.

    Audio over a limit goes, oldest first, and is counted in `dropped`. Text is never dropped nor
    reordered; when text alone is over the limit, the `handler` is told, and so it is
    when the other end reads nothing for STALL_SECONDS. A send queue that is `held` keeps
    everything but `send_first` until `release`; what was said to one other end alone does not
    outlive a `hold`. With `is_pcm` each message begins with a whole sample: one that ends within a
    sample of two bytes would make noise of all that follow, and is completed with a zero.
    """

    def __init__(
        self,
        limit: int,
        *,
        audio_limit: int | None = None,
        held: bool = False,
    ) -> None:
        self.limit = limit
        self.dropped = 0
        self.handler = NOBODY
        self.waited: Histogram | None = None  # what queued audio waited
        self.on_sent: Callable[[Payload], None] | None = None  # hears audio; set before `attach`
        # What the audio path of a connection asks and calls: `send` is the transport's while
        # `is_open`.
        self.is_open = False  # attached, reading and not held
        self.is_clear = False  # and audio needs nothing before it: may go past `send_audio`
        self.is_pcm = False
        self.send: Callable[[WSMsgType, Payload], None] = _swallow
        self._transport: WSTransport | None = None
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._audio_bytes = 0  # of these
        self._audio_limit = limit if audio_limit is None else audio_limit
        self._held = held
        self._is_half = False  # the audio that was sent ends within a sample
        self._reading = False
        self._gone = False
        self._pong: bytes | None = None  # what the newest ping said that is not answered
        self._stalling: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<SendQueue waiting={len(self._waiting)} bytes={self._bytes} open={self.is_open}>"

    def attach(self, transport: WSTransport) -> None:
        """A WebSocket is open."""
        self._transport = transport
        self.send = transport.send if self.on_sent is None else partial(self._tell, transport.send)
        self._gone = False
        self.resume()

    def lose(self, transport: WSTransport) -> None:
        """That WebSocket is gone, another may follow: what is sent meanwhile waits."""
        if self._transport is transport:
            self._let_go()

    def hold(self) -> None:
        """Another end follows: from now on everything waits for `release`, and what was for the
        one before alone is thrown away."""
        self._held = True
        self._is_half = False
        self._open(False)
        for item in self._waiting:
            if item.for_this_end:
                self._bytes -= len(item.payload)
        self._waiting = deque(item for item in self._waiting if not item.for_this_end)

    def detach(self) -> None:
        """What waits and what is sent from now on disappears, until a socket is attached."""
        self._let_go()
        self._gone = True
        self._waiting.clear()
        self._bytes = self._audio_bytes = 0

    def serves(self, transport: WSTransport | None) -> bool:
        """Whether this is the socket that it sends by: an old one may linger."""
        return transport is not None and self._transport is transport

    def pause(self) -> None:
        """The other end does not read."""
        self._reading = False
        self._open(False)
        if self._stalling is None:
            loop = asyncio.get_running_loop()
            self._stalling = loop.call_later(STALL_SECONDS, self._stall)

    def resume(self) -> None:
        """The other end reads: send what waits, as long as it does."""
        self._calm()
        self._reading = True
        self._answer_ping()
        self._flush()

    def release(self) -> None:
        """Nothing is held any more."""
        self._held = False
        self._flush()

    def send_audio(self, payload: Payload) -> bool:
        """Send one binary message, or queue a copy of it; whether it was sent at once."""
        if self.is_open:
            self._send_audio(payload)
            return True
        whole = not (self.is_pcm and len(payload) & 1)
        self._queue(BINARY, bytes(payload) if whole else bytes(payload) + HALF)
        return False

    def send_text(self, payload: Payload, *, for_this_end: bool = False) -> None:
        """Send or queue one text message, UTF-8. `for_this_end`: it makes no sense to another one,
        as an answer does not."""
        if self.is_open:
            self.send(TEXT, payload)
        else:
            self._queue(TEXT, bytes(payload), for_this_end=for_this_end)

    def send_first(self, payload: bytes) -> None:
        """Send one text message ahead of everything that is held."""
        if self._transport is not None:
            # Settings are long and sent once: through `send` they would leave the transport with a
            # write buffer of their size for the rest of the session.
            room = bytearray(_HEADER_BYTES) + payload
            self._transport.send_reuse_external_bytearray(TEXT, room, _HEADER_BYTES)

    def send_pong(self, payload: bytes) -> None:
        """Answer a ping, also while the send queue is held. Of pings of an other end that does not
        read, only the newest is answered when it does (RFC 6455, section 5.5.3)."""
        self._pong = payload
        if self._reading:
            self._answer_ping()

    def clear_audio(self) -> None:
        """Throw away audio that waits; text keeps its order."""
        self._waiting = deque(item for item in self._waiting if item.kind is not BINARY)
        self._bytes -= self._audio_bytes
        self._audio_bytes = 0

    def _answer_ping(self) -> None:
        payload, self._pong = self._pong, None
        if payload is not None and self._transport is not None:
            self._transport.send_pong(payload)

    def _flush(self) -> None:
        self._open(self._reading and not self._held and self._transport is not None)
        while self._waiting and self.is_open:
            kind, payload, since, _ = self._waiting.popleft()
            self._bytes -= len(payload)
            if kind is not BINARY:
                self.send(kind, payload)  # may call pause()
                continue
            self._audio_bytes -= len(payload)
            self._send_audio(payload)
            if self.waited is not None:
                self.waited.record(monotonic() - since)

    def _send_audio(self, payload: Payload) -> None:
        if self._is_half:
            self.send(BINARY, HALF)
        self._is_half = self.is_pcm and len(payload) % 2 == 1
        self.send(BINARY, payload)  # may call pause()
        self._open(self.is_open)

    def _tell(
        self, send: Callable[[WSMsgType, Payload], None], kind: WSMsgType, payload: Payload
    ) -> None:
        if kind is BINARY and self.on_sent is not None:
            self.on_sent(payload)
        send(kind, payload)

    def _open(self, is_open: bool) -> None:
        self.is_open = is_open
        self.is_clear = is_open and not self._is_half

    def _queue(self, kind: WSMsgType, payload: bytes, *, for_this_end: bool = False) -> None:
        if self._gone:
            self.dropped += kind is BINARY
            return
        self._waiting.append(_Waiting(kind, payload, monotonic(), for_this_end))
        self._bytes += len(payload)
        if kind is BINARY:
            self._audio_bytes += len(payload)
        if self._is_full():
            self._make_room()

    def _is_full(self) -> bool:
        return self._bytes > self.limit or self._audio_bytes > self._audio_limit

    def _make_room(self) -> None:
        kept: deque[_Waiting] = deque()
        while self._waiting and self._is_full():
            item = self._waiting.popleft()
            if item.kind is BINARY:
                self._bytes -= len(item.payload)
                self._audio_bytes -= len(item.payload)
                self.dropped += 1
            else:
                kept.append(item)
        self._waiting.extendleft(reversed(kept))
        if self._is_full():
            self.handler.on_overflow()

    def _let_go(self) -> None:
        self._calm()
        self._transport = self._pong = None
        self.send = _swallow
        self._reading = False
        self._open(False)

    def _stall(self) -> None:
        self._stalling = None
        self.handler.on_stalled()

    def _calm(self) -> None:
        if self._stalling is not None:
            self._stalling.cancel()
            self._stalling = None


def _swallow(kind: WSMsgType, payload: Payload) -> None:
    pass
