"""What the agent is going to do and when. Pure.

Steps belong to a turn or to the session: `cancel()` forgets those of the turn.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator

Step = Callable[[float], None]


class Scheduler:
    def __init__(self) -> None:
        self._steps: list[tuple[float, int, int | None, Step]] = []
        self._order = 0
        self._turn = 0

    def add(self, at: float, step: Step, *, lasting: bool = False) -> None:
        """Do `step` at `at`; `lasting` steps survive `cancel()`. Equal times keep their order."""
        self._order += 1
        turn = None if lasting else self._turn
        heapq.heappush(self._steps, (at, self._order, turn, step))

    def cancel(self) -> None:
        self._turn += 1

    def clear(self) -> None:
        self._steps.clear()

    @property
    def next(self) -> float:
        return self._steps[0][0] if self._steps else math.inf

    def due(self, now: float) -> Iterator[Step]:
        """Take out what is due, one at a time: a step may add others that are due as well."""
        while self._steps and self._steps[0][0] <= now:
            _, _, turn, step = heapq.heappop(self._steps)
            if turn is None or turn == self._turn:
                yield step
