from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.telemetry.histogram import BOUNDS, Histogram


def test_nothing_counted_has_no_percentiles():
    assert Histogram().percentiles() is None


def test_percentiles_are_upper_bounds_and_close():
    histogram = Histogram()
    for milliseconds in range(1, 101):
        histogram.record(milliseconds / 1000)

    told = histogram.percentiles()

    assert told.count == 100
    assert 50 <= told.p50 <= 50 * 1.19
    assert 90 <= told.p90 <= 90 * 1.19
    assert 99 <= told.p99 <= 99 * 1.19


def test_a_sample_counts_as_many_as_it_stands_for():
    histogram = Histogram()
    histogram.record(0.001, 16)
    histogram.record(0.1)

    assert histogram.percentiles().count == 17
    assert histogram.percentiles().p90 < 2
    assert histogram.total == 0.001 * 16 + 0.1


def test_what_is_beyond_the_last_bound_is_counted():
    histogram = Histogram()
    histogram.record(1000.0)

    *_, (bound, count) = histogram.cumulative()
    assert (bound, count) == ("+Inf", 1)
    assert histogram.percentiles().p50 == round(BOUNDS[-1] * 1000, 4)


@given(st.lists(st.floats(0, 20)), st.lists(st.floats(0, 20)))
def test_merged_histograms_count_the_same_as_one(some, others):
    one, other, both = Histogram(), Histogram(), Histogram()
    for value in some:
        one.record(value)
        both.record(value)
    for value in others:
        other.record(value)
        both.record(value)

    one.merge(other)

    assert list(one.cumulative()) == list(both.cumulative())
