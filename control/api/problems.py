"""Every error that a client sees, as RFC 9457 problem details.

Control plane. One shape for all: `{"type", "title", "status", "detail", "code", "errors"}`. `code`
is a word for programs; `detail` is for people and never carries what only operators may know;
`errors` has one `{"path", "detail"}` for each mistake of a request that does not validate.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import ResponseSpec

from control.db.store import StoreUnavailable
from control.errors import Mistake, ProblemError, database_unavailable, invalid
from relay.protocol.refusal import Refused

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is an error."""

    type: str = "about:blank"  # then the title is that of the status
    title: str
    status: int
    detail: str
    code: str
    errors: list[Mistake] = []


def encode_problem(error: Refused) -> bytes:
    """The body of its answer: a `Problem`."""
    return error.problem(errors=error.mistakes if isinstance(error, ProblemError) else [])


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to a request in which this was raised."""
    refused = read_error(request, error)
    headers = dict(refused.headers) if isinstance(refused, ProblemError) else {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(refused.retry_after)
    return Response(
        encode_problem(refused),
        status_code=refused.status,
        headers=headers,
        # A subtype of JSON that Litestar would not encode itself.
        media_type=PROBLEM_JSON,
    )


def read_error(request: Request[Any, Any, Any], error: Exception) -> Refused:
    """What a client is told of it; what only operators may know is logged."""
    path = request.scope["path"]
    match error:
        case Refused():
            return error
        case StoreUnavailable():
            log.error("store_unavailable path=%s reason=%s", path, error)
            return database_unavailable()
        case ValidationException():
            return invalid(*_read_mistakes(error.extra))
        case HTTPException():
            status = error.status_code
            code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
            # `Allow` is among the headers, for a method that is not.
            return ProblemError(status, code, error.detail, headers=error.headers)
    # The top of a request: whatever nobody foresaw.
    log.error("request_failed path=%s", path, exc_info=error)
    return ProblemError(500, "internal", "an error on our side; it was logged")


def _read_mistakes(extra: object) -> list[Mistake]:
    """Litestar lists mistakes as `{"message", "key", "source"}`, the last two where known."""
    return [
        Mistake(
            path=str(entry.get("key") or entry.get("source") or "body"),
            detail=str(entry.get("message", "not valid")),
        )
        for entry in (extra if isinstance(extra, list) else [])
    ]


def describe_problems(
    *statuses: int, body: type[msgspec.Struct] = Problem, media_type: str = PROBLEM_JSON
) -> dict[int, ResponseSpec]:
    """For the OpenAPI description of a handler: which of these it may answer with, and as all of
    them who is not signed in or asks too often, and when the database is away."""
    return {
        status: ResponseSpec(
            body,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
            media_type=media_type,
        )
        for status in sorted({401, *statuses, 429, 503})
    }
