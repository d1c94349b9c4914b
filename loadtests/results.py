"""What a load test leaves behind: the runs, their latencies and the single figures, as structs.

Load tests. The engine fills `Results`; budgets and report read it; a JSON file keeps it. All
latencies are whole microseconds in HdrHistograms of one shape, so that runs can be added up:
percentiles of several runs come from the sum of their histograms, never from an average.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec
from hdrh.histogram import HdrHistogram

SHORTEST = 1  # microseconds, like all values in a histogram
LONGEST = 60_000_000
DIGITS = 3  # every value is right to one in a thousand

Histogram: TypeAlias = HdrHistogram


class Arm(StrEnum):
    """What stands between browsers and agent."""

    DIRECT = "direct"  # nothing: the floor
    NGINX = "nginx"
    HAPROXY = "haproxy"
    FASTAPI = "fastapi"
    AIOHTTP = "aiohttp"
    PICOWS = "picows"  # the library below ours, and nothing else
    OURS = "ours"


class Scenario(StrEnum):
    """The two that the budgets read; other scenarios may have any other name."""

    CONVERSATION = "conversation"  # real turns: speech in bursts, events, function calls, storing
    ECHO = "echo"  # frames only, the same both ways


class Figure(StrEnum):
    """Names of the single figures that the budgets read, with their units."""

    UNREAD_SESSION_KIB = "unread_session_kib"  # more than a normal one, browser never reads
    READY_MS = "ready_ms"  # browser's wait for SettingsApplied through the relay
    READY_DIRECT_MS = "ready_direct_ms"  # the same without a relay
    MESSAGES_PER_SECOND = "messages_per_second"  # stored, sustained
    HISTORY_P99_MS = "history_p99_ms"  # a page of 50 out of `history_messages`
    HISTORY_MESSAGES = "history_messages"
    STALL_MS = "stall_ms"  # longest event-loop stall with the database stopped


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


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One arm under one load for some seconds. `void` says why its figures do not count.

    `up` is browser to agent and `down` agent to browser, each one-way against the intended send
    time; `lag` is how late the generator itself sent; `settle` is from opening the WebSocket to
    SettingsApplied. CPU time is of the relay process(es) only, so the direct arm has none.
    """

    arm: str
    scenario: str
    sessions: int
    tls: bool = False
    repetition: int = 0
    void: str | None = None
    seconds: float = 0.0
    frames_up: int = 0
    frames_down: int = 0
    cpu_us_per_frame: float | None = None
    rss_kib_per_session: float | None = None
    up: Latency = Latency()
    down: Latency = Latency()
    lag: Latency = Latency()
    settle: Latency = Latency()
    extra: dict[str, Any] = {}


class Results(msgspec.Struct, kw_only=True):
    """One load test. `machine` and `versions` are shown as they are, key by key."""

    started_at: datetime
    machine: dict[str, str | int | float] = {}
    commit: str = ""
    versions: dict[str, str] = {}
    seconds: float = 0.0  # how long all of it took
    notes: list[str] = []  # what a reader must know: arms left out, a machine that was busy
    runs: list[Run] = []
    figures: dict[str, float] = {}

    def valid(
        self,
        *,
        arm: str | None = None,
        scenario: str | None = None,
        tls: bool | None = None,
        sessions: int | None = None,
    ) -> Iterator[Run]:
        """The runs that count, narrowed by what is given."""
        for run in self.runs:
            if (
                run.void is None
                and (arm is None or run.arm == arm)
                and (scenario is None or run.scenario == scenario)
                and (tls is None or run.tls == tls)
                and (sessions is None or run.sessions == sessions)
            ):
                yield run


def new_histogram() -> Histogram:
    """An empty one of the shape that all of ours have."""
    return HdrHistogram(SHORTEST, LONGEST, DIGITS)


def record(histogram: Histogram, microseconds: float) -> None:
    """Record one value; what does not fit counts as the shortest or the longest."""
    histogram.record_value(max(SHORTEST, min(LONGEST, round(microseconds))))


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
        record(histogram, value)
    return summarize(histogram)


def merge(latencies: Iterable[Latency]) -> Latency:
    """All values together, as if one run had measured them."""
    histogram = new_histogram()
    for latency in latencies:
        histogram.add(latency.decode())
    return summarize(histogram)
