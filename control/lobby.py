"""Connections that have not said yet what they want: so many at once, each for so many seconds.

Control plane. uvicorn itself waits for a request for ever and takes a head of any length. Here, who
does not finish one in time is cut off, and when too many wait, the one that has waited longest has
to go: an honest client needs milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 * 1024
RETRY_SECONDS = 5


class Lobby:
    """`trusted` are the proxies that may say where a client is; `count` hears of each refusal."""

    def __init__(
        self,
        limit: int = 1000,
        seconds: float = 10.0,
        trusted: tuple[str, ...] = ("127.0.0.1", "::1"),
        count: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.trusted = trusted
        self._limit = limit
        self._seconds = seconds
        self._count = count
        self._waiting: dict[Caller, asyncio.TimerHandle] = {}  # in the order of arrival

    def __repr__(self) -> str:
        return f"<Lobby waiting={len(self._waiting)} of {self._limit}>"

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, caller: Caller) -> None:
        """It has `seconds` from now; it may be here already."""
        if caller in self._waiting:
            return
        loop = asyncio.get_running_loop()
        self._waiting[caller] = loop.call_later(self._seconds, self._expire, caller)
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

    def _expire(self, caller: Caller) -> None:
        self.refuse(caller, HTTPStatus.REQUEST_TIMEOUT, "handshake_timeout")


class Caller(HttpToolsProtocol):
    """One connection, as uvicorn has it; in the lobby until its request is complete."""

    config: Config
    _head_bytes = 0
    _head_is_open = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.config.lobby.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.config.lobby.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._head_is_open:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_is_open and self._head_bytes > MAX_HEAD_BYTES:
            too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.config.lobby.refuse(self, too_large, "head_too_large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.config.lobby.enter(self)

    def on_headers_complete(self) -> None:
        self._head_is_open = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_is_open, self._head_bytes = True, 0  # for the next request
        self.config.lobby.leave(self)
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self.config.lobby.leave(self)
        super().handle_websocket_upgrade()
        # They know one another, and we are not told when this connection is lost.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does then

    def dismiss(self, status: HTTPStatus) -> None:
        """The last words, unless an answer is on its way."""
        if self.cycle is None or self.cycle.response_complete:
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\n"
            retry = f"retry-after: {RETRY_SECONDS}\r\n" if status.value >= 500 else ""
            self.transport.write(f"{head}{retry}content-length: 0\r\n\r\n".encode())
        self.transport.close()


class Config(uvicorn.Config):
    """uvicorn's, with the lobby that the application brings: `app.state["lobby"]`."""

    lobby: Lobby

    def __init__(self, app: Any, **more: Any) -> None:
        super().__init__(app, http=Caller, proxy_headers=False, **more)

    def load(self) -> None:
        super().load()
        self.lobby = getattr(self.loaded_app, "state", {}).get("lobby", Lobby())
        trusted = list(self.lobby.trusted)
        self.loaded_app = ProxyHeadersMiddleware(self.loaded_app, trusted_hosts=trusted)
