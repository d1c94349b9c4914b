"""One timer for the schedules of all sessions of a process.

Load tests. A schedule is absolute: it says when a frame is due, whether or not the one before it
was late. uvloop's timers count in milliseconds, which is as long as what we measure; on Linux a
timerfd wakes us to the microsecond.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from heapq import heappop, heappush
from time import monotonic_ns

Fire = Callable[[int], int]  # gets when it was due, returns when it is due again; 0: never

# As many go out before whatever has come in is looked at.
MOST_AT_ONCE = 32

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)


class SendSchedule:
    """Calls whatever is due, in order. `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[int, int, Fire]] = []
        self._count = 0
        self._timer: _Alarm | _LoopAlarm
        if sys.platform == "linux":
            self._timer = _Alarm(self._loop, self._run)
        else:
            self._timer = _LoopAlarm(self._loop, self._run)

    def add(self, due: int, fire: Fire) -> None:
        """Call `fire` at `due`, in ns of CLOCK_MONOTONIC."""
        self._count += 1
        heappush(self._due, (due, self._count, fire))
        if self._due[0][0] == due:
            self._timer.set(due)

    def clear(self) -> None:
        """Forget everything."""
        self._due.clear()

    def close(self) -> None:
        self._due.clear()
        self._timer.close()

    def _run(self) -> None:
        due = self._due
        now = monotonic_ns()
        for _ in range(MOST_AT_ONCE):
            if not due or due[0][0] > now:
                break
            at, order, fire = heappop(due)
            if again := fire(at):
                heappush(due, (again, order, fire))
        if due:
            self._timer.set(due[0][0])


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("ns", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class _Alarm:
    """A timerfd in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = loop
        self._ring = ring
        self._setting = _Setting()
        self._pointer = ctypes.byref(self._setting)
        self._set = self._libc.timerfd_settime
        loop.add_reader(self._descriptor, self._wake)

    def set(self, due: int) -> None:
        value = self._setting.value
        value.seconds, value.ns = divmod(max(due, 1), 1_000_000_000)
        self._set(self._descriptor, _ABSOLUTE, self._pointer, None)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _wake(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return  # it was set anew in between
        self._ring()


class _LoopAlarm:
    """Where there is no timerfd; exact to a millisecond."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due: int) -> None:
        self.close()
        self._handle = self._loop.call_later(max(0.0, (due - monotonic_ns()) / 1e9), self._ring)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
