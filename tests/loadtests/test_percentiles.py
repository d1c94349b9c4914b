from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from loadtests import percentiles
from loadtests.percentiles import Latency, summarize_values
from loadtests.results import Results, Run

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def test_percentiles_are_right_to_one_in_a_thousand():
    latency = summarize_values(range(1, 10_001))

    assert latency.count == 10_000
    assert latency.p50 == pytest.approx(5_000, rel=0.001)
    assert latency.p90 == pytest.approx(9_000, rel=0.001)
    assert latency.p99 == pytest.approx(9_900, rel=0.001)
    assert latency.p999 == pytest.approx(9_990, rel=0.001)
    assert latency.max == pytest.approx(10_000, rel=0.001)


def test_nothing_recorded_is_the_empty_latency():
    assert summarize_values([]) == Latency()
    assert percentiles.merge([]) == Latency()


def test_what_does_not_fit_counts_as_the_shortest_or_the_longest():
    latency = summarize_values([-5, 0, 10**12])

    assert latency.count == 3
    assert latency.p50 == percentiles.SHORTEST
    assert latency.max == pytest.approx(percentiles.LONGEST, rel=0.001)


def test_merged_percentiles_are_those_of_all_values_and_not_an_average():
    values = random.Random(1)
    quick = [values.uniform(50, 150) for _ in range(9_000)]
    slow = [values.uniform(5_000, 9_000) for _ in range(1_000)]

    merged = percentiles.merge([summarize_values(quick), summarize_values(slow)])

    assert merged == summarize_values(quick + slow)
    assert merged.p50 < 151
    assert merged.p99 > 5_000


def test_void_runs_do_not_count():
    good = Run(arm="ours", scenario="echo", sessions=10)
    bad = Run(arm="ours", scenario="echo", sessions=10, void="a frame was lost")
    tls = Run(arm="nginx", scenario="conversation", sessions=50, tls=True)
    of = Results(started_at=AT, runs=[good, bad, tls])

    assert list(of.valid()) == [good, tls]
    assert list(of.valid(arm="ours")) == [good]
    assert list(of.valid(tls=True)) == [tls]
    assert list(of.valid(scenario="echo", sessions=50)) == []
