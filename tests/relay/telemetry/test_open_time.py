from __future__ import annotations

from relay.telemetry.open_time import OpenTime


def test_sockets_one_after_another_are_summed_without_the_time_between():
    time = OpenTime()
    assert time.seconds(5.0) == 0.0

    time.opened(10.0)
    assert time.seconds(12.0) == 2.0
    time.closed(15.0)
    time.closed(19.0)
    assert time.seconds(20.0) == 5.0
    time.opened(30.0)

    assert time.seconds(31.0) == 6.0


def test_what_never_opened_costs_nothing():
    time = OpenTime()

    time.closed(15.0)

    assert time.seconds(20.0) == 0.0
