"""The Litestar WebSocket handlers: who may attach, and the refusal before the 101.

Everything that can be refused is refused with an HTTP status; after the 101 only close codes are
left.

A browser offers the subprotocols `relay.v1` and a ticket: the one that its session was begun with,
or the one to come back with (and `?received=` and `?seq=`).

Deepgram's own clients find the same path and the same manners as at Deepgram. Their credential is a
ticket from `POST /v1/auth/grant`, as `Authorization: Token …` or `Bearer …`, or as the subprotocols
`token, <ticket>` or `bearer, <ticket>`, where browsers cannot set headers; the SDK for JavaScript
adds two more values. A refusal looks as Deepgram's does. What is said after the 101 is the business
of relay/core/deepgram_session.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
from litestar import WebSocket, websocket
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import Receive, Send

from config import origins
from relay.core.admitted import Admit, AdmitGrant, ResumePoint
from relay.live.session_registry import SessionRegistry
from relay.protocol.refusal import Refused
from relay.protocol.relay_events import SUBPROTOCOL
from relay.transport.upgrade import EXTENSION, Handshake

MAX_TICKET_CHARACTERS = 200
MAX_DIGITS = 15
SCHEMES = ("token", "bearer")
CHOSEN = "Sec-WebSocket-Protocol"
REQUEST_ID = "dg-request-id"

Check = Callable[[ASGIConnection[Any, Any, Any, Any]], None]
"""Looks at whoever asks, before anything else; raises `Refused`."""

HandOver = Callable[[UUID | None, Handshake], Awaitable[bool]]
"""Gives the socket to the worker that has the session, or where a new one is to be (None); False:
it stays here."""

# Deepgram's words for an HTTP status; its clients show or compare them.
_PROBLEMS = {
    400: ("Bad Request", "Invalid request body."),
    401: ("INVALID_AUTH", "Invalid credentials."),
    403: ("INSUFFICIENT_PERMISSIONS", "Insufficient permissions."),
    404: ("NOT_FOUND", "Not found."),
    413: ("PAYLOAD_TOO_LARGE", "Request body too large."),
    429: ("TOO_MANY_REQUESTS", "Too many requests. Please try again later"),
    500: ("INTERNAL_SERVER_ERROR", "Internal server error."),
}


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
    hand_over: NamedDependency[HandOver],
    allowed_origins: NamedDependency[frozenset[str]],
    check_address: NamedDependency[Check],
) -> None:
    """Attach a browser to its session. The session goes on when this returns."""

    async def begin(handshake: Handshake) -> None:
        ticket = _ticket(socket.scope["subprotocols"])
        headers = {CHOSEN: SUBPROTOCOL}
        seen = ResumePoint(*(_count(socket.query_params, name) for name in ("received", "seq")))
        # First, because it needs no database.
        if session_registry.resume(session_id, ticket, seen, handshake, headers):
            return
        if not await hand_over(session_id, handshake):
            with session_registry.admitting(handshake):
                admitted = await admit(session_id, ticket, seen)
            await session_registry.begin(admitted, handshake, headers)

    checks = check_address, partial(check_origin, allowed=allowed_origins)
    if refused := await _ask(socket, session_registry, checks, begin):
        await _refuse(socket, refused, b"application/problem+json", refused.problem())


@websocket("/v1/agent/converse", websocket_class=Socket)
async def converse(
    socket: Socket,
    session_registry: NamedDependency[SessionRegistry],
    admit_grant: NamedDependency[AdmitGrant],
    hand_over: NamedDependency[HandOver],
    allowed_origins: NamedDependency[frozenset[str]],
    check_address: NamedDependency[Check],
) -> None:
    """Attach an official client. The session goes on when this returns."""

    async def begin(handshake: Handshake) -> None:
        offered = socket.scope["subprotocols"]
        ticket, chosen = read_credential(socket.headers.get("authorization"), offered)
        if await hand_over(None, handshake):
            return
        with session_registry.admitting(handshake):
            admitted = await admit_grant(ticket)
        headers = {REQUEST_ID: str(admitted.session_id)}
        if chosen is not None:
            headers[CHOSEN] = chosen
        await session_registry.begin(admitted, handshake, headers, is_deepgram_client=True)

    checks = check_address, partial(check_origin, allowed=allowed_origins)
    if refused := await _ask(socket, session_registry, checks, begin):
        await _refuse(socket, refused, b"application/json", problem_body(refused.status))


async def _ask(
    socket: Socket,
    session_registry: SessionRegistry,
    checks: Sequence[Check],
    begin: Callable[[Handshake], Awaitable[None]],
) -> Refused | None:
    """Let `begin` accept the handshake; why it may not, if so."""
    await socket.receive()  # websocket.connect
    try:
        for check in checks:
            check(socket)
        await begin(socket.scope["extensions"][EXTENSION])  # type: ignore[index,arg-type]
    except Refused as refused:
        session_registry.count_refusal(refused)
        return refused
    return None


def check_origin(asked: ASGIConnection[Any, Any, Any, Any], allowed: frozenset[str]) -> None:
    """Browsers always send Origin; others need not. Raises `Refused` for a page of another site.

    CORS does not protect a WebSocket: without this any page could open one for its visitor.
    """
    origin = asked.headers.get("origin")
    if origin is None or origins.normalise(origin) in allowed:
        return
    is_secure = asked.scope["scheme"] in ("https", "wss")
    if not origins.is_same(origin, asked.headers.get("host", ""), is_secure=is_secure):
        raise Refused(403, "origin", "this Origin may not do that")


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


async def _refuse(socket: Socket, refused: Refused, content_type: bytes, body: bytes) -> None:
    """Answer with the status and this body instead of the 101."""
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    status = refused.status
    await socket.send(
        {"type": "websocket.http.response.start", "status": status, "headers": headers}
    )
    await socket.send({"type": "websocket.http.response.body", "body": body, "more_body": False})


class DeepgramProblem(msgspec.Struct, frozen=True):
    """Deepgram's JSON for a refused request; `err_code` is for programs."""

    err_code: str
    err_msg: str
    request_id: str


def problem_body(status: int, detail: str | None = None) -> bytes:
    """`DeepgramProblem` as JSON; `detail` where Deepgram's own text would say too little."""
    code, text = _PROBLEMS.get(status, ("SERVICE_UNAVAILABLE", "Service unavailable."))
    return msgspec.json.encode(DeepgramProblem(code, detail or text, str(uuid4())))


def read_credential(authorization: str | None, offered: Sequence[str]) -> tuple[str, str | None]:
    """The ticket, from the header or, where there is none, from the subprotocols; and the one of
    these to select: the scheme, never the ticket. Raises `Refused`."""
    if authorization is not None:
        scheme, _, ticket = authorization.strip().partition(" ")
        chosen = None
    else:
        # First, unless the program that uses the SDK has protocols of its own.
        at = next((n for n, name in enumerate(offered) if name.lower() in SCHEMES), len(offered))
        scheme, ticket = (*offered[at : at + 2], "", "")[:2]
        chosen = scheme
    ticket = ticket.strip()
    if scheme.lower() not in SCHEMES or not 0 < len(ticket) <= MAX_TICKET_CHARACTERS:
        raise Refused(401, "ticket", "expected a ticket as Token or Bearer")
    return ticket, chosen
