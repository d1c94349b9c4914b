"""When a session ends by itself."""

from __future__ import annotations

import math

from relay.core.session_timeouts import SessionTimeouts


def test_a_short_idle_time_is_told_at_half_of_it():
    timeouts = SessionTimeouts(10.0, 0.0, 0.0)

    assert timeouts.deadline == 5.0
    assert timeouts.warning(4.9) is None
    assert timeouts.warning(5.0).ends_in == 5.0
    assert timeouts.warning(6.0) is None
    assert timeouts.deadline == 10.0
    timeouts.touch(9.0)
    assert timeouts.expired(10.0) is None
    assert timeouts.warning(14.0).code == "idle"
    assert timeouts.expired(19.0) == "idle"


def test_the_minutes_of_the_day_end_a_session_and_more_of_them_put_it_off():
    timeouts = SessionTimeouts(0.0, 0.0, 0.0)
    timeouts.allow(100.0, 0.0)

    assert timeouts.deadline == 70.0
    timeouts.allow(50.0, 30.0)  # another session of the user used some
    assert timeouts.deadline == 50.0
    assert (timeouts.warning(50.0).code, timeouts.warning(50.0)) == ("daily_minutes", None)
    timeouts.allow(25.0, 50.0)
    assert timeouts.warning(60.0) is None  # told already
    timeouts.allow(90.0, 60.0)  # a new day
    assert timeouts.deadline == 120.0
    assert timeouts.warning(120.0).ends_in == 30.0
    assert timeouts.expired(149.9) is None
    assert timeouts.expired(150.0) == "daily_minutes"
    timeouts.allow(None, 149.0)
    assert timeouts.deadline == math.inf


def test_who_has_less_than_the_notice_left_is_told_at_once():
    timeouts = SessionTimeouts(0.0, 0.0, 0.0)
    timeouts.allow(3.0, 10.0)

    assert timeouts.warning(10.0).ends_in == 3.0


def test_a_session_may_be_without_end():
    timeouts = SessionTimeouts(0.0, 0.0, 0.0)

    assert timeouts.deadline == math.inf
    assert timeouts.expired(1e9) is None
