"""The WebSocket protocol that uvicorn uses for us: Litestar decides, picows carries the frames.

`Handshake` is built when an HTTP request asks to become a WebSocket, and gets the transport and the
request's head. A head that cannot become a WebSocket is refused here (request_head.py);
with any other the application runs as usual. It finds this object in
`scope["extensions"]["relay.handshake"]` and calls `accept`: picows takes the transport over and
writes the 101. From then on frames go to the connection; the application's task may end. The server
waits for the handshake until the connection's socket is gone: a session may live longer, and may
have several. A refusal is a plain HTTP answer.

`WSProtocol` is not among picows's public names: its version is pinned and the tests of
this module cover the seam.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from picows import WSAutoPingStrategy, WSUpgradeRequest, WSUpgradeResponse
from picows import WSUpgradeResponseWithListener as UpgradeWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not in its stubs
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from relay.protocol.refusal import Refused
from relay.transport import request_head
from relay.transport.connection import Connection

log = logging.getLogger(__name__)
frames_log = logging.getLogger("relay.browser_frames")

READ_BUFFER_BYTES = 4 * 1024  # microphone frames are 0.2 to 8 KiB; it grows when it has to
# And never shrinks: it becomes twice as long as what the kernel had at once, which of a flood may
# be 16 MiB. Of a browser nobody needs more than this at once.
RECEIVE_BYTES = 128 * 1024

Message = dict[str, Any]
EXTENSION = "relay.handshake"


class Handshake(asyncio.Protocol):
    """One WebSocket request until it is accepted or refused."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        is_handed_over: bool = False,
    ) -> None:
        """`is_handed_over`: it came by way of another process, which sent it here."""
        self.is_handed_over = is_handed_over
        self._connection: Connection | None = None  # once it is accepted
        self._on_shutdown: Callable[[], None] | None = None
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._key = b""  # of the head, once that is judged
        self._asked_by: Message = {}  # the scope, with what a trusted proxy says of the client
        self._refusal: Message | None = None
        self._answered = False

    # --- what uvicorn and the event loop call ------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own classes

    def data_received(self, data: bytes) -> None:
        """Frames before the 101 are a broken client."""
        if not self._answered:
            detail = "expected nothing after the head until it is answered"
            self._refuse_head(request_head.refusal(detail))

    def begin(self, head: request_head.Head) -> None:
        """Judge the head; the application answers, if it is good."""
        try:
            self._key = request_head.read_key(head)
        except Refused as refused:
            self._refuse_head(refused)
            return
        self._asked_by = self._scope(head)
        task = asyncio.get_running_loop().create_task(
            self._config.loaded_app(self._asked_by, self._receive, self._send), name="websocket"
        )
        self._state.tasks.add(task)
        task.add_done_callback(self._answer_ended)

    def connection_lost(self, exc: Exception | None) -> None:
        """The browser left before it was answered."""
        self._state.connections.discard(self)

    @property
    def address(self) -> str:
        """Where the browser is, as far as it can be known; until it is answered."""
        client = self._asked_by.get("client")
        return client[0] if client else ""

    def shutdown(self) -> None:
        """The server stops: end this socket now."""
        if self._on_shutdown is not None:
            self._on_shutdown()
        else:
            self._transport.close()

    def finish(self) -> None:
        """The socket is gone: the server need not wait for it any longer."""
        self._state.connections.discard(self)
        self._transport.close()

    # --- what the application calls ----------------------------------------------------------

    async def _receive(self) -> Message:
        return {"type": "websocket.connect"}  # nobody asks for more: frames go to picows

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "websocket.http.response.start":
                self._refusal = message
            case "websocket.http.response.body":
                if self._refusal is not None:
                    headers = self._refusal.get("headers", [])
                    self._refuse(self._refusal["status"], headers, message.get("body", b""))
            case "websocket.close" if not self._answered:
                # Litestar closes before it accepts when a path is unknown or a handler fails; it
                # says 4500 both times and tells them apart by the reason alone.
                not_found = message.get("reason") == HTTPStatus.NOT_FOUND.phrase
                status = HTTPStatus.NOT_FOUND if not_found else HTTPStatus.INTERNAL_SERVER_ERROR
                body = HTTPStatus(status).phrase.encode()
                headers = [(b"content-type", b"text/plain"), *message.get("headers", [])]
                self._refuse(status, headers, body)
            case "websocket.close" if self._connection is not None:
                self._connection.close(message.get("code", 1000), message.get("reason") or "")
            case "websocket.close":
                pass  # it was refused
            case kind:
                raise RuntimeError(f"expected a refusal or close, got {kind!r}")

    # --- the rest ----------------------------------------------------------------------------

    def _scope(self, head: request_head.Head) -> Message:
        path, query = request_head.split_target(head.target)
        headers = head.headers
        offered = b",".join(v for n, v in headers if n == b"sec-websocket-protocol").decode(
            "latin-1"
        )
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self._transport) else "ws",
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
            "root_path": self._config.root_path,
            "path": self._config.root_path + unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": headers,
            "subprotocols": [name.strip() for name in offered.split(",") if name.strip()],
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: self},
        }

    def accept(
        self,
        connection: Connection,
        headers: Mapping[str, str],
        *,
        ping_seconds: float,
        max_message_bytes: int,
        on_shutdown: Callable[[], None],
    ) -> None:
        """Send the 101 with these headers: frames go to `connection` from now on. Nothing happens
        if the browser has left. `on_shutdown` is called when the server stops while the socket is
        open."""
        if self._answered or self._transport.is_closing():
            return  # connection_lost has been or will be called
        self._answered = True

        def answer(request: WSUpgradeRequest) -> UpgradeWithListener:
            return UpgradeWithListener(WSUpgradeResponse.create_101_response(headers), connection)

        frames = WSProtocol(
            None,  # host_port: clients only
            None,  # ws_path: clients only
            False,  # is_client_side
            answer,
            frames_log,
            True,  # disconnect_on_exception
            5.0,  # websocket_handshake_timeout: the head is here already
            True,  # enable_auto_ping
            ping_seconds,
            ping_seconds,  # auto_ping_reply_timeout
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # enable_auto_pong: the connection does it, within bounds
            max_message_bytes,
            None,  # extra_headers: clients only
            READ_BUFFER_BYTES,
        )
        self._connection, self._on_shutdown = connection, on_shutdown
        connection.on_freed = self.finish
        wire = self._transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        frames.connection_made(self._transport)
        head = request_head.head_for(self._key)
        frames.get_buffer(-1)[: len(head)] = head
        frames.buffer_updated(len(head))
        if not connection.is_open:
            raise RuntimeError("picows did not take a head that was judged to be right")
        self._transport.set_protocol(frames)

    def hand_over(self, give: Callable[[int, request_head.Head], object]) -> bool:
        """Let `give` send the socket to another process, with the head; we have nothing to do with
        it then. False: the browser has left, or `give` raised `OSError`, and it is ours."""
        if self._answered or self._transport.is_closing():
            return False
        self._transport.pause_reading()  # what comes next is not for us
        path, query = self._asked_by["raw_path"], self._asked_by["query_string"]
        target = path + (b"?" + query if query else b"")
        head = request_head.Head("GET", target, "1.1", self._asked_by["headers"])
        try:
            give(self._transport.get_extra_info("socket").fileno(), head)
        except OSError:
            self._transport.resume_reading()
            return False
        self._answered = True
        self._transport.close()  # not the connection: the other process has it, too
        return True

    def _refuse_head(self, refused: Refused) -> None:
        """Before the application is asked, or while it thinks."""
        headers = [(b"content-type", b"application/problem+json")]
        if refused.status == HTTPStatus.UPGRADE_REQUIRED:
            headers += [
                (b"upgrade", b"websocket"),
                (b"sec-websocket-version", request_head.VERSION),
            ]
        self._refuse(refused.status, headers, refused.problem())
        if not self._key:  # else the application's task sees to that when it ends
            self.finish()

    def _refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        if self._answered:
            return
        self._answered = True
        if self._transport.is_closing():
            return  # whoever asked has not waited for the answer
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        lines += [b"%s: %s" % (name, value) for name, value in self._state.default_headers]
        lines += [b"%s: %s" % (n, v) for n, v in headers if n.lower() != b"content-length"]
        lines += [b"content-length: %d" % len(body), b"connection: close", b"", body]
        self._transport.write(b"\r\n".join(lines))
        self._transport.close()

    def _answer_ended(self, task: asyncio.Task[None]) -> None:
        self._state.tasks.discard(task)
        self._asked_by = {}  # we are in it
        failed = not task.cancelled() and task.exception() is not None
        if failed:
            log.error("websocket_application_failed", exc_info=task.exception())
            self._refuse(500, [(b"content-type", b"text/plain")], b"Internal Server Error")
        if self._connection is not None and not failed:
            return  # the socket lives on; `finish` is called when it does not
        if self._connection is not None:
            self._connection.abort()
        self.finish()
