"""Heads of handshakes, right and wrong."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picows.picows import (  # type: ignore[attr-defined]  # not in its stubs
    _parse_http_request,
    _validate_upgrade_request,
)

from relay.protocol.refusal import Refused
from relay.transport.request_head import Head, head_for, is_asked, read_key, split_target

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = (
    (b"host", b"relay"),
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", KEY),
)


def head(*more, method="GET", target=b"/a?b=c", version="1.1", without=()):
    kept = [(name, value) for name, value in FIELDS if name not in without]
    return Head(method, target, version, [*kept, *((n.lower(), v) for n, v in more)])


def test_the_key_is_read():
    spaced = head((b"Sec-WebSocket-Key", b" \t%s\t " % KEY), without=[b"sec-websocket-key"])

    assert read_key(head()) == read_key(spaced) == KEY


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (head(target=b"/\xff"), 400),
        (head(method="POST"), 400),
        (head(version="1.0"), 400),
        (head((b"Host", b"other")), 400),
        (head(without=[b"host"]), 400),
        (head(without=[b"sec-websocket-version"]), 400),
        (head((b"Sec-WebSocket-Version", b"13")), 426),
        (head((b"Sec-WebSocket-Version", b"14"), without=[b"sec-websocket-version"]), 426),
        (head(without=[b"sec-websocket-key"]), 400),
        (head((b"Sec-WebSocket-Key", KEY)), 400),
        (head((b"Sec-WebSocket-Key", b"YQ=="), without=[b"sec-websocket-key"]), 400),
        (head((b"Sec-WebSocket-Key", b"a\xff"), without=[b"sec-websocket-key"]), 400),
        (head((b"Content-Length", b"1")), 400),
        (head((b"Content-Length", b"0"), (b"Content-Length", b"2")), 400),
        (head((b"Transfer-Encoding", b"chunked")), 400),
    ],
)
def test_what_cannot_become_a_websocket_is_refused(asked, status):
    with pytest.raises(Refused) as caught:
        read_key(asked)

    assert caught.value.status == status


@given(st.binary())
def test_any_bytes_are_a_head_or_refused(data):
    for name in (b"sec-websocket-key", b"sec-websocket-version", b"content-length"):
        with contextlib.suppress(Refused):
            read_key(head((name, data), target=data, without=[name]))


@given(st.binary(min_size=16, max_size=16))
def test_what_passes_is_taken_by_picows(key):
    text = base64.b64encode(key)
    key = read_key(head((b"Sec-WebSocket-Key", text), without=[b"sec-websocket-key"]))

    request = _parse_http_request(head_for(key).removesuffix(b"\r\n\r\n"))
    assert _validate_upgrade_request(request)


@pytest.mark.parametrize(
    ("connection", "upgrade", "asked"),
    [
        (b"keep-alive, Upgrade", b"WebSocket", True),
        (b"upgrade", b"h2c,websocket", True),
        (b"keep-alive", b"websocket", False),
        (b"Upgrade", b"h2c", False),
        (b"Upgrades", b"websocket", False),
        (b"Upgrade", b"websocket/13", False),
    ],
)
def test_the_fields_are_lists(connection, upgrade, asked):
    assert is_asked([(b"connection", connection), (b"upgrade", upgrade)]) is asked


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/a?b=c?d", (b"/a", b"b=c?d")),
        (b"http://host/a/b?c", (b"/a/b", b"c")),
        (b"http://host", (b"/", b"")),
        (b"*", (b"/", b"")),
    ],
)
def test_a_target_has_a_path_and_a_query(target, parts):
    assert split_target(target) == parts
