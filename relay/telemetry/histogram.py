"""Time, counted: a histogram that is cheap to fill and small enough for every session.

Pure. Buckets grow by a quarter of an octave, so a percentile is at most 19 % too high, never too
low; what is below 10 µs counts as 10 µs.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

import msgspec

_SMALLEST = 10e-6
_OCTAVES = 20  # up to 10 s
BOUNDS = tuple(_SMALLEST * 2 ** (step / 4) for step in range(_OCTAVES * 4 + 1))
"""Upper bounds of the buckets in seconds; one more bucket holds what is beyond the last."""
_NAMES = (*(f"{bound:.6g}" for bound in BOUNDS), "+Inf")


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds; upper bounds of the buckets that the percentiles fall into."""

    count: int
    p50: float
    p90: float
    p99: float


class SessionLatency(msgspec.Struct, frozen=True, kw_only=True):
    """What took how long in a session, in milliseconds; None: it did not happen.

    `up` and `down` are what the relay adds to an audio frame of the browser and of the agent,
    queueing included. `reply` runs from the user's words as text to the first agent audio sent to
    the browser, `agent_total` is what the agent reported for the same (LatencyReport).
    """

    connect_ms: float | None = None
    settings_ms: float | None = None
    up: Percentiles | None = None
    down: Percentiles | None = None
    reply: Percentiles | None = None
    agent_total: Percentiles | None = None


class Histogram:
    """Counts of durations."""

    __slots__ = ("counts", "total")

    def __init__(self, code: str = "I") -> None:
        """`code` is the array's: "I" is enough for a session, a process wants "Q"."""
        self.counts = array(code, [0] * (len(BOUNDS) + 1))
        self.total = 0.0

    def record(self, seconds: float, weight: int = 1) -> None:
        """Count a duration; a sample that stands for several carries their number as `weight`."""
        self.counts[bisect_left(BOUNDS, seconds)] += weight
        self.total += seconds * weight

    def merge(self, other: Histogram) -> None:
        """Count all of another histogram's durations too."""
        for at, count in enumerate(other.counts):
            self.counts[at] += count
        self.total += other.total

    def percentiles(self) -> Percentiles | None:
        """None when nothing was counted."""
        seen = list(accumulate(self.counts))
        if not seen[-1]:
            return None

        def at(share: float) -> float:
            bucket = bisect_left(seen, share * seen[-1])
            return round(BOUNDS[min(bucket, len(BOUNDS) - 1)] * 1000, 4)

        return Percentiles(count=seen[-1], p50=at(0.50), p90=at(0.90), p99=at(0.99))

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """Prometheus' buckets: upper bound in seconds as text, and how many are not above it."""
        return zip(_NAMES, accumulate(self.counts), strict=True)
