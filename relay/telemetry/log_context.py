"""What every log line has in common that is written while a request or a session is at work.

A request, a session: each has one `LogContext`, which goes along into the tasks that are started
meanwhile, and may learn more later (the agent's `request_id` is known when the agent has answered).
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

import msgspec

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # a token is longer
_TRACE = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)
_MORE = re.compile(r"-[!-~]{0,200}")  # what a version after 00 may have behind


class RequestIds(msgspec.Struct, frozen=True):
    """What a request is called, here and by those who are asked because of it.

    `trace_id` and `flags` are W3C's (Trace Context, version 00), as 32 and 2 hex digits.
    `parent_id` is the span of whoever asked, `span_id` the one that this is done in; both are 16
    hex digits. None: nobody has said so, and nobody traces.
    """

    request_id: str
    trace_id: str
    flags: str
    parent_id: str | None = None
    span_id: str | None = None

    def headers(self) -> dict[str, str]:
        """For a request of ours that is made because of this one: our span, or one of its own."""
        span_id = self.span_id or secrets.token_hex(8)
        return {
            "X-Request-Id": self.request_id,
            "traceparent": f"00-{self.trace_id}-{span_id}-{self.flags}",
        }


def read_ids(request_ids: list[str], traces: list[str]) -> RequestIds:
    """From the values of the headers `X-Request-Id` and `traceparent`; made here, where there is
    none, more than one, or one that is not as it should be."""
    found = _read_trace(traces[0]) if len(traces) == 1 else None
    trace_id, parent_id, flags = found or (secrets.token_hex(16), None, "00")
    given = request_ids[0] if len(request_ids) == 1 else ""
    request_id = given if _REQUEST_ID.fullmatch(given) else trace_id
    return RequestIds(request_id, trace_id, flags, parent_id)


def _read_trace(text: str) -> tuple[str, str, str] | None:
    found = _TRACE.match(text)
    if found is None:
        return None
    more = text[found.end() :]
    is_known = text.startswith("00-")
    if more and (is_known or not _MORE.fullmatch(more)):
        return None
    return found[1], found[2], found[3]


class LogContext(msgspec.Struct):
    """`fields` are names and values of every line; `ids` those of the request behind it."""

    ids: RequestIds | None = None
    fields: dict[str, str] = {}


NOTHING = LogContext()
current: ContextVar[LogContext] = ContextVar("log_context", default=NOTHING)
"""Set for the time of a request or of an event of a session."""


def outgoing() -> dict[str, str]:
    """Headers for a request of ours, where there is one that it is made because of."""
    ids = current.get().ids
    return ids.headers() if ids else {}


def answering() -> dict[str, str]:
    """Headers of the answer to the request."""
    ids = current.get().ids
    return {"X-Request-Id": ids.request_id} if ids else {}
