from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.token_bucket import TokenBucket, TokenBuckets


def test_a_burst_may_come_at_once_and_then_so_much_a_second():
    bucket = TokenBucket(2.0, 3.0, 10.0)

    assert [bucket.take(1, 10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(1, 10.5), bucket.take(1, 10.5)] == [True, False]


def test_a_pause_gives_no_more_than_the_burst_back():
    bucket = TokenBucket(2.0, 3.0, 0.0)
    bucket.take(3, 0.0)

    assert bucket.take(3, 1000.0)
    assert not bucket.take(1, 1000.0)


def test_what_has_come_already_is_a_debt_that_time_makes_up_for():
    bucket = TokenBucket(2.0, 3.0, 0.0)

    assert bucket.spend(7, 0.0) == -4
    assert not bucket.take(1, 2.0)
    assert bucket.take(1, 2.5)
    assert "0 of 3" in repr(bucket)


@given(
    rate=st.floats(0.1, 100),
    burst=st.floats(1, 100),
    steps=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 50))),
)
def test_never_more_than_the_burst_and_the_rate(rate, burst, steps):
    bucket = TokenBucket(rate, burst, 0.0)
    now = taken = 0.0

    for passed, amount in steps:
        now += passed
        taken += amount if bucket.take(amount, now) else 0.0
        assert taken <= (burst + rate * now) * 1.000001


# --- one for each key ----------------------------------------------------------------------------


def test_each_key_has_a_bucket_of_its_own_which_says_when_there_is_more():
    buckets = TokenBuckets(2.0, 3.0)

    assert [buckets.take("a", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("b", 10.0) == 0.0
    assert buckets.take("a", 10.25) == 0.25
    assert buckets.take("a", 10.5) == 0.0
    assert buckets.take("b", 10.5, 3.0) == 0.0


def test_a_rate_of_0_is_no_limit_and_nothing_is_remembered():
    buckets = TokenBuckets(0.0, 1.0)

    assert {buckets.take("a", 0.0) for _ in range(1000)} == {0.0}
    assert len(buckets) == 0


def test_the_key_that_nobody_asked_for_longest_is_forgotten():
    buckets = TokenBuckets(1.0, 1.0, most=2)
    for key in ("a", "b", "a", "c"):
        buckets.take(key, 0.0)

    assert repr(buckets) == "<TokenBuckets 2 of 2>"
    assert buckets.take("a", 0.0) == 1.0
    assert buckets.take("b", 0.0) == 0.0  # it was forgotten


@given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from("abc")), max_size=200))
def test_no_key_gets_more_than_its_burst_and_rate_nor_waits_longer_than_it_is_told(asked):
    buckets = TokenBuckets(3.0, 5.0)
    now, taken = 0.0, dict.fromkeys("abc", 0)
    for passed, key in asked:
        now += passed
        wait = buckets.take(key, now)
        taken[key] += wait == 0.0
        assert taken[key] <= 5.0 + 3.0 * now + 1e-6
        assert 0.0 <= wait <= 1 / 3 + 1e-9
        if wait:
            now += wait + 1e-9
            assert buckets.take(key, now) == 0.0
            taken[key] += 1
