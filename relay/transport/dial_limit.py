"""How often an agent may be dialled while nobody gets through. Pure.

Each session bounds its own tries (reconnect.py); this one is for all sessions of a process. It is a
circuit breaker that is never quite open: a few dials a second always go out, from whichever session
comes, and the first that succeeds lets all others go again.
"""

from __future__ import annotations

from relay.token_bucket import TokenBucket

# In a row. More than the tries of one session, so that one that is alone is never held up.
FAILURES = 10
PER_SECOND = 2.0


class DialLimit:
    """Nothing is limited until the last FAILURES dials have failed; seconds are monotonic."""

    def __init__(self) -> None:
        self._failures = 0
        self._bucket: TokenBucket | None = None  # while it is limited

    def __repr__(self) -> str:
        return f"<DialLimit failures={self._failures}>"

    @property
    def is_limited(self) -> bool:
        return self._bucket is not None

    def enter(self, now: float) -> bool:
        """Whether a dial may go out; if so, `succeeded`, `failed` or nothing (it was given up)
        follows."""
        return self._bucket is None or self._bucket.take(1, now)

    def succeeded(self) -> bool:
        """An agent answered; whether that ends a limit."""
        ended = self.is_limited
        self._failures, self._bucket = 0, None
        return ended

    def failed(self, now: float) -> bool:
        """None did; whether a limit begins with that."""
        self._failures += 1
        if self.is_limited or self._failures < FAILURES:
            return False
        self._bucket = TokenBucket(PER_SECOND, PER_SECOND, now)
        return True
