from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.protocol import deepgram
from relay.protocol.relay_events import RelayCancel, RelayConfirm, RelayPlayout, decode_browser

ID = UUID(int=7)


@pytest.mark.parametrize("decision", [RelayConfirm, RelayCancel])
def test_a_decision_is_read_as_it_is_written(decision):
    assert decode_browser(deepgram.encode(decision(id=ID))) == decision(id=ID)


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"RelayConfirm"}',
        b'{"type":"RelayCancel","id":"not one"}',
        b'{"type":"RelayCancel","id":7}',
    ],
)
def test_a_decision_about_nothing_is_malformed(text):
    message = decode_browser(text)

    assert isinstance(message, deepgram.Malformed)
    assert message.type.startswith("Relay")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"type":"KeepAlive"}', deepgram.KeepAlive()),
        (b'{"type":"RelaySession"}', deepgram.Unknown("RelaySession")),
        (b"[]", deepgram.Malformed),
    ],
)
def test_all_else_is_deepgrams(text, message):
    found = decode_browser(text)

    assert found == message or (isinstance(message, type) and isinstance(found, message))


@pytest.mark.parametrize("seconds", [0.0, 0.18, 60.0])
def test_a_play_out_is_read_as_it_is_written(seconds):
    assert decode_browser(deepgram.encode(RelayPlayout(seconds=seconds))) == RelayPlayout(
        seconds=seconds
    )


@pytest.mark.parametrize(
    "value", ["-0.001", "60.001", "1e999", '"1"', "true", "null", "[1]", "NaN"]
)
def test_a_play_out_that_is_no_time_is_malformed(value):
    message = decode_browser(b'{"type":"RelayPlayout","seconds":%s}' % value.encode())

    assert isinstance(message, deepgram.Malformed)
    assert isinstance(decode_browser(b'{"type":"RelayPlayout"}'), deepgram.Malformed)


@given(st.binary())
def test_no_bytes_make_it_raise(data):
    decode_browser(data)
    decode_browser(b'{"type":"RelayConfirm","id":' + data)
