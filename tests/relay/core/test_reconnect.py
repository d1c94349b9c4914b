from __future__ import annotations

from config.limits import Limits
from relay.core.agent_lifecycle import AgentLifecycle
from relay.core.reconnect import LONGEST_RETRY_AFTER, LONGEST_WAIT, MAX_TRIES, STABLE_SECONDS
from relay.telemetry.log_limit import KINDS, SECONDS, LogLimit

# --- the attempts of one session -----------------------------------------------------------------


def lifecycle(jitter=1.0, setup_seconds=60.0):
    return AgentLifecycle(Limits(setup_seconds=setup_seconds), lambda: jitter, 0.0)


def wait(agent, now=0.0, at_least=0.0):
    """Seconds until the next try; None: there is none."""
    return agent.deadline - now if agent.retry(now, at_least) else None


def test_the_waits_double_and_end():
    agent = lifecycle()

    waits = [wait(agent) for _ in range(MAX_TRIES + 1)]

    assert waits == [0.25, 0.5, 1.0, 2.0, LONGEST_WAIT, None]


def test_the_tries_of_the_first_set_up_share_its_time():
    assert wait(lifecycle(setup_seconds=0.2)) is None


def test_jitter_takes_at_most_half_of_a_wait():
    assert wait(lifecycle(jitter=0.0)) == 0.125


def test_an_agent_that_was_ready_for_a_while_gives_the_tries_back_once():
    """Not for each try that follows: a dead agent would be dialled for ever."""
    agent = lifecycle()
    agent.apply(0.0)

    waits = [wait(agent, STABLE_SECONDS + second) for second in range(MAX_TRIES + 1)]

    assert waits[-1] is None
    assert agent.was_open


def test_an_agent_that_was_ready_for_a_moment_gives_nothing_back():
    agent = lifecycle()
    for _ in range(MAX_TRIES):
        agent.apply(0.0)
        wait(agent, 1.0)

    assert wait(agent, 1.0) is None


def test_what_the_agent_asks_for_is_waited_up_to_a_limit():
    assert wait(lifecycle(jitter=0.0), at_least=3.0) == 3.0
    assert wait(lifecycle(jitter=1.0), at_least=3.0) == 3.25
    assert wait(lifecycle(jitter=0.0), at_least=1e9) == LONGEST_RETRY_AFTER


# --- their log lines -----------------------------------------------------------------------------


def test_equal_lines_are_written_once_in_a_while_with_a_count():
    log_limit = LogLimit()

    counts = [log_limit.count("a", now) for now in (0.0, 1.0, 2.0, SECONDS, SECONDS + 1)]

    assert counts == [0, None, None, 2, None]
    assert log_limit.count("b", 1.0) == 0


def test_the_kinds_that_are_remembered_are_bounded():
    log_limit = LogLimit()
    for number in range(KINDS + 1):
        log_limit.count(number, 0.0)

    assert repr(log_limit) == f"<LogLimit kinds={KINDS}>"
    assert log_limit.count(0, 0.0) == 0, "the oldest is forgotten"
