"""A circuit breaker: whether it makes sense to ask somebody who failed again and again.

Control plane; time is an argument. Closed lets everything pass. When `FAILURES` different
calls have failed and none went well in between it is open, and nobody asks for a while; then it is
half-open: one may try, and how that ends decides. One call that fails again and again may be at
fault itself, so it counts once.
"""

from __future__ import annotations

import logging
from enum import Enum

log = logging.getLogger(__name__)

FAILURES = 5  # different calls, and no success in between
FIRST_REST = 5.0  # seconds; doubles with each probe that fails
LONGEST_REST = 60.0


class State(Enum):
    CLOSED = 0  # everything passes
    HALF_OPEN = 1  # one probe is on its way
    OPEN = 2  # nothing passes


class CircuitBreaker:
    """Seconds are monotonic."""

    def __init__(self) -> None:
        self.state = State.CLOSED
        self._failed: set[str] = set()  # calls since the last success; at most FAILURES
        self._rest = FIRST_REST
        self._until = 0.0

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.state.name} failed={len(self._failed)}>"

    def wait(self, now: float) -> float:
        """Seconds until it makes sense to ask; 0: now."""
        if self.state is State.CLOSED:
            return 0.0
        if self.state is State.HALF_OPEN:
            return self._rest
        return max(self._until - now, 0.0)

    def enter(self, now: float) -> bool:
        """Whether a request may go; if so, `succeeded`, `failed` or `abandoned` has to follow."""
        if self.wait(now) > 0:
            return False
        if self.state is State.OPEN:
            self._become(State.HALF_OPEN)
        return True

    def succeeded(self) -> None:
        """It answered, whatever it said."""
        self._failed.clear()
        self._rest = FIRST_REST
        self._become(State.CLOSED)

    def failed(self, call_id: str, now: float) -> None:
        """This call was not answered, or with an error of the service."""
        if len(self._failed) < FAILURES:
            self._failed.add(call_id)
        if self.state is State.HALF_OPEN:
            self._rest = min(self._rest * 2, LONGEST_REST)
        elif self.state is State.OPEN or len(self._failed) < FAILURES:
            return  # a request from before it opened tells nothing new
        self._until = now + self._rest
        self._become(State.OPEN)

    def abandoned(self) -> None:
        """The request was given up by us: nothing was learned, and another may go."""
        if self.state is State.HALF_OPEN:
            self._become(State.OPEN)

    def _become(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            log.warning("orchestrator_breaker state=%s", state.name.lower())
