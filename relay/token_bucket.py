"""How much of something may come: so much a second, and some at once after a pause. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

MOST_KEYS = 10_000  # that are remembered: some 3 MiB


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

    def wait(self, amount: float) -> float:
        """Seconds from the last time on until so much may come."""
        return max(0.0, (amount - self.level) / self._rate)

    def _fill(self, now: float) -> None:
        self.level = min(self._burst, self.level + (now - self._at) * self._rate)
        self._at = now


class TokenBuckets:
    """A token bucket for each key, `most` of them: the one that nobody asked for longest goes, and
    is full should it come back. A `rate` of 0: as much as one likes."""

    def __init__(self, rate: float, burst: float, *, most: int = MOST_KEYS) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __repr__(self) -> str:
        return f"<TokenBuckets {len(self)} of {self._most}>"

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float, amount: float = 1.0) -> float:
        """0: it may come now. Else in how many seconds it may, and nothing is taken."""
        if not self._rate:
            return 0.0
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return 0.0 if bucket.take(amount, now) else bucket.wait(amount)
