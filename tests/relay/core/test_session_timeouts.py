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


def test_a_session_may_be_without_end():
    timeouts = SessionTimeouts(0.0, 0.0, 0.0)

    assert timeouts.deadline == math.inf
    assert timeouts.expired(1e9) is None
