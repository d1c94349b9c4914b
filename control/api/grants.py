"""REST: tickets for Deepgram's own clients, `POST /v1/auth/grant`.

Control plane. The answer has Deepgram's shape, with a ticket of ours in the place of its token;
control/sessions/admission.py says what becomes of it.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from config.settings import Settings
from control.api.problems import describe_problems, read_error
from control.api.sessions import NOT_KEPT, Asker, Database, Live, read_timezone
from control.db import grants
from control.db.grants import Grant
from control.errors import Mistake, not_found
from relay.live.endpoints import DeepgramProblem, problem_body
from relay.live.tickets import hash_ticket, new_ticket
from relay.protocol.refusal import Refused

LONGEST_GRANT = 3600.0  # seconds, Deepgram's bound


class GrantRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Deepgram's clients send `ttl_seconds` or nothing; the others are ours.

    `conversation_id` resumes; `timezone` is an IANA name and tells the model what today is.
    """

    ttl_seconds: Annotated[float, msgspec.Meta(ge=1, le=LONGEST_GRANT)] | None = None
    conversation_id: UUID | None = None
    timezone: str | None = None


class Granted(msgspec.Struct, frozen=True, omit_defaults=True):
    """`access_token` opens `/v1/agent/converse` once, within `expires_in` seconds.

    `warnings` is ours, and there only if something of the request counts for something else.
    """

    access_token: str
    expires_in: float
    warnings: list[Mistake] = []


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Whatever is wrong, as Deepgram says it; our own words where it is a refusal of ours."""
    refused = read_error(request, error)
    body = problem_body(refused.status, error.detail if isinstance(error, Refused) else None)
    headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
    return Response(
        body, status_code=refused.status, headers=headers, media_type="application/json"
    )


@post(
    "/v1/auth/grant",
    status_code=200,
    tags=["session"],
    summary="A ticket for /v1/agent/converse, in Deepgram's shape",
    exception_handlers={Exception: _answer_error},
    responses=describe_problems(
        400, 403, 404, 413, body=DeepgramProblem, media_type="application/json"
    ),
)
async def grant_ticket(
    store: Database,
    settings: NamedDependency[Settings],
    live: Live,
    user: Asker,
    data: JSONBody[GrantRequest | None] = None,
) -> Response[Granted]:
    live.check_open()
    wanted = data or GrantRequest()
    timezone, warnings = read_timezone(wanted.timezone)
    ttl = wanted.ttl_seconds or settings.ticket_seconds
    ticket = new_ticket()
    grant = Grant(user_id=user.id, conversation_id=wanted.conversation_id, timezone=timezone)
    if not await grants.add(store, hash_ticket(ticket), grant, ttl=ttl):
        raise not_found("conversation")
    granted = Granted(access_token=ticket, expires_in=ttl, warnings=warnings)
    return Response(granted, headers=NOT_KEPT)
