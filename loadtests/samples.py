"""Delays as they are measured: two numbers a frame, made into a histogram afterwards.

Load tests. Recording into an HdrHistogram costs microseconds in Python, appending to an array a
fraction of one.
"""

from __future__ import annotations

from array import array
from collections import Counter

from loadtests import results
from loadtests.results import Latency


class Samples:
    """`due` and `delay` in nanoseconds, side by side. Whoever measures appends to both."""

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
        histogram = results.new_histogram()
        for microseconds, count in counted.items():
            value = max(results.SHORTEST, min(results.LONGEST, microseconds))
            histogram.record_value(value, count)
        return results.summarize(histogram)
