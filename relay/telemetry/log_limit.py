"""Which of many equal log lines are written: the first, then one in a while with a count. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable

SECONDS = 10.0  # between two lines of a kind
KINDS = 64  # that are remembered


class LogLimit:
    """Told of each line; seconds are monotonic."""

    def __init__(self) -> None:
        # Of each kind: when a line was last written, how many were left out since.
        self._written: dict[Hashable, tuple[float, int]] = {}

    def __repr__(self) -> str:
        return f"<LogLimit kinds={len(self._written)}>"

    def count(self, kind: Hashable, now: float) -> int | None:
        """How many lines of this kind were left out before this one; None: leave this one out."""
        written, left_out = self._written.get(kind, (-math.inf, 0))
        if now - written < SECONDS:
            self._written[kind] = written, left_out + 1
            return None
        if kind not in self._written and len(self._written) >= KINDS:
            del self._written[next(iter(self._written))]
        self._written[kind] = now, 0
        return left_out
