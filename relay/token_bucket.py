"""How much of something may come: so much a second, and some at once after a pause. Pure."""

from __future__ import annotations


class TokenBucket:
    """A token bucket: it holds `burst`, full at first, and gets `rate` a second.

    Takes no clock: `now` is a monotonic second and never goes back. What was taken is taken: the
    level may fall below 0, and then nothing more is allowed until time has made up for it.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self.level = burst
        self._at = now

    def __repr__(self) -> str:
        return f"<TokenBucket {self.level:.0f} of {self._burst:.0f}>"

    def take(self, amount: float, now: float) -> bool:
        """Whether so much may come now; if not, nothing is taken."""
        self._fill(now)
        if self.level < amount:
            return False
        self.level -= amount
        return True

    def spend(self, amount: float, now: float) -> float:
        """It has come already: take it; what is left, below 0 when it was too much."""
        self._fill(now)
        self.level -= amount
        return self.level

    def _fill(self, now: float) -> None:
        self.level = min(self._burst, self.level + (now - self._at) * self._rate)
        self._at = now
