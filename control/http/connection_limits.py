"""Connections that have not said yet what they want: so many at once, each for so many seconds.

Control plane. uvicorn itself waits for a request for ever and takes a head of any length. Here, who
does not finish one in time is cut off, and when too many wait, the one that has waited longest has
to go: an honest client needs milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relay.transport import request_head
from relay.transport.upgrade import Handshake

MAX_HEAD_BYTES = 32 * 1024
RETRY_SECONDS = 5


class ConnectionLimits:
    """`count` hears of each refusal."""

    def __init__(
        self,
        limit: int = 1000,
        seconds: float = 10.0,
        count: Callable[[str], None] = lambda code: None,
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._count = count
        self._waiting: dict[Caller, asyncio.TimerHandle] = {}  # in the order of arrival

    def __repr__(self) -> str:
        return f"<ConnectionLimits waiting={len(self._waiting)} of {self._limit}>"

    def enter(self, caller: Caller) -> None:
        """It has `seconds` from now; it may be here already."""
        if caller in self._waiting:
            return
        loop = asyncio.get_running_loop()
        self._waiting[caller] = loop.call_later(
            self._seconds, self.refuse, caller, HTTPStatus.REQUEST_TIMEOUT, "handshake_timeout"
        )
        if len(self._waiting) > self._limit:
            self.refuse(next(iter(self._waiting)), HTTPStatus.SERVICE_UNAVAILABLE, "handshakes")

    def leave(self, caller: Caller) -> None:
        """It has said what it wants, or is gone."""
        timer = self._waiting.pop(caller, None)
        if timer is not None:
            timer.cancel()

    def refuse(self, caller: Caller, status: HTTPStatus, code: str) -> None:
        """Say why, and hang up."""
        self.leave(caller)
        self._count(code)
        caller.dismiss(status)


class _HeadTooLarge(Exception):
    """Out of a callback of the parser, which stops; it was refused."""


class Caller(HttpToolsProtocol):
    """One connection, as uvicorn has it; bounded until its request is complete."""

    limits: ConnectionLimits
    _head_bytes = 0  # as they came, while the head is not complete
    _head_is_open = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Those of the application, if it brings any.
        state = getattr(self.config.loaded_app, "state", {})
        self.limits = state.setdefault("connection_limits", ConnectionLimits())
        self.limits.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """uvicorn's, but that no head is too long, and that nothing behind one is lost."""
        self._unset_keepalive_if_required()
        while data and not self.transport.is_closing():
            if self._head_is_open:
                self._head_bytes += len(data)
            data = self._feed(data)
        is_too_long = self._head_is_open and self._head_bytes > MAX_HEAD_BYTES
        if is_too_long and not self.transport.is_closing():
            self._refuse_head()

    def _feed(self, data: bytes) -> bytes:
        """What is to be fed next."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as asked:
            return self._change_protocol(data[asked.args[0] :])
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self.send_400_response("Invalid HTTP request received.")
        return b""

    def _change_protocol(self, rest: bytes) -> bytes:
        """The parser has stopped after a head and has not read the body, if there is one.

        To any protocol but ours a server may say nothing and go on with HTTP. So do we: the head is
        read again, without that wish. (Java's HttpClient has it in every first request.)
        """
        if request_head.is_asked(self.headers):
            self._hand_over(rest)
            return b""
        fields = [field for field in self.headers if field[0] != b"upgrade"]
        if len(fields) == len(self.headers):  # CONNECT, which is for proxies
            self.send_400_response("Invalid HTTP request received.")
            return b""
        return self._head(fields) + rest

    def _head(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        method, version = self.scope["method"].encode(), self.scope["http_version"].encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % field for field in fields]
        return b"\r\n".join((*lines, b"", b""))

    def _refuse_head(self) -> None:
        too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        self.limits.refuse(self, too_large, "head_too_large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.limits.enter(self)

    def on_headers_complete(self) -> None:
        self._head_is_open = False
        # It may have come in one piece.
        if len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEAD_BYTES:
            self._refuse_head()
            raise _HeadTooLarge
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_is_open, self._head_bytes = True, 0  # for the next request
        self.limits.leave(self)
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return True  # whatever the protocol: uvicorn does not begin to answer

    def _hand_over(self, rest: bytes) -> None:
        """To the WebSocket, with the head; `rest` came behind it."""
        self.limits.leave(self)
        if self.cycle is not None and not self.cycle.response_complete:
            self.dismiss(HTTPStatus.BAD_REQUEST)  # an answer is on its way
            return
        self.connections.discard(self)
        handshake = Handshake(self.config, self.server_state, self.app_state)
        handshake.connection_made(self.transport)
        self.transport.set_protocol(handshake)
        if rest:
            handshake.data_received(rest)
        else:
            method, version = self.scope["method"], self.scope["http_version"]
            handshake.begin(request_head.Head(method, self.url, version, self.headers))
        # They know one another, and we are not told when this connection is lost.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does then

    def dismiss(self, status: HTTPStatus) -> None:
        """The last words, unless an answer is on its way."""
        if self.cycle is None or self.cycle.response_complete:
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\n"
            retry = f"retry-after: {RETRY_SECONDS}\r\n" if status.value >= 500 else ""
            self.transport.write(f"{head}{retry}content-length: 0\r\n\r\n".encode())
        self.transport.close()
