"""One timer for the schedules of all sessions of a process.

Load tests. A schedule is absolute: it says when a frame is due, whether or not the one before it
was late. uvloop's timers count in milliseconds, which is as long as what we measure; a timerfd of
Linux wakes us to the microsecond.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from heapq import heappop, heappush
from time import monotonic_ns

Fire = Callable[[int], int]  # gets when it was due, returns when it is due again; 0: never

# As many go out before whatever has come in is looked at.
MOST_AT_ONCE = 32

# Of timerfd_create(2), which Python has from 3.13 on.
_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_FourLongs = ctypes.c_long * 4  # interval and value, each in seconds and ns


class SendSchedule:
    """Calls whatever is due, in order. `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[int, int, Fire]] = []
        self._count = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, flags)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop.add_reader(self._descriptor, self._wake)

    def add(self, due: int, fire: Fire) -> None:
        """Call `fire` at `due`, in ns of CLOCK_MONOTONIC."""
        self._count += 1
        heappush(self._due, (due, self._count, fire))
        if self._due[0][0] == due:
            self._set(due)

    def clear(self) -> None:
        """Forget everything."""
        self._due.clear()

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _set(self, due: int) -> None:
        value = _FourLongs(0, 0, *divmod(max(due, 1), 1_000_000_000))
        self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, value, None)

    def _wake(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return  # it was set anew in between
        due = self._due
        now = monotonic_ns()
        for _ in range(MOST_AT_ONCE):
            if not due or due[0][0] > now:
                break
            at, order, fire = heappop(due)
            if again := fire(at):
                heappush(due, (again, order, fire))
        if due:
            self._set(due[0][0])
