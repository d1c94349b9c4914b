"""How long to wait before something is tried again: longer each time, never all at once. Pure."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Pauses between attempts: the longest one doubles from `first` up to `longest` seconds."""

    first: float
    longest: float
    shortest: float = 0.1  # luck must not turn a pause into none

    def pause(self, attempts: int, jitter: float) -> float:
        """Seconds after the `attempts`-th failure; `jitter` is 0 to 1.

        Full jitter: many calls that failed together do not come back together.
        """
        longest = min(self.longest, self.first * 2.0 ** min(attempts - 1, 62))
        return max(self.shortest, jitter * longest)
