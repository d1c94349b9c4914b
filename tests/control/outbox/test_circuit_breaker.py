"""control/outbox/circuit_breaker.py: who is asked, and who is not for a while."""

from __future__ import annotations

import pytest

from control.outbox.circuit_breaker import FAILURES, FIRST_REST, LONGEST_REST, Breaker, State


def fail(breaker, now=0.0, calls=FAILURES):
    for number in range(calls):
        breaker.failed(f"call_{number}", now)


def test_a_half_open_breaker_lets_one_through_and_rests_longer_after_each_failure():
    changes = []
    breaker = Breaker(changes.append)
    assert breaker.enter(0.0)
    fail(breaker)

    assert not breaker.enter(FIRST_REST - 0.1)
    assert breaker.enter(FIRST_REST)
    assert not breaker.enter(FIRST_REST)
    assert breaker.wait(FIRST_REST) > 0
    breaker.failed("call_0", FIRST_REST)
    assert breaker.wait(FIRST_REST) == 2 * FIRST_REST
    now = FIRST_REST
    for _ in range(10):
        now += breaker.wait(now)
        assert breaker.enter(now)
        breaker.failed("call_0", now)
    assert breaker.wait(now) == LONGEST_REST
    breaker.enter(now + LONGEST_REST)
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert changes[:3] == [State.OPEN, State.HALF_OPEN, State.OPEN]
    assert changes[-1] is State.CLOSED


def test_a_success_in_between_starts_the_count_again():
    breaker = Breaker()
    fail(breaker, calls=FAILURES - 1)
    breaker.succeeded()
    breaker.failed("call_9", 0.0)

    assert breaker.enter(0.0)
    assert repr(breaker) == "<Breaker CLOSED failed=1>"


@pytest.mark.parametrize("poison", [["a"], ["a", "b"]])
def test_a_call_that_fails_again_and_again_counts_once(poison):
    breaker = Breaker()
    for _ in range(10 * FAILURES):
        for call in poison:
            breaker.failed(call, 0.0)

    assert breaker.state is State.CLOSED


def test_a_failure_from_before_it_opened_tells_nothing_new():
    breaker = Breaker()
    fail(breaker)
    breaker.failed("late", 1.0)

    assert breaker.wait(FIRST_REST) == 0
    assert breaker.enter(FIRST_REST)


def test_a_probe_that_is_given_up_leaves_room_for_the_next():
    breaker = Breaker()
    fail(breaker)
    assert breaker.enter(FIRST_REST)
    breaker.abandoned()

    assert breaker.enter(FIRST_REST)
