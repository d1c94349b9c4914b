"""Delays as they are measured, and their percentiles.

Load tests. All latencies are whole microseconds in HdrHistograms of one shape, so that runs can be
added up: percentiles of several runs come from the sum of their histograms, never from an average.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

import msgspec
from hdrh.histogram import HdrHistogram

SHORTEST = 1  # microseconds, like all values in a histogram
LONGEST = 60_000_000
DIGITS = 3  # every value is right to one in a thousand

Histogram: TypeAlias = HdrHistogram


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in microseconds; `histogram` has all of it (HdrHistogram V2, base64)."""

    count: int = 0
    p50: int = 0
    p90: int = 0
    p99: int = 0
    p999: int = 0
    max: int = 0
    histogram: str = ""

    def decode(self) -> Histogram:
        """The histogram; an empty one when none was kept."""
        histogram = new_histogram()
        if self.histogram:
            histogram.decode_and_add(self.histogram.encode())
        return histogram


class Samples:
    """`due` and `delay` in nanoseconds, side by side. Whoever measures appends to both.

    Recording into a histogram costs microseconds in Python, appending a fraction of one.
    """

    def __init__(self) -> None:
        self.due = array("q")
        self.delay = array("q")

    def between(self, start: int, end: int) -> Latency:
        """What was due from `start` to before `end`."""
        counted = Counter(
            delay // 1000
            for due, delay in zip(self.due, self.delay, strict=True)
            if start <= due < end
        )
        histogram = new_histogram()
        for microseconds, count in counted.items():
            histogram.record_value(_fit(microseconds), count)
        return summarize(histogram)


def new_histogram() -> Histogram:
    """An empty one of the shape that all of ours have."""
    return HdrHistogram(SHORTEST, LONGEST, DIGITS)


def summarize(histogram: Histogram) -> Latency:
    """Percentiles and encoded histogram; `Latency()` for an empty one."""
    count = histogram.get_total_count()
    if not count:
        return Latency()
    at = histogram.get_value_at_percentile
    return Latency(
        count=count,
        p50=at(50),
        p90=at(90),
        p99=at(99),
        p999=at(99.9),
        max=histogram.get_max_value(),
        histogram=histogram.encode().decode(),
    )


def summarize_values(microseconds: Iterable[float]) -> Latency:
    """The same for a list of values."""
    histogram = new_histogram()
    for value in microseconds:
        histogram.record_value(_fit(value))
    return summarize(histogram)


def merge(latencies: Iterable[Latency]) -> Latency:
    """All values together, as if one run had measured them."""
    histogram = new_histogram()
    for latency in latencies:
        histogram.add(latency.decode())
    return summarize(histogram)


def _fit(microseconds: float) -> int:
    """What does not fit counts as the shortest or the longest."""
    return max(SHORTEST, min(LONGEST, round(microseconds)))
