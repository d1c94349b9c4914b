"""One WebSocket of a session: what a leg does with frames, whoever sent them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from picows import WSMsgType, WSProtocolError
from picows.picows import _make_test_ws_frame

from relay.transport.connection import SAMPLE_MASK, Connection
from relay.transport.connection_handler import Handler
from relay.transport.send_queue import BINARY, SendQueue
from tests.relay.transport.test_send_queue import Wire


async def test_a_leg_that_was_closed_before_it_opened_is_cut_when_it_opens():
    cut = []

    class Transport(Wire):
        is_disconnected = False

        def disconnect(self, graceful=True):
            cut.append(graceful)

    connection = Connection(SendQueue(100), max_message_bytes=100)
    connection.close(1000, "")
    connection.on_ws_connected(Transport())

    assert cut == [False]
    assert connection.closed_code == 1000


def frame(payload=b"ab", kind=BINARY, fin=True):
    return _make_test_ws_frame(kind, payload, fin, False)


def fed():
    connection, onward, wire = (
        Connection(SendQueue(100), max_message_bytes=100),
        SendQueue(1000),
        Wire(),
    )
    onward.attach(wire)
    connection.feed(onward)
    return connection, onward, wire


def test_every_frame_of_audio_goes_onward_and_is_counted_the_timed_ones_too():
    connection, _, wire = fed()
    count = 2 * (SAMPLE_MASK + 1)

    for at in range(count):
        connection.on_ws_frame(None, frame(b"%02d" % at))

    assert [payload for _, payload in wire.sent] == [b"%02d" % at for at in range(count)]
    assert (connection.frames, connection.bytes) == (count, 2 * count)


def test_audio_waits_in_a_lane_that_is_not_open_and_keeps_its_order():
    connection, onward, wire = fed()
    onward.hold()
    connection.on_ws_frame(None, frame(b"1"))
    onward.release()
    connection.on_ws_frame(None, frame(b"2"))

    assert [payload for _, payload in wire.sent] == [b"1", b"2"]
    assert connection.frames == 2


def test_a_closed_leg_hears_nothing_even_if_it_is_fed_again():
    connection, onward, wire = fed()
    connection.abort()
    connection.feed(onward)

    connection.on_ws_frame(None, frame())

    assert wire.sent == []


def test_audio_in_between_the_parts_of_a_message_is_a_broken_peer():
    connection, _, wire = fed()
    connection.on_ws_frame(None, frame(b"part", fin=False))

    with pytest.raises(WSProtocolError):
        connection.on_ws_frame(None, frame(b"whole"))
    assert wire.sent == []


def test_audio_can_be_handed_to_somebody_who_looks_at_it_first():
    connection, onward, wire = fed()
    seen = []

    class Looker(Handler):
        def on_audio(self, payload):
            seen.append(bytes(payload))
            connection.feed(onward)
            return onward.send_audio(payload)

    connection.listen(Looker())
    connection.feed(None)
    connection.on_ws_frame(None, frame(b"1"))
    connection.on_ws_frame(None, frame(b"2"))

    assert seen == [b"1"]
    assert [payload for _, payload in wire.sent] == [b"1", b"2"]


def test_a_ping_is_answered_by_the_leg_itself_and_counted_as_is_a_pong():
    connection, wire, counted = Connection(SendQueue(100), max_message_bytes=100), Wire(), []
    connection.on_ws_connected(wire)
    connection.handler = SimpleNamespace(
        on_control=lambda: counted.append(1), replay=lambda handler: None
    )

    for kind in (WSMsgType.PING, WSMsgType.PONG):
        connection.on_ws_frame(wire, frame(b"x", kind))

    assert wire.sent == [(WSMsgType.PONG, b"x")]
    assert len(counted) == 2
    connection.forget()
    connection.on_ws_frame(wire, frame(b"y", WSMsgType.PING))
    connection.on_ws_frame(Wire(), frame(b"of a socket that lingers", WSMsgType.PING))
    assert wire.sent == [(WSMsgType.PONG, b"x"), (WSMsgType.PONG, b"y")]
    assert len(counted) == 2
