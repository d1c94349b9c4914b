"""control/outbox/circuit_breaker.py: who is asked, and who is not for a while."""

from __future__ import annotations

import pytest

from control.outbox.circuit_breaker import FAILURES, FIRST_REST, LONGEST_REST, CircuitBreaker, State


def fail(circuit_breaker, now=0.0, calls=FAILURES):
    for number in range(calls):
        circuit_breaker.failed(f"call_{number}", now)


def test_a_half_open_breaker_lets_one_through_and_rests_longer_after_each_failure(caplog):
    circuit_breaker = CircuitBreaker()
    assert circuit_breaker.enter(0.0)
    fail(circuit_breaker)

    assert not circuit_breaker.enter(FIRST_REST - 0.1)
    assert circuit_breaker.enter(FIRST_REST)
    assert not circuit_breaker.enter(FIRST_REST)
    assert circuit_breaker.wait(FIRST_REST) > 0
    circuit_breaker.failed("call_0", FIRST_REST)
    assert circuit_breaker.wait(FIRST_REST) == 2 * FIRST_REST
    now = FIRST_REST
    for _ in range(10):
        now += circuit_breaker.wait(now)
        assert circuit_breaker.enter(now)
        circuit_breaker.failed("call_0", now)
    assert circuit_breaker.wait(now) == LONGEST_REST
    circuit_breaker.enter(now + LONGEST_REST)
    circuit_breaker.succeeded()
    assert circuit_breaker.state is State.CLOSED
    said = [message.rpartition("=")[2] for message in caplog.messages]
    assert said[:3] == ["open", "half_open", "open"]
    assert said[-1] == "closed"


def test_a_success_in_between_starts_the_count_again():
    circuit_breaker = CircuitBreaker()
    fail(circuit_breaker, calls=FAILURES - 1)
    circuit_breaker.succeeded()
    circuit_breaker.failed("call_9", 0.0)

    assert circuit_breaker.enter(0.0)
    assert repr(circuit_breaker) == "<CircuitBreaker CLOSED failed=1>"


@pytest.mark.parametrize("poison", [["a"], ["a", "b"]])
def test_a_call_that_fails_again_and_again_counts_once(poison):
    circuit_breaker = CircuitBreaker()
    for _ in range(10 * FAILURES):
        for call in poison:
            circuit_breaker.failed(call, 0.0)

    assert circuit_breaker.state is State.CLOSED


def test_a_failure_from_before_it_opened_tells_nothing_new():
    circuit_breaker = CircuitBreaker()
    fail(circuit_breaker)
    circuit_breaker.failed("late", 1.0)

    assert circuit_breaker.wait(FIRST_REST) == 0
    assert circuit_breaker.enter(FIRST_REST)


def test_a_probe_that_is_given_up_leaves_room_for_the_next():
    circuit_breaker = CircuitBreaker()
    fail(circuit_breaker)
    assert circuit_breaker.enter(FIRST_REST)
    circuit_breaker.abandoned()

    assert circuit_breaker.enter(FIRST_REST)
