"""Which of many equal log lines are written: the first, then one in a while with a count. Pure."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

SECONDS = 10.0  # between two lines of a kind
KINDS = 64  # that are remembered


class _Written(msgspec.Struct):
    at: float
    since: int = 0  # lines that were left out


class LogLimit:
    """Told of each line; seconds are monotonic."""

    def __init__(self) -> None:
        self._written: dict[Hashable, _Written] = {}

    def __repr__(self) -> str:
        return f"<LogLimit kinds={len(self._written)}>"

    def count(self, kind: Hashable, now: float) -> int | None:
        """How many lines of this kind were left out before this one; None: leave this one out."""
        last = self._written.get(kind)
        if last is not None and now - last.at < SECONDS:
            last.since += 1
            return None
        if last is None and len(self._written) >= KINDS:
            del self._written[next(iter(self._written))]
        self._written[kind] = _Written(now)
        return 0 if last is None else last.since
