"""A no before the 101: an HTTP status and a word for programs. Pure."""

from __future__ import annotations

from http import HTTPStatus

import msgspec


class Refused(Exception):
    """The session may not be opened: `status` is HTTP, `code` a word for programs."""

    def __init__(
        self, status: int, code: str, detail: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after

    def problem(self, **more: object) -> bytes:
        """As `application/problem+json` (RFC 9457), with `more` members."""
        problem = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **more,
        }
        return msgspec.json.encode(problem)
