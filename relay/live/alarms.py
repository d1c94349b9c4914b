"""When sessions want to be woken: one timer of the event loop for all, one pass over who is due."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

# The clock of the loop counts in milliseconds and may ring too early by a part of one.
EARLY_SECONDS = 0.001


class Alarms:
    """Those of a process."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Alarm]] = []  # a heap; some are void
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def __repr__(self) -> str:
        return f"<Alarms waiting={len(self._waiting)}>"

    def add(self, alarm: Alarm) -> None:
        heappush(self._waiting, (alarm.due, next(self._numbers), alarm))
        self._arm()

    def _arm(self) -> None:
        due = self._waiting[0][0] if self._waiting else math.inf
        if due == self._rings_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at, self._timer = due, None
        if due < math.inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._ring)

    def _ring(self) -> None:
        self._rings_at = math.inf
        loop = asyncio.get_running_loop()
        by = loop.time() + EARLY_SECONDS
        while self._waiting and self._waiting[0][0] <= by:
            at, _, alarm = heappop(self._waiting)
            if alarm.due == at:
                alarm.due = math.inf
                loop.call_soon(alarm.ring)  # whatever one raises, the others are woken
        self._arm()


class Alarm:
    """Of one session: `ring` is called when the second that it is set to has come.

    One that is put off may ring at the earlier second all the same: nothing is done for that.
    """

    def __init__(self, alarms: Alarms, ring: Callable[[], None]) -> None:
        self.due = math.inf
        self.ring = ring
        self._alarms = alarms

    def set(self, due: float) -> None:
        if due < self.due:
            self.due = due
            self._alarms.add(self)

    def stop(self) -> None:
        """It never rings again, and knows nobody any more."""
        self.due = -math.inf
        self.ring = _nobody


def _nobody() -> None:
    pass
