"""Delays as they are measured, and their percentiles.

Load tests. All latencies are whole microseconds in HdrHistograms of one shape, so that runs can be
added up: percentiles of several runs come from the sum of their histograms, never from an average.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
from hdrh.histogram import HdrHistogram

SHORTEST = 1  # microseconds, like all values in a histogram
LONGEST = 60_000_000
DIGITS = 3  # every value is right to one in a thousand


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in microseconds; `histogram` has all of it (HdrHistogram V2, base64)."""

    count: int = 0
    p50: int = 0
    p90: int = 0
    p99: int = 0
    p999: int = 0
    max: int = 0
    histogram: str = ""


# When something was due and how late it came, in ns. Whoever measures appends: recording into a
# histogram costs microseconds in Python.
Samples = list[tuple[int, int]]


def summarize_due(samples: Samples, start: int, stop: int) -> Latency:
    """The delays of what was due from `start` to before `stop`."""
    return summarize_values(delay // 1000 for due, delay in samples if start <= due < stop)


def summarize_values(microseconds: Iterable[float]) -> Latency:
    """What does not fit counts as the shortest or the longest; `Latency()` for no values."""
    histogram = HdrHistogram(SHORTEST, LONGEST, DIGITS)
    for value, count in Counter(map(round, microseconds)).items():
        histogram.record_value(max(SHORTEST, min(LONGEST, value)), count)
    return _summarize(histogram)


def merge(latencies: Iterable[Latency]) -> Latency:
    """All values together, as if one run had measured them."""
    histogram = HdrHistogram(SHORTEST, LONGEST, DIGITS)
    for latency in latencies:
        if latency.count:
            histogram.decode_and_add(latency.histogram.encode())
    return _summarize(histogram)


def _summarize(histogram: HdrHistogram) -> Latency:
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
