"""What a browser that comes back is told."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from relay.core.replay import ReplayBuffer


def filled(count, limit=1000):
    backlog = ReplayBuffer(limit)
    for number in range(count):
        backlog.append(b"%d" % number)
    return backlog


def test_it_has_everything_after_what_was_received():
    backlog = filled(5)

    assert backlog.since(3) == [b"3", b"4"]
    assert backlog.since(5) == []
    assert backlog.since(0) == [b"0", b"1", b"2", b"3", b"4"]
    assert repr(backlog) == "<ReplayBuffer count=5 kept=5 bytes=5>"


def test_the_oldest_goes_when_there_is_too_much():
    backlog = filled(9, limit=3)

    assert backlog.since(6) == [b"6", b"7", b"8"]


def test_what_is_gone_is_told_and_the_rest_follows():
    backlog = filled(9, limit=3)

    first, *rest = backlog.since(4)

    assert json.loads(first)["code"] == "events_missed"
    assert rest == [b"6", b"7", b"8"]


def test_a_frame_over_the_limit_is_gone_at_once():
    backlog = ReplayBuffer(10)
    backlog.append(bytes(11))

    (told,) = backlog.since(0)

    assert json.loads(told)["code"] == "events_missed"


@given(st.lists(st.one_of(st.integers(1, 30), st.just("return")), max_size=50), st.data())
def test_a_browser_that_loses_and_returns_hears_everything_once_or_is_told(steps, data):
    backlog = ReplayBuffer(100)
    said, heard = 0, []
    for step in [*steps, "return"]:
        if step == "return":
            lost = data.draw(st.integers(0, 3), "frames lost on the way")
            missing = backlog.since(len(heard))
            heard += missing[: len(missing) - lost] if lost else missing
        else:
            said += 1
            backlog.append(b"%d" % said + b" " * step)
    heard += backlog.since(len(heard))
    assert len(heard) == backlog.count
    numbers = [0 if b"events_missed" in frame else int(frame) for frame in heard]
    last = 0
    for number in numbers:
        assert number == 0 or number > last, "twice or out of order"
        if number:
            last = number
    for before, after in zip([0, *numbers], numbers, strict=False):
        assert after in (0, before + 1) or before == 0, "missed in silence"
