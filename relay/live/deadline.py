"""The one timer of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Wakes at the monotonic second that was set last."""

    def __init__(self) -> None:
        self._timer: asyncio.Handle | None = None
        self._at: float | None = None  # not every handle of uvloop knows it

    def set(self, at: float | None, wake: Callable[[], None]) -> None:
        """None: do not wake."""
        if self._timer is not None and self._at == at:
            return
        self.clear()
        if at is not None:
            self._at = at
            self._timer = asyncio.get_running_loop().call_at(at, wake)

    def clear(self) -> None:
        """Also what has woken has to be cleared, before it is set again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
