"""What a session's stop-watch makes of what it is told."""

from relay.telemetry.metrics import Metrics
from relay.telemetry.session_timing import SessionTiming


def test_a_play_out_is_counted_once_for_each_reply():
    metrics = Metrics()
    timing = SessionTiming(metrics)

    timing.played_out(9.0)  # of no reply
    for asked in (1.0, 5.0):
        timing.asked(asked)
        timing.replied(asked + 0.5)
        timing.played_out(0.25)
        timing.played_out(9.0)

    assert metrics.times["playout"].total == 0.5
    assert sum(metrics.times["playout"].counts) == 2
