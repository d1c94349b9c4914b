from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.token_bucket import TokenBucket


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
