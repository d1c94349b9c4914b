from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.token_bucket import Allowance


def test_a_burst_may_come_at_once_and_then_so_much_a_second():
    allowance = Allowance(2.0, 3.0, 10.0)

    assert [allowance.take(1, 10.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(1, 10.5), allowance.take(1, 10.5)] == [True, False]


def test_a_pause_gives_no_more_than_the_burst_back():
    allowance = Allowance(2.0, 3.0, 0.0)
    allowance.take(3, 0.0)

    assert allowance.take(3, 1000.0)
    assert not allowance.take(1, 1000.0)


def test_what_has_come_already_is_a_debt_that_time_makes_up_for():
    allowance = Allowance(2.0, 3.0, 0.0)

    assert allowance.spend(7, 0.0) == -4
    assert not allowance.take(1, 2.0)
    assert allowance.take(1, 2.5)
    assert "0 of 3" in repr(allowance)


@given(
    rate=st.floats(0.1, 100),
    burst=st.floats(1, 100),
    steps=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 50))),
)
def test_never_more_than_the_burst_and_the_rate(rate, burst, steps):
    allowance = Allowance(rate, burst, 0.0)
    now = taken = 0.0

    for passed, amount in steps:
        now += passed
        taken += amount if allowance.take(amount, now) else 0.0
        assert taken <= (burst + rate * now) * 1.000001
