"""The Litestar WebSocket handler: who may attach, and the refusal before the 101.

A browser offers the subprotocols `relay.v1` and a ticket: the one that its session was begun with,
or the one to come back with (and `?received=` and `?seq=`). Everything that can be refused is
refused with an HTTP status; after the 101 only close codes are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from litestar import WebSocket, websocket
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import Receive, Send

from config import origins
from relay.core.admission import Admit, ResumePoint
from relay.live.session_registry import SessionRegistry
from relay.protocol.refusal import Refused
from relay.protocol.relay_events import SUBPROTOCOL
from relay.transport.upgrade import EXTENSION, Handshake

MAX_TICKET_CHARACTERS = 200
MAX_DIGITS = 15


class Socket(WebSocket[Any, Any, Any]):
    """Litestar's, gone as soon as its handler is.

    Litestar wraps both functions in ones that know the socket. That is a cycle: with all of the
    request and of the session, it would wait for the garbage collector.
    """

    def receive_wrapper(self, receive: Receive) -> Receive:
        return receive

    def send_wrapper(self, send: Send) -> Send:
        return send


@websocket("/api/v1/voice/session/{session_id:uuid}/ws", websocket_class=Socket)
async def attach(
    socket: Socket,
    session_id: FromPath[UUID],
    session_registry: NamedDependency[SessionRegistry],
    admit: NamedDependency[Admit],
    allowed_origins: NamedDependency[frozenset[str]],
) -> None:
    """Attach a browser to its session. The session goes on when this returns."""
    handshake: Handshake = socket.scope["extensions"][EXTENSION]  # type: ignore[index,assignment]
    await socket.receive()  # websocket.connect
    try:
        check_origin(socket, allowed_origins)
        ticket = _ticket(socket.scope["subprotocols"])
        seen = ResumePoint(*(_count(socket.query_params, name) for name in ("received", "seq")))
        # First, because it needs no database.
        if session_registry.resume(session_id, ticket, seen, handshake):
            await _accept(socket)
            return
        with session_registry.admitting(handshake):
            admitted = await admit(session_id, ticket, seen)
        runner = await session_registry.prepare(admitted, handshake)
    except Refused as refused:
        session_registry.count_refusal(refused)
        await _refuse(socket, refused)
        return
    await _accept(socket)
    session_registry.start(session_id, runner)


def check_origin(asked: ASGIConnection[Any, Any, Any, Any], allowed: frozenset[str]) -> None:
    """Browsers always send Origin; others need not. Raises `Refused` for a page of another site.

    CORS does not protect a WebSocket: without this any page could open one for its visitor.
    """
    origin = asked.headers.get("origin")
    if origin is None or origins.normalise(origin) in allowed:
        return
    is_secure = asked.scope["scheme"] in ("https", "wss")
    if not origins.is_same(origin, asked.headers.get("host", ""), is_secure=is_secure):
        raise Refused(403, "origin", "this Origin may not open a session")


def _ticket(offered: list[str]) -> str:
    if SUBPROTOCOL not in offered:
        raise Refused(400, "subprotocol", f"expected the subprotocols {SUBPROTOCOL!r} and a ticket")
    tickets = [name for name in offered if name != SUBPROTOCOL]
    if len(tickets) != 1 or len(tickets[0]) > MAX_TICKET_CHARACTERS:
        raise Refused(401, "ticket", "expected one ticket beside the subprotocol")
    return tickets[0]


def _count(parameters: Mapping[str, str], name: str) -> int:
    text = parameters.get(name, "0")
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise Refused(400, name, f"expected {name} to be a number")
    return int(text)


async def _accept(socket: Socket) -> None:
    await socket.send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL, "headers": []})


async def _refuse(socket: Socket, refused: Refused) -> None:
    await refuse(socket, refused, b"application/problem+json", refused.problem)


async def refuse(socket: Socket, refused: Refused, content_type: bytes, body: bytes) -> None:
    """Answer with the status and this body instead of the 101."""
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    await socket.send(
        {
            "type": "websocket.http.response.start",
            "status": refused.status,
            "headers": headers,
        }
    )
    await socket.send(
        {
            "type": "websocket.http.response.body",
            "body": body,
            "more_body": False,
        }
    )
