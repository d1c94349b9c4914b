"""The Litestar WebSocket handler for Deepgram's own clients: the same path, the same manners.

The credential is a ticket from `POST /v1/auth/grant`, as `Authorization: Token …` or `Bearer …`, or
as the subprotocols `token, <ticket>` or `bearer, <ticket>`, where browsers cannot set headers; the
SDK for JavaScript adds two more values. A refusal looks as Deepgram's does. What is said after the
101 is the business of `relay.dropin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

import msgspec
from litestar import websocket
from litestar.di import NamedDependency

from relay.core.admission import AdmitGrant
from relay.live.endpoints import MAX_TICKET_CHARACTERS, Socket, check_origin, refuse
from relay.live.session_registry import SessionRegistry
from relay.protocol.refusal import Refused
from relay.transport.upgrade import EXTENSION, Handshake

SCHEMES = ("token", "bearer")
REQUEST_ID = b"dg-request-id"

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


class DeepgramProblem(msgspec.Struct, frozen=True):
    """Deepgram's JSON for a refused request; `err_code` is for programs."""

    err_code: str
    err_msg: str
    request_id: str


def problem_body(status: int, detail: str | None = None) -> bytes:
    """`DeepgramProblem` as JSON; `detail` where Deepgram's own text would say too little."""
    code, text = _PROBLEMS.get(status, ("SERVICE_UNAVAILABLE", "Service unavailable."))
    return msgspec.json.encode(DeepgramProblem(code, detail or text, str(uuid4())))


class Credential(NamedTuple):
    """`chosen` is the subprotocol to select: the scheme, never the ticket."""

    ticket: str
    chosen: str | None


def read_credential(authorization: str | None, offered: Sequence[str]) -> Credential:
    """From the header or, where there is none, from the subprotocols. Raises `Refused`."""
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
    return Credential(ticket, chosen)


@websocket("/v1/agent/converse", websocket_class=Socket)
async def converse(
    socket: Socket,
    session_registry: NamedDependency[SessionRegistry],
    admit_grant: NamedDependency[AdmitGrant],
    allowed_origins: NamedDependency[frozenset[str]],
) -> None:
    """Attach an official client. The session goes on when this returns."""
    handshake: Handshake = socket.scope["extensions"][EXTENSION]  # type: ignore[index,assignment]
    await socket.receive()  # websocket.connect
    try:
        check_origin(socket, allowed_origins)
        offered = socket.scope["subprotocols"]
        ticket, chosen = read_credential(socket.headers.get("authorization"), offered)
        session_registry.check_open()
        with session_registry.admitting(handshake):
            admitted = await admit_grant(ticket)
        runner = await session_registry.prepare(admitted, handshake, is_drop_in=True)
    except Refused as refused:
        session_registry.count_refusal(refused)
        await refuse(socket, refused, b"application/json", problem_body(refused.status))
        return
    request_id = str(admitted.session_id).encode()
    await socket.send(
        {"type": "websocket.accept", "subprotocol": chosen, "headers": [(REQUEST_ID, request_id)]}
    )
    session_registry.start(admitted.session_id, runner)
