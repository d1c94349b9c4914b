"""Who may come back, until when, and what it is told."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.admitted import Takeover
from relay.core.resume import KEPT_FRAMES, ReplayBuffer, ResumeWindow
from tests.relay.conftest import numbered_tickets


@pytest.fixture
def window(admitted):
    return ResumeWindow(admitted, 30.0, numbered_tickets())


def test_it_is_waited_for_from_when_it_left(window):
    assert window.closes_at == math.inf
    assert repr(window) == "<ResumeWindow attached>"

    window.detach(5.0)

    assert window.closes_at == 35.0
    assert repr(window) == "<ResumeWindow detached>"


def test_only_its_ticket_lets_it_in(window):
    assert window.admits("ticket-1", 0)
    assert not window.admits("ticket-2", 0)
    assert not window.admits("", 0)
    assert not window.admits("t\xefcket-1", 0)


def test_each_attach_brings_another_ticket(window):
    window.detach(5.0)

    window.attach("ticket-1", 10)

    assert window.ticket == "ticket-2"
    assert window.admits("ticket-2", 11)
    assert not window.is_detached


def test_a_ticket_is_used_up_once_the_browser_is_heard(window):
    window.attach("ticket-1", 10)

    assert not window.admits("ticket-1", 11)


def test_a_browser_that_never_got_its_new_ticket_comes_again_with_the_old_one(window):
    window.attach("ticket-1", 10)
    window.attach("ticket-1", 10)

    assert window.admits("ticket-1", 10)
    assert window.admits("ticket-3", 10)
    assert not window.admits("ticket-2", 10)


def test_without_a_grace_time_no_ticket_is_good(admitted):
    assert not ResumeWindow(admitted, 0.0, numbered_tickets()).admits("ticket-1", 0)


def test_the_ticket_that_it_brought_from_another_relay_is_good_until_it_is_heard(admitted):
    takeover = Takeover(ticket="theirs", messages=[])
    admitted = msgspec.structs.replace(admitted, resume_ticket="ours", takeover=takeover)
    window = ResumeWindow(admitted, 30.0, numbered_tickets())

    assert window.ticket == "ours"
    assert window.admits("theirs", 0)
    assert window.admits("ours", 0)
    assert not window.admits("theirs", 1)

    window.confirm()

    assert not window.admits("theirs", 0)


def filled(count, limit=1000):
    buffer = ReplayBuffer(limit)
    for number in range(count):
        buffer.append(b"%d" % number)
    return buffer


def test_it_has_everything_after_what_was_received():
    buffer = filled(5)

    assert buffer.since(3) == [b"3", b"4"]
    assert buffer.since(5) == []
    assert buffer.since(0) == [b"0", b"1", b"2", b"3", b"4"]
    assert repr(buffer) == "<ReplayBuffer count=5 kept=5 bytes=5>"


def test_the_oldest_goes_when_there_is_too_much():
    buffer = filled(9, limit=3)

    assert buffer.since(6) == [b"6", b"7", b"8"]


def test_what_is_gone_is_told_and_the_rest_follows():
    buffer = filled(9, limit=3)

    first, *rest = buffer.since(4)

    assert json.loads(first)["code"] == "events_missed"
    assert rest == [b"6", b"7", b"8"]


def test_a_report_is_counted_and_takes_no_place():
    buffer = ReplayBuffer(10)
    buffer.append(b"a" * 10)
    for _ in range(100):
        buffer.append(b"report" * 9, kept=False)

    told = buffer.since(0)

    assert (told[0], len(told), buffer.count) == (b"a" * 10, 101, 101)
    assert set(told[1:]) == {b'{"type":"LatencyReport"}'}, "one for each: the browser counts"
    for _ in range(KEPT_FRAMES):
        buffer.append(b"report", kept=False)
    assert len(buffer.since(101)) == KEPT_FRAMES
    assert b"events_missed" in buffer.since(100)[0]


def test_a_frame_over_the_limit_is_gone_at_once():
    buffer = ReplayBuffer(10)
    buffer.append(bytes(11))

    (told,) = buffer.since(0)

    assert json.loads(told)["code"] == "events_missed"


@given(st.lists(st.one_of(st.integers(1, 30), st.just("return")), max_size=50), st.data())
def test_a_browser_that_loses_and_returns_hears_everything_once_or_is_told(steps, data):
    buffer = ReplayBuffer(100)
    said, heard = 0, []
    for step in [*steps, "return"]:
        if step == "return":
            lost = data.draw(st.integers(0, 3), "frames lost on the way")
            missing = buffer.since(len(heard))
            heard += missing[: len(missing) - lost] if lost else missing
        else:
            said += 1
            buffer.append(b"%d" % said + b" " * step)
    heard += buffer.since(len(heard))
    assert len(heard) == buffer.count
    numbers = [0 if b"events_missed" in frame else int(frame) for frame in heard]
    last = 0
    for number in numbers:
        assert number == 0 or number > last, "twice or out of order"
        if number:
            last = number
    for before, after in zip([0, *numbers], numbers, strict=False):
        assert after in (0, before + 1) or before == 0, "missed in silence"
