"""What the control plane raises to answer with an error; api/problems.py makes the answer."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from relay.protocol.refusal import Refused

_Found = TypeVar("_Found")

RETRY_SECONDS = 2  # what Retry-After says while the database does not answer


class Mistake(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: a JSON path or the name of a parameter, and what."""

    path: str
    detail: str


class ProblemError(Refused):
    """A refusal over REST: it may list mistakes of the request, and bring headers."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        mistakes: list[Mistake] | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, detail, retry_after=retry_after)
        self.mistakes = mistakes or []
        self.headers = headers or {}


def not_found(noun: str) -> ProblemError:
    """What is not there, and what belongs to somebody else, look the same."""
    return ProblemError(404, "not_found", f"there is no such {noun}")


def require(found: _Found | None, noun: str) -> _Found:
    """It, or `not_found` is raised."""
    if found is None:
        raise not_found(noun)
    return found


def invalid(*mistakes: Mistake) -> ProblemError:
    detail = "; ".join(f"{m.path}: {m.detail}" for m in mistakes) or "the request is not valid"
    return ProblemError(400, "invalid", detail, mistakes=list(mistakes))


def database_unavailable() -> ProblemError:
    detail = "the database does not answer; try again"
    return ProblemError(503, "database_unavailable", detail, retry_after=RETRY_SECONDS)
