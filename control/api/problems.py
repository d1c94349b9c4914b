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
from litestar.types import ExceptionHandlersMap

from control.db.store import StoreUnavailable
from control.errors import RETRY_SECONDS, Mistake, ProblemError
from relay.protocol.refusal import Refused

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is an error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[Mistake] = []


def answer_problem(error: ProblemError | Refused) -> Response[bytes]:
    """The HTTP answer for a problem."""
    mistakes = error.mistakes if isinstance(error, ProblemError) else []
    # `title` of a plain problem is the phrase of its status, as RFC 9457 has it for about:blank.
    problem = Problem(
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.detail,
        code=error.code,
        errors=mistakes,
    )
    headers = dict(error.headers) if isinstance(error, ProblemError) else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return Response(
        msgspec.json.encode(problem),
        status_code=error.status,
        headers=headers,
        # A subtype of JSON that Litestar would not encode itself.
        media_type=PROBLEM_JSON,
    )


def _on_problem(_: Request[Any, Any, Any], error: ProblemError | Refused) -> Response[bytes]:
    return answer_problem(error)


def _on_store(request: Request[Any, Any, Any], error: StoreUnavailable) -> Response[bytes]:
    log.error("store_unavailable path=%s reason=%s", request.scope["path"], error)
    return answer_problem(
        ProblemError(
            503,
            "database_unavailable",
            "the database does not answer; try again",
            retry_after=RETRY_SECONDS,
        )
    )


def _on_validation(_: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    mistakes = _read_mistakes(error.extra)
    detail = "; ".join(f"{m.path}: {m.detail}" for m in mistakes) or "the request is not valid"
    return answer_problem(ProblemError(400, "invalid", detail, mistakes=mistakes))


def _read_mistakes(extra: object) -> list[Mistake]:
    """Litestar lists mistakes as `{"message", "key", "source"}`, the last two where known."""
    if not isinstance(extra, list):
        return []
    return [
        Mistake(
            path=str(entry.get("key") or entry.get("source") or "body"),
            detail=str(entry.get("message", "not valid")),
        )
        for entry in extra
        if isinstance(entry, dict)
    ]


def _on_http(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = error.status_code
    code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    response = answer_problem(ProblemError(status, code, error.detail))
    response.headers.update(error.headers or {})  # Allow, for a method that is not
    return response


def _on_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    # The top of a request: whatever nobody foresaw is logged here, and not shown.
    log.error("request_failed path=%s", request.scope["path"], exc_info=error)
    return answer_problem(ProblemError(500, "internal", "an error on our side; it was logged"))


exception_handlers: ExceptionHandlersMap = {
    ProblemError: _on_problem,
    Refused: _on_problem,
    StoreUnavailable: _on_store,
    ValidationException: _on_validation,
    HTTPException: _on_http,
    Exception: _on_bug,
}


def describe_problems(*statuses: int) -> dict[int, ResponseSpec]:
    """For the OpenAPI description of a handler: which of these it may answer with."""
    return {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
            media_type=PROBLEM_JSON,
        )
        for status in statuses
    }
