"""REST: tickets for Deepgram's own clients, `POST /v1/auth/grant`.

Control plane. The answer has Deepgram's shape, with a ticket of ours in the place of its token;
control/sessions/grants.py says what becomes of it.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody
from litestar.types import ExceptionHandlersMap

from config.settings import Settings
from control.api.sessions import DRAINING_RETRY_SECONDS, NOT_KEPT, Live, read_timezone
from control.auth.current_user import User
from control.db import grants
from control.db.grants import Grant
from control.db.store import Store, StoreUnavailable
from control.errors import RETRY_SECONDS, Mistake, ProblemError, not_found
from relay.live.endpoints import DeepgramProblem, problem_body
from relay.live.tickets import hash_ticket, new_ticket

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


def _read(error: Exception) -> tuple[int, str | None, int | None]:
    """Status, words of ours, seconds until it makes sense to ask again."""
    match error:
        case HTTPException():
            return error.status_code, None, None
        case ProblemError():
            return error.status, error.detail, error.retry_after
        case _:  # StoreUnavailable
            return 503, None, RETRY_SECONDS


def _on_refusal(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Whatever is wrong, as Deepgram says it."""
    status, detail, retry_after = _read(error)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = problem_body(status, detail)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


_AS_DEEPGRAM: ExceptionHandlersMap = {
    HTTPException: _on_refusal,
    ValidationException: _on_refusal,  # has a handler of its own elsewhere
    ProblemError: _on_refusal,
    StoreUnavailable: _on_refusal,
}


@post(
    "/v1/auth/grant",
    status_code=200,
    tags=["session"],
    summary="A ticket for /v1/agent/converse, in Deepgram's shape",
    exception_handlers=_AS_DEEPGRAM,
    responses={
        status: ResponseSpec(
            DeepgramProblem, generate_examples=False, description=HTTPStatus(status).phrase
        )
        for status in (400, 401, 403, 404, 413, 503)
    },
)
async def grant_ticket(
    store: NamedDependency[Store],
    settings: NamedDependency[Settings],
    live: Live,
    user: NamedDependency[User],
    data: JSONBody[GrantRequest | None] = None,
) -> Response[Granted]:
    if live.is_draining:
        raise ProblemError(503, "stopping", "the relay stops", retry_after=DRAINING_RETRY_SECONDS)
    wanted = data or GrantRequest()
    timezone, warnings = read_timezone(wanted.timezone)
    ttl = wanted.ttl_seconds or settings.ticket_seconds
    ticket = new_ticket()
    grant = Grant(user_id=user.id, conversation_id=wanted.conversation_id, timezone=timezone)
    async with store.transaction() as connection:
        is_added = await grants.add(connection, hash_ticket(ticket), grant, ttl=ttl)
    if not is_added:
        raise not_found("conversation")
    granted = Granted(access_token=ticket, expires_in=ttl, warnings=warnings)
    return Response(granted, headers=NOT_KEPT)
