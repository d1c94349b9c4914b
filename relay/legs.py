"""The two legs of a session: a WebSocket each, on picows.

A `Leg` turns what arrives into calls: `on_opened` once, `on_audio` for a binary message, `on_text`
for a text one, `on_closed` once, `on_gone` when the socket is. Its `lane` is the way out: it sends
at once while the other end reads, and keeps a bounded queue while it does not. Audio goes from one
leg's `on_audio` straight into the other's lane: nothing is made, decoded or awaited for it. A lane
outlives its leg: the next leg of that side takes it over.

What is passed to `on_audio` is a view into a buffer that is used again: whoever keeps it copies it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import cast

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSProtocolError, WSTransport

from relay import browser
from relay.latency import Histogram

# How long a close frame may wait for its answer before the socket is cut: promise 3 says 1 s.
LINGER = 0.8

# One frame in so many is timed: two looks at the clock for each would cost more than they tell.
SAMPLE_MASK = 15
MAX_KEPT = 16  # before Settings an agent says Welcome, and nothing else

_HEADER_BYTES = 14  # the longest header of a frame, mask included

BINARY = WSMsgType.BINARY
TEXT = WSMsgType.TEXT
CONTINUATION = WSMsgType.CONTINUATION
CLOSE = WSMsgType.CLOSE

Payload = bytes | memoryview


class Lane:
    """The way out to one side; at most `limit` bytes wait while it is held or does not read.

    Audio over the limit goes, oldest first, and is counted in `dropped`. Text is never dropped nor
    reordered; when text alone is over the limit, `on_overflow` is called. A lane that is `held`
    keeps everything but `send_first` until `release`.
    """

    def __init__(self, limit: int, *, held: bool = False) -> None:
        self.limit = limit
        self.dropped = 0
        self.on_overflow: Callable[[], None] = _nothing
        self._transport: WSTransport | None = None
        self.waited: Histogram | None = None  # what queued audio waited
        self._waiting: deque[tuple[WSMsgType, bytes, float]] = deque()
        self._bytes = 0
        self._held = held
        self._reading = False
        self._open = False  # attached, reading and not held: what the fast path asks
        self._gone = False

    def __repr__(self) -> str:
        return f"<Lane waiting={len(self._waiting)} bytes={self._bytes} open={self._open}>"

    def attach(self, transport: WSTransport) -> None:
        """A WebSocket is open."""
        self._transport = transport
        self._gone = False
        self.resume()

    def lose(self, transport: WSTransport) -> None:
        """That WebSocket is gone, another may follow: what is sent meanwhile waits."""
        if self._transport is transport:
            self._transport = None
            self._reading = self._open = False

    def hold(self) -> None:
        """From now on everything waits for `release`."""
        self._held = True
        self._open = False

    def detach(self) -> None:
        """What waits and what is sent from now on disappears, until a socket is attached."""
        self._transport = None
        self._reading = self._open = False
        self._gone = True
        self._waiting.clear()
        self._bytes = 0

    def serves(self, transport: WSTransport | None) -> bool:
        """Whether this is the socket that it sends by: an old one may linger."""
        return transport is not None and self._transport is transport

    def pause(self) -> None:
        """The other end does not read."""
        self._reading = self._open = False

    def resume(self) -> None:
        """The other end reads: send what waits, as long as it does."""
        self._reading = True
        self._flush()

    def release(self) -> None:
        """Nothing is held any more."""
        self._held = False
        self._flush()

    def send_audio(self, payload: Payload) -> bool:
        """Send one binary message, or queue a copy of it; whether it was sent at once."""
        if self._open:
            self._transport.send(BINARY, payload)  # type: ignore[union-attr]  # open: attached
            return True
        self._queue(BINARY, bytes(payload))
        return False

    def send_text(self, payload: Payload) -> None:
        """Send or queue one text message, UTF-8."""
        if self._open:
            self._transport.send(TEXT, payload)  # type: ignore[union-attr]  # open: attached
        else:
            self._queue(TEXT, bytes(payload))

    def send_first(self, payload: bytes) -> None:
        """Send one text message ahead of everything that is held."""
        if self._transport is not None:
            # Settings are long and sent once: through `send` they would leave the transport with a
            # write buffer of their size for the rest of the session.
            room = bytearray(_HEADER_BYTES) + payload
            self._transport.send_reuse_external_bytearray(TEXT, room, _HEADER_BYTES)

    def clear_audio(self) -> None:
        """Throw away audio that waits; text keeps its order."""
        self._waiting = deque(item for item in self._waiting if item[0] is not BINARY)
        self._bytes = sum(len(payload) for _, payload, _ in self._waiting)

    def _flush(self) -> None:
        self._open = self._reading and not self._held and self._transport is not None
        while self._waiting and self._open and self._transport is not None:
            kind, payload, since = self._waiting.popleft()
            self._bytes -= len(payload)
            self._transport.send(kind, payload)  # may call pause()
            if self.waited is not None and kind is BINARY:
                self.waited.record(monotonic() - since)

    def _queue(self, kind: WSMsgType, payload: bytes) -> None:
        if self._gone:
            self.dropped += kind is BINARY
            return
        self._waiting.append((kind, payload, monotonic()))
        self._bytes += len(payload)
        if self._bytes > self.limit:
            self._make_room()

    def _make_room(self) -> None:
        kept: deque[tuple[WSMsgType, bytes, float]] = deque()
        for item in self._waiting:
            if item[0] is BINARY and self._bytes > self.limit:
                self._bytes -= len(item[1])
                self.dropped += 1
            else:
                kept.append(item)
        self._waiting = kept
        if self._bytes > self.limit:
            self.on_overflow()


class Leg(WSListener):
    """One WebSocket; `frames` and `bytes` count the audio that arrived."""

    def __init__(self, lane: Lane, *, max_message_bytes: int) -> None:
        self.lane = lane
        self.frames = 0
        self.bytes = 0
        self.closed_code = 0
        self.on_audio: Callable[[Payload], bool] = _ignore_audio
        self.on_text: Callable[[bytes], None] = _ignore_text
        self.on_opened: Callable[[], None] = _nothing
        self.on_closed: Callable[[int, str], None] = _ignore_close
        self.added: Histogram | None = None
        self.was_used = False  # as the way to an agent: the next one needs a leg of its own
        self.has_socket = False
        self.on_gone: Callable[[], None] = _nothing
        self.on_freed: Callable[[], None] = _nothing  # for who counts sockets, not sessions
        self._transport: WSTransport | None = None
        self._parts: bytearray | None = None
        self._parts_kind = BINARY
        self._max_message_bytes = max_message_bytes
        self._is_closed = False
        self._happened: list[Callable[[], None]] = []

    # --- what picows calls -------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self.has_socket = True
        if self._is_closed:  # closed while it was being opened
            transport.disconnect(False)
            return
        self.lane.attach(transport)
        self.on_opened()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self._is_closed:
            if frame.msg_type == CLOSE:
                transport.disconnect()
            return
        kind = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "reserved bits without an extension")
        if kind == BINARY and frame.fin and self._parts is None:
            self.frames += 1
            self.bytes += frame.payload_size
            if self.frames & SAMPLE_MASK:
                self.on_audio(frame.get_payload_as_memoryview())
            else:
                self._sample(frame)
        elif kind == CLOSE:
            self._peer_closed(transport, frame)
        elif kind in (TEXT, BINARY, CONTINUATION):
            self._assemble(kind, frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.lane.lose(transport)
        self._seen_closed(browser.ABNORMAL, "")
        self.has_socket = False
        self.on_gone()
        freed, self.on_freed = self.on_freed, _nothing
        freed()

    def pause_writing(self) -> None:
        if self.lane.serves(self._transport):
            self.lane.pause()

    def resume_writing(self) -> None:
        if self.lane.serves(self._transport):
            self.lane.resume()

    def _sample(self, frame: WSFrame) -> None:
        began = monotonic()
        sent = self.on_audio(frame.get_payload_as_memoryview())
        if sent and self.added is not None:  # what is queued is timed by the lane
            self.added.record(monotonic() - began, SAMPLE_MASK + 1)

    # --- what the bridge calls ---------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the WebSocket handshake was completed."""
        return self._transport is not None

    @property
    def is_closed(self) -> bool:
        """Whether a close was sent or seen."""
        return self._is_closed

    def keep(self) -> None:
        """Nobody listens yet: remember what happens, for `replay`."""
        happened = self._happened
        self.on_opened = lambda: happened.append(lambda: self.on_opened())
        self.on_text = lambda text: self._remember(lambda: self.on_text(text))
        self.on_closed = lambda code, reason: happened.append(lambda: self.on_closed(code, reason))

    def replay(self) -> None:
        """Somebody listens now: tell what happened since `keep`, in order."""
        happened, self._happened = self._happened, []
        for tell in happened:
            tell()

    def _remember(self, tell: Callable[[], None]) -> None:
        self._happened.append(tell)
        if len(self._happened) > MAX_KEPT:
            self.abort()

    def close(self, code: int, reason: str) -> None:
        """Say goodbye and hang up; the socket is gone within LINGER seconds. May be repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        self.closed_code = code
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return
        if self.lane.serves(transport):
            self.lane.resume()  # last words go before the close frame, as far as they are read
            self.lane.lose(transport)
        transport.send_close(cast(WSCloseCode, code), reason.encode())
        # The answer is waited for: closing at once, with frames unread, makes the kernel send a
        # reset that can overtake our close frame.
        asyncio.get_running_loop().call_later(LINGER, transport.disconnect, False)

    def abort(self) -> None:
        """Cut the socket without a word."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.disconnect(False)

    def successor(self) -> Leg:
        """A leg for the next socket of the same side: same lane, and it goes on counting; the code
        is the last that was seen."""
        next_leg = Leg(self.lane, max_message_bytes=self._max_message_bytes)
        next_leg.frames, next_leg.bytes = self.frames, self.bytes
        next_leg.closed_code = self.closed_code
        return next_leg

    def forget(self) -> None:
        """Drop the callbacks: a leg and whoever listens to it know one another."""
        self.on_audio, self.on_text = _ignore_audio, _ignore_text
        self.on_opened, self.on_closed, self.on_gone = _nothing, _ignore_close, _nothing
        self.lane.on_overflow = _nothing

    # --- messages in parts, and the end ------------------------------------------------------

    def _assemble(self, kind: WSMsgType, frame: WSFrame) -> None:
        if (kind == CONTINUATION) is (self._parts is None):
            raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "fragments out of order")
        if self._parts is None:
            self._parts, self._parts_kind = bytearray(), kind
        if len(self._parts) + frame.payload_size > self._max_message_bytes:
            raise WSProtocolError(WSCloseCode.MESSAGE_TOO_BIG, "message too big")
        self._parts += frame.get_payload_as_memoryview()
        if not frame.fin:
            return
        whole, self._parts = bytes(self._parts), None
        if self._parts_kind == BINARY:
            self.frames += 1
            self.bytes += len(whole)
            self.on_audio(whole)
            return
        try:
            whole.decode()
        except UnicodeDecodeError as error:
            raise WSProtocolError(WSCloseCode.INVALID_TEXT, "text is not UTF-8") from error
        self.on_text(whole)

    def _peer_closed(self, transport: WSTransport, frame: WSFrame) -> None:
        # An IntEnum at run time, whatever the stubs say; 0 when the frame carries no code.
        code = cast(int, frame.get_close_code()) or browser.NO_STATUS
        answer = browser.sendable(code, instead=browser.NORMAL)
        transport.send_close(cast(WSCloseCode, answer), b"")
        transport.disconnect()
        asyncio.get_running_loop().call_later(LINGER, transport.disconnect, False)
        self._seen_closed(code, frame.get_close_reason() or "")

    def _seen_closed(self, code: int, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.closed_code = code
        self.on_closed(code, reason)


def _nothing() -> None:
    pass


def _ignore_audio(payload: Payload) -> bool:
    return False


def _ignore_text(payload: bytes) -> None:
    pass


def _ignore_close(code: int, reason: str) -> None:
    pass
