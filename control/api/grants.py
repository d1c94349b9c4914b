"""Tickets for Deepgram's own clients: `POST /v1/auth/grant`, and what becomes of one.

Control plane. The answer has Deepgram's shape, with a ticket of ours in the place of its token. A
grant is a `POST /session` that is put off: whoever comes with it to `/v1/agent/converse` gets a new
session, by the same way as with a ticket of a session.
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
from uuid_utils.compat import uuid7

from config.agent import Agent
from config.settings import Settings
from control.api.sessions import (
    DRAINING_RETRY_SECONDS,
    Live,
    read_timezone,
)
from control.auth.current_user import User
from control.db.conversations import Store, StoreUnavailable
from control.db.rows import NewSession
from control.errors import RETRY_SECONDS, Mistake, ProblemError
from control.sessions.admission import refuse_unavailable
from relay.core.admission import Admit, Admitted, ResumePoint
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


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Whose ticket it is, and for which conversation; None: for a new one."""

    user_id: str
    conversation_id: UUID | None
    timezone: str


class Grants:
    """The tickets that were not used yet. Only their SHA-256 is stored."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, ticket: str, grant: Grant, *, ttl: float) -> bool:
        """Good for `ttl` seconds. False: the user has no such conversation."""
        async with self._store.transaction() as connection:
            await connection.execute("DELETE FROM voice.grants WHERE expires_at <= now()")
            done = await connection.execute(
                """
                INSERT INTO voice.grants
                    (ticket_hash, user_id, conversation_id, timezone, expires_at)
                SELECT $1, $2, $3::uuid, $4, now() + make_interval(secs => $5)
                WHERE $3::uuid IS NULL OR EXISTS (
                    SELECT FROM voice.conversations WHERE id = $3 AND user_id = $2
                )
                """,
                hash_ticket(ticket),
                grant.user_id,
                grant.conversation_id,
                grant.timezone,
                ttl,
            )
        return str(done) == "INSERT 0 1"

    async def take(self, ticket: str) -> Grant | None:
        """Use a ticket up; None: it is unknown, used or too old."""
        async with self._store.transaction() as connection:
            row = await connection.fetchrow(
                """
                DELETE FROM voice.grants WHERE ticket_hash = $1
                RETURNING user_id, conversation_id, timezone, expires_at > now() AS is_valid
                """,
                hash_ticket(ticket),
            )
        if row is None or not row["is_valid"]:
            return None
        return Grant(
            user_id=row["user_id"],
            conversation_id=row["conversation_id"],
            timezone=row["timezone"],
        )


class GrantAdmission:
    """Lets an official client in: `relay.opening.AdmitGrant`."""

    def __init__(
        self, store: Store, agent: Agent, live: Live, admit: Admit, *, ticket_seconds: float
    ) -> None:
        self._store = store
        self._grants = Grants(store)
        self._live = live
        self._admit = admit
        self._ticket_seconds = ticket_seconds
        self._audio = msgspec.json.encode(agent.audio)  # until the client says which

    async def __call__(self, ticket: str) -> Admitted:
        session_id = uuid7()
        try:
            grant = await self._grants.take(ticket)
            if grant is None:
                raise Refused(401, "ticket_refused", "the ticket is not valid")
            session = NewSession(
                id=session_id,
                conversation_id=grant.conversation_id or uuid7(),
                user_id=grant.user_id,
                ticket_hash=hash_ticket(ticket),
                ticket_seconds=self._ticket_seconds,
                timezone=grant.timezone,
                audio=self._audio,
            )
            resume = grant.conversation_id is not None
            if await self._store.create_session(session, resume=resume) is None:
                raise Refused(401, "ticket_refused", "the conversation was erased")
        except StoreUnavailable as error:
            raise refuse_unavailable(session_id, error) from error
        self._live.expect(session_id)
        return await self._admit(session_id, ticket, ResumePoint())


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
    if not await Grants(store).add(ticket, grant, ttl=ttl):
        raise ProblemError(404, "not_found", "there is no such conversation")
    granted = Granted(access_token=ticket, expires_in=ttl, warnings=warnings)
    return Response(granted, headers={"Cache-Control": "no-store"})
