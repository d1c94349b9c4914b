"""For how long the sockets of one side were open, one after another: what an agent costs. Pure."""

from __future__ import annotations


class OpenTime:
    """The sum; `now` is in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None  # None: none is open

    def opened(self, now: float) -> None:
        """A socket is open. The one before is closed."""
        self._since = now

    def closed(self, now: float) -> None:
        """A close was sent or seen. May be repeated."""
        self._before, self._since = self.seconds(now), None

    def seconds(self, now: float) -> float:
        """So far."""
        return self._before + (0.0 if self._since is None else now - self._since)
