"""The way out: what waits, what goes, in which order."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from picows import WSMsgType

from relay.transport import send_queue
from relay.transport.send_queue import BINARY, TEXT, SendQueue

PONG = WSMsgType.PONG


class Wire:
    """Takes what a lane sends; `full_after` frames it asks to pause, as a full socket does."""

    def __init__(self):
        self.sent = []
        self.queue = None
        self.full_after = None

    def send_reuse_external_bytearray(self, kind, room, offset):
        self.sent.append((kind, bytes(room[offset:])))

    def send_pong(self, payload):
        self.sent.append((PONG, payload))

    def send(self, kind, payload):
        self.sent.append((kind, bytes(payload)))
        if self.full_after is not None and len(self.sent) >= self.full_after:
            self.queue.pause()


def open_lane(limit=100, *, held=False):
    queue, wire = SendQueue(limit, held=held), Wire()
    wire.queue = queue
    queue.attach(wire)
    return queue, wire


def test_an_open_lane_sends_at_once():
    queue, wire = open_lane()

    queue.send_audio(memoryview(b"ab"))
    queue.send_text(b"{}")

    assert wire.sent == [(BINARY, b"ab"), (TEXT, b"{}")]


def test_what_is_sent_before_the_socket_is_open_waits():
    queue, wire = SendQueue(100), Wire()
    queue.send_audio(b"a")
    queue.send_text(b"{}")

    queue.attach(wire)

    assert wire.sent == [(BINARY, b"a"), (TEXT, b"{}")]


def test_a_held_lane_sends_only_what_goes_first():
    queue, wire = open_lane(held=True)
    queue.send_audio(b"a")
    queue.send_first(b"settings")
    assert wire.sent == [(TEXT, b"settings")]

    queue.release()
    queue.send_audio(b"b")

    assert wire.sent == [(TEXT, b"settings"), (BINARY, b"a"), (BINARY, b"b")]


def test_a_ping_is_answered_at_once_also_while_the_lane_is_held():
    queue, wire = open_lane(held=True)

    queue.send_pong(b"1")

    assert wire.sent == [(PONG, b"1")]


async def test_of_the_pings_of_somebody_who_does_not_read_the_newest_is_answered_first():
    queue, wire = open_lane()
    queue.pause()
    queue.send_text(b"{}")
    for number in range(1000):
        queue.send_pong(b"%d" % number)
    assert wire.sent == []

    queue.resume()

    assert wire.sent == [(PONG, b"999"), (TEXT, b"{}")]


async def test_a_ping_is_not_answered_on_another_socket():
    queue, wire = open_lane()
    queue.pause()
    queue.send_pong(b"old")
    queue.lose(wire)

    queue.attach(after := Wire())

    assert wire.sent == after.sent == []


def test_a_queued_view_is_copied():
    queue, wire = SendQueue(100), Wire()
    buffer = bytearray(b"old")
    queue.send_audio(memoryview(buffer))
    buffer[:] = b"new"

    queue.attach(wire)

    assert wire.sent == [(BINARY, b"old")]


def test_a_full_queue_drops_the_oldest_audio_and_counts_it():
    queue, wire = SendQueue(6), Wire()
    for payload in (b"11", b"22", b"33", b"44", b"55"):
        queue.send_audio(payload)

    assert queue.dropped == 2
    queue.attach(wire)
    assert [payload for _, payload in wire.sent] == [b"33", b"44", b"55"]


def test_text_is_neither_dropped_nor_reordered():
    queue, wire = SendQueue(6), Wire()
    for at in range(5):
        queue.send_audio(b"%d%d" % (at, at))
        if at in (1, 3):
            queue.send_text(b"t%d" % at)

    queue.attach(wire)

    texts = [payload for kind, payload in wire.sent if kind is TEXT]
    assert texts == [b"t1", b"t3"]
    assert wire.sent[-1] == (BINARY, b"44")


def test_text_alone_over_the_limit_is_an_overflow_and_still_kept():
    queue, wire = SendQueue(6), Wire()
    overflows = []
    queue.handler = SimpleNamespace(on_overflow=lambda: overflows.append(1))
    queue.send_audio(b"aa")
    queue.send_text(b"1234567")

    assert overflows == [1]
    assert queue.dropped == 1
    queue.attach(wire)
    assert wire.sent == [(TEXT, b"1234567")]


def test_barge_in_empties_what_is_queued_but_not_the_events():
    queue, wire = SendQueue(100), Wire()
    queue.send_audio(b"old")
    queue.send_text(b"event")
    queue.send_audio(b"old")

    queue.clear_audio()
    queue.send_text(b"UserStartedSpeaking")
    queue.attach(wire)

    assert wire.sent == [(TEXT, b"event"), (TEXT, b"UserStartedSpeaking")]


async def test_a_lane_stops_when_the_other_end_does_and_goes_on_where_it_was():
    queue, wire = SendQueue(100), Wire()
    wire.queue = queue
    for payload in (b"1", b"2", b"3"):
        queue.send_audio(payload)
    wire.full_after = 2
    queue.attach(wire)
    queue.send_audio(b"4")
    assert [p for _, p in wire.sent] == [b"1", b"2"]

    wire.full_after = None
    queue.resume()
    queue.send_audio(b"5")

    assert [p for _, p in wire.sent] == [b"1", b"2", b"3", b"4", b"5"]


def test_a_detached_lane_swallows_everything():
    queue, wire = open_lane()
    queue.handler = SimpleNamespace(on_overflow=lambda: wire.sent.append("overflow"))
    queue.detach()

    queue.send_audio(b"a" * 200)
    queue.send_text(b"b" * 200)
    queue.send_first(b"c")
    queue.resume()

    assert wire.sent == []


def test_audio_has_a_bound_of_its_own_and_text_is_not_counted_against_it():
    queue, wire = SendQueue(100, audio_limit=4), Wire()
    queue.send_text(b"a long event")
    for payload in (b"11", b"22", b"33"):
        queue.send_audio(payload)

    queue.attach(wire)

    assert queue.dropped == 1
    assert wire.sent == [(TEXT, b"a long event"), (BINARY, b"22"), (BINARY, b"33")]


def test_audio_that_was_thrown_away_at_a_barge_in_is_no_longer_counted():
    queue = SendQueue(100, audio_limit=4)
    queue.send_audio(b"1111")
    queue.clear_audio()

    queue.send_audio(b"2222")

    assert queue.dropped == 0


async def test_who_reads_nothing_for_too_long_is_told_of(monkeypatch):
    monkeypatch.setattr(send_queue, "STALL_SECONDS", 0.01)
    queue, wire = SendQueue(100), Wire()
    stalled = asyncio.Event()
    queue.handler = SimpleNamespace(on_stalled=stalled.set)
    queue.attach(wire)

    queue.pause()

    async with asyncio.timeout(5):
        await stalled.wait()


async def test_who_reads_again_in_time_or_is_gone_has_not_stalled(monkeypatch):
    monkeypatch.setattr(send_queue, "STALL_SECONDS", 0.01)
    queue, wire = SendQueue(100), Wire()
    stalled = asyncio.Event()
    queue.handler = SimpleNamespace(on_stalled=stalled.set)
    queue.attach(wire)
    queue.pause()
    queue.resume()
    queue.pause()
    queue.lose(wire)
    monkeypatch.setattr(send_queue, "STALL_SECONDS", 0.02)  # a timer that ends after it
    other, late = SendQueue(100), asyncio.Event()
    other.handler = SimpleNamespace(on_stalled=late.set)
    other.pause()

    async with asyncio.timeout(5):
        await late.wait()

    assert not stalled.is_set()


def test_a_lane_describes_itself():
    queue = SendQueue(100)
    queue.send_audio(b"abc")

    assert repr(queue) == "<SendQueue waiting=1 bytes=3 open=False>"


def test_what_was_for_one_end_alone_does_not_wait_for_the_next():
    queue, _ = open_lane(held=True)
    queue.send_text(b"an answer", for_this_end=True)
    queue.send_text(b"typed")
    queue.send_audio(b"\1\1")
    queue.hold()
    queue.send_text(b"another", for_this_end=True)
    wire = Wire()
    queue.attach(wire)
    queue.release()

    assert [payload for _, payload in wire.sent] == [b"typed", b"\1\1", b"another"]


def test_an_odd_message_is_completed_before_the_next():
    queue, wire = open_lane()
    queue.is_pcm = True
    queue.send_audio(b"odd")
    assert not queue.is_clear
    queue.send_audio(b"even")

    assert [payload for _, payload in wire.sent] == [b"odd", b"\0", b"even"]
    assert queue.is_clear


def test_odd_audio_that_waits_is_whole_even_if_some_of_it_is_thrown_away():
    queue, wire = open_lane(limit=8, held=True)
    queue.is_pcm = True
    for payload in (b"odd", b"odd", b"odd"):
        queue.send_audio(payload)
    queue.release()

    assert [payload for _, payload in wire.sent] == [b"odd\0", b"odd\0"]
