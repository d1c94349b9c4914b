"""The two connections of a session: a WebSocket each, on picows.

A `Connection` tells its `handler` what arrives; its `queue` is the way out. Audio goes `onward`
from one connection into the other's send queue: nothing is made, decoded or awaited for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from time import monotonic
from typing import NamedTuple, cast

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSProtocolError, WSTransport

from relay.protocol import close_codes
from relay.telemetry.open_time import OpenTime
from relay.transport.connection_handler import NOBODY, Handler, Payload
from relay.transport.send_queue import BINARY, TEXT, SendQueue

# How long a close frame may wait for its answer before the socket is cut: promise 3 says 1 s.
LINGER = 0.8

# One frame in so many is timed: two looks at the clock for each would cost more than they tell.
SAMPLE_MASK = 15

CONTINUATION = WSMsgType.CONTINUATION
CLOSE = WSMsgType.CLOSE
PING = WSMsgType.PING


class State(Enum):
    LIVE = "live"  # the socket is open, or to be opened
    CLOSED = "closed"  # a close was sent or seen
    GONE = "gone"  # and the socket is gone


class _Parts(NamedTuple):
    """A message of which more is to come."""

    kind: WSMsgType
    payload: bytearray


class Connection(WSListener):
    """One WebSocket; `frames` and `bytes` count the audio that arrived."""

    def __init__(self, queue: SendQueue, *, max_message_bytes: int) -> None:
        self.queue = queue
        self.frames = 0
        self.bytes = 0
        self.closed_code = 0
        self.onward: SendQueue | None = None  # where audio goes; None: to the handler
        self.handler: Handler = NOBODY
        self.on_freed: Callable[[], None] | None = None  # for who counts sockets, not sessions
        self.open_time = OpenTime()  # of this socket and of those before it
        self._transport: WSTransport | None = None
        self._parts: _Parts | None = None
        self._max_message_bytes = max_message_bytes
        self._state = State.LIVE

    # --- what picows calls -------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self.is_closed:  # closed while it was being opened
            transport.disconnect(False)
            return
        self.open_time.opened(monotonic())
        self.queue.attach(transport)
        self.handler.on_opened()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        # What nearly every frame is comes first, and asks as little as can be: measured, a look at
        # an attribute of a frame is 30 ns, a call 100 ns, and several times that in a cold cache.
        queue = self.onward
        if (
            frame.msg_type is BINARY
            and queue is not None
            and queue.is_clear
            and frame.fin
            and self._parts is None
            and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
        ):
            self.frames = count = self.frames + 1
            payload = frame.get_payload_as_memoryview()
            size = len(payload)
            self.bytes += size
            if not count & SAMPLE_MASK:
                self._sample(payload)
            elif size & 1 and queue.is_pcm:
                queue.send_audio(payload)
            else:
                queue.send(BINARY, payload)
        else:
            self._receive(transport, frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.queue.lose(transport)
        self._seen_closed(close_codes.ABNORMAL, "")
        self._state = State.GONE
        self.handler.on_gone()
        if self.on_freed is not None:
            self.on_freed()
            self.on_freed = None

    def pause_writing(self) -> None:
        if self.queue.serves(self._transport):
            self.queue.pause()

    def resume_writing(self) -> None:
        if self.queue.serves(self._transport):
            self.queue.resume()

    def _receive(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if self.is_closed:
            if kind is CLOSE:
                transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "reserved bits without an extension")
        if kind is BINARY and frame.fin and self._parts is None:
            self._heard(frame.get_payload_as_memoryview())
        elif kind is CLOSE:
            self._peer_closed(transport, frame)
        elif kind in (TEXT, BINARY, CONTINUATION):
            self._assemble(kind, frame)
        else:
            if kind is PING and self.queue.serves(transport):
                self.queue.send_pong(frame.get_payload_as_bytes())
            self.handler.on_control()

    def _heard(self, payload: Payload) -> None:
        self.frames += 1
        self.bytes += len(payload)
        if self.frames & SAMPLE_MASK:
            (self.handler.on_audio if self.onward is None else self.onward.send_audio)(payload)
        else:
            self._sample(payload)

    def _sample(self, payload: Payload) -> None:
        began, queue = monotonic(), self.onward
        sent = self.handler.on_audio(payload) if queue is None else queue.send_audio(payload)
        # What is queued is timed by the send queue.
        self.handler.on_sample(monotonic() - began if sent else None)

    # --- what the session runner calls ------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the WebSocket handshake was completed."""
        return self._transport is not None

    @property
    def is_closed(self) -> bool:
        """Whether a close was sent or seen."""
        return self._state is not State.LIVE

    @property
    def has_socket(self) -> bool:
        """Whether there is a socket still, also of a connection that is closed."""
        return self._transport is not None and self._state is not State.GONE

    @property
    def said(self) -> int:
        """The code of the close frame that was sent, also by picows itself; 0: none was."""
        shaken = self._transport.close_handshake if self._transport is not None else None
        return 0 if shaken is None or shaken.sent is None else cast(int, shaken.sent.code)

    def feed(self, queue: SendQueue | None) -> None:
        """Audio goes into this send queue from now on; None: to the handler's `on_audio`."""
        self.onward = None if self.is_closed else queue

    def listen(self, handler: Handler) -> None:
        """Everything is told to this handler from now on, first what was buffered for it."""
        earlier, self.handler = self.handler, handler
        self.queue.handler = handler
        earlier.replay(handler)

    def close(self, code: int, reason: str) -> None:
        """Say goodbye and hang up; the socket is gone within LINGER seconds. May be repeated."""
        if self.is_closed:
            return
        self._shut()
        self.closed_code = code
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return
        if self.queue.serves(transport):
            self.queue.resume()  # last words go before the close frame, as far as they are read
            self.queue.lose(transport)
        transport.send_close(cast(WSCloseCode, code), reason.encode())
        # The answer is waited for: closing at once, with frames unread, makes the kernel send a
        # reset that can overtake our close frame.
        asyncio.get_running_loop().call_later(LINGER, transport.disconnect, False)

    def abort(self) -> None:
        """Cut the socket without a word."""
        self._shut()
        if self._transport is not None:
            self._transport.disconnect(False)

    def successor(self) -> Connection:
        """A connection for the next socket of the same side: same send queue, and it goes on
        counting; the code is the last that was seen."""
        following = Connection(self.queue, max_message_bytes=self._max_message_bytes)
        following.frames, following.bytes = self.frames, self.bytes
        following.closed_code, following.open_time = self.closed_code, self.open_time
        return following

    def forget(self) -> None:
        """Nobody listens any more: a connection and its handler know one another."""
        self.onward = None
        self.listen(NOBODY)

    # --- messages in parts, and the end ------------------------------------------------------

    def _assemble(self, kind: WSMsgType, frame: WSFrame) -> None:
        if (kind == CONTINUATION) is (self._parts is None):
            raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "fragments out of order")
        parts = self._parts = self._parts or _Parts(kind, bytearray())
        if len(parts.payload) + frame.payload_size > self._max_message_bytes:
            raise WSProtocolError(WSCloseCode.MESSAGE_TOO_BIG, "message too big")
        parts.payload.extend(frame.get_payload_as_memoryview())
        if not frame.fin:
            return
        whole, self._parts = bytes(parts.payload), None
        if parts.kind == BINARY:
            self._heard(whole)
            return
        try:
            whole.decode()
        except UnicodeDecodeError as error:
            raise WSProtocolError(WSCloseCode.INVALID_TEXT, "text is not UTF-8") from error
        self.handler.on_text(whole)

    def _peer_closed(self, transport: WSTransport, frame: WSFrame) -> None:
        # An IntEnum at run time, whatever the stubs say; a frame may carry no code.
        if frame.payload_size:
            code = cast(int, frame.get_close_code())
            answer = close_codes.sendable(code, instead=close_codes.PROTOCOL_ERROR)
        else:
            code, answer = close_codes.NO_STATUS, close_codes.NORMAL
        transport.send_close(cast(WSCloseCode, answer), b"")
        transport.disconnect()
        asyncio.get_running_loop().call_later(LINGER, transport.disconnect, False)
        self._seen_closed(code, frame.get_close_reason() or "")

    def _seen_closed(self, code: int, reason: str) -> None:
        if self.is_closed:
            return
        self._shut()
        self.closed_code = code
        self.handler.on_closed(code, reason)

    def _shut(self) -> None:
        if self._state is State.LIVE:
            self._state = State.CLOSED
            self.open_time.closed(monotonic())
        self.onward = None  # what still comes is not heard
