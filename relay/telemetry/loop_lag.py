"""How late the event loop is: the one figure that every frame of every session feels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from relay.telemetry.histogram import Histogram

PERIOD = 0.05  # short enough to meet a stall that matters, and twenty wake-ups a second


@contextmanager
def watching(histogram: Histogram) -> Iterator[None]:
    """Record, while inside, how much later than asked for the loop wakes us."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def wake() -> None:
        nonlocal timer
        histogram.record(max(0.0, loop.time() - timer.when()))
        timer = loop.call_later(PERIOD, wake)

    timer = loop.call_later(PERIOD, wake)
    try:
        yield
    finally:
        timer.cancel()
