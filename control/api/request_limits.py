"""How often may be asked: by whom, and from where.

Control plane. An address is asked for before anything else is done, a user as soon as it is known
who that is. Of this process alone, in memory: one that all share would have to be asked with every
request. What is in memory as well, and costs no more than a refusal, is `UNCOUNTED`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from litestar import Request
from litestar.connection import ASGIConnection

from config.limits import Limits
from control.auth.current_user import User
from control.errors import ProblemError
from relay.live.quotas import block
from relay.token_bucket import TokenBuckets

AT_ONCE = 30  # seconds of requests: pages ask for much when they are opened
UNCOUNTED = {"uncounted": True}
"""The `opt` of a handler that anybody may ask as often as they like."""

FindUser = Callable[[Request[Any, Any, Any]], Awaitable[User]]


class RequestLimits:
    """Its checks raise `ProblemError` (429). `clock` gives monotonic seconds."""

    def __init__(
        self, limits: Limits, find_user: FindUser, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._find_user = find_user
        self._clock = clock
        self._addresses = _buckets(limits.requests_per_address, AT_ONCE)
        self._users = _buckets(limits.requests_per_user, AT_ONCE)
        self._reports = _buckets(limits.direct_reports_per_minute / 60, 60)

    def check_address(self, asked: ASGIConnection[Any, Any, Any, Any]) -> None:
        """Before a request or a WebSocket is looked at."""
        address = block(asked.client.host if asked.client else "")
        if wait := self._addresses.take(address, self._clock()):
            most = self._limits.requests_per_address
            raise _refuse("address_requests", f"{most:g} requests a second from one address", wait)

    async def find_user(self, request: Request[Any, Any, Any]) -> User:
        """The user, who may ask now."""
        user = await self._find_user(request)
        if wait := self._users.take(user.id, self._clock()):
            most = self._limits.requests_per_user
            raise _refuse("user_requests", f"{most:g} requests of one user a second", wait)
        return user

    def check_report(self, session_id: UUID, kind: str) -> None:
        """Before a direct session's report is stored; `kind` is how such reports are called."""
        if wait := self._reports.take((session_id, kind), self._clock()):
            most = self._limits.direct_reports_per_minute
            raise _refuse("too_many_reports", f"{most:g} {kind} of one session a minute", wait)


def _buckets(rate: float, seconds: float) -> TokenBuckets:
    """What comes in so many seconds may come at once."""
    return TokenBuckets(rate, max(1.0, rate * seconds))


def _refuse(code: str, most: str, wait: float) -> ProblemError:
    seconds = math.ceil(wait)
    detail = f"expected at most {most}; try again in {seconds} s"
    return ProblemError(429, code, detail, retry_after=seconds)
