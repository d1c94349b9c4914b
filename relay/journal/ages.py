"""Since when records wait for Postgres. Pure.

Not of each: of those that come within `SPACING` seconds only the first is remembered. So an age may
be so much too long, and a day without the database costs some thousand entries.
"""

from __future__ import annotations

from collections import deque

SPACING = 5.0


class Ages:
    """Told of each record; positions count from 1, seconds are monotonic."""

    def __init__(self) -> None:
        self._since: deque[tuple[int, float]] = deque()

    def __repr__(self) -> str:
        return f"<Ages entries={len(self._since)}>"

    def note(self, position: int, written: int, now: float) -> None:
        """A record came and has this position; Postgres has all up to `written`."""
        if written >= position - 1:  # none waited
            self._since.clear()
        if not self._since or now - self._since[-1][1] >= SPACING:
            self._forget(written)
            self._since.append((position, now))

    def oldest(self, written: int, last: int, now: float) -> float:
        """For how long the oldest that is not written has waited; 0: none waits."""
        self._forget(written)
        return now - self._since[0][1] if self._since and written < last else 0.0

    def _forget(self, written: int) -> None:
        """Those whose records are all written: the next entry stands for what waits."""
        while len(self._since) > 1 and self._since[1][0] <= written + 1:
            self._since.popleft()
