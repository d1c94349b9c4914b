"""What the control plane raises to answer with an error; api/problems.py makes the answer."""

from __future__ import annotations

import msgspec

RETRY_SECONDS = 2  # what Retry-After says while the database does not answer


class Mistake(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: a JSON path or the name of a parameter, and what."""

    path: str
    detail: str


class ProblemError(Exception):
    """Raised by a handler to answer with a problem."""

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
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.mistakes = mistakes or []
        self.retry_after = retry_after
        self.headers = headers or {}


def not_found(noun: str) -> ProblemError:
    """What is not there, and what belongs to somebody else, look the same."""
    return ProblemError(404, "not_found", f"there is no such {noun}")


def invalid(path: str, detail: str) -> ProblemError:
    return ProblemError(
        400, "invalid", f"{path}: {detail}", mistakes=[Mistake(path=path, detail=detail)]
    )
