"""Heads of handshakes, right and wrong."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picows.picows import _parse_http_request, _validate_upgrade_request

from relay.protocol.refusal import Refused
from relay.transport.request_head import head_for, is_asked, read_head, split_target

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
FIRST = b"GET /a?b=c HTTP/1.1"
FIELDS = (
    (b"Host", b"relay"),
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", KEY),
)


def head(*more, first=FIRST, without=()):
    kept = [(name, value) for name, value in FIELDS if name not in without]
    lines = [first, *(b"%s: %s" % field for field in (*kept, *more))]
    return b"\r\n".join((*lines, b"", b""))


def test_a_head_is_read():
    read = read_head(head((b"X-Field", b" \tvalue\t ")))

    assert read.target == b"/a?b=c"
    assert read.key == KEY
    assert read.headers[-1] == (b"x-field", b"value")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 400),
        (head() + b"\x81\x80", 400),
        (head(first=b"GET"), 400),
        (head(first=b"GET /\xff HTTP/1.1"), 400),
        (head(first=b"POST / HTTP/1.1"), 400),
        (head(first=b"GET / HTTP/1.0"), 400),
        (head((b"Host", b"other")), 400),
        (head(without=[b"Host"]), 400),
        (head(without=[b"Connection"]), 400),
        (head(without=[b"Upgrade"]), 400),
        (head(without=[b"Sec-WebSocket-Version"]), 400),
        (head((b"Sec-WebSocket-Version", b"13")), 426),
        (head((b"Sec-WebSocket-Version", b"14"), without=[b"Sec-WebSocket-Version"]), 426),
        (head(without=[b"Sec-WebSocket-Key"]), 400),
        (head((b"Sec-WebSocket-Key", KEY)), 400),
        (head((b"Sec-WebSocket-Key", b"YQ=="), without=[b"Sec-WebSocket-Key"]), 400),
        (head((b"Sec-WebSocket-Key", b"a\xff"), without=[b"Sec-WebSocket-Key"]), 400),
        (head((b"Content-Length", b"1")), 400),
        (head((b"Content-Length", b"0"), (b"Content-Length", b"2")), 400),
        (head((b"Transfer-Encoding", b"chunked")), 400),
        (b"GET / HTTP/1.1\r\nnonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: a\r\n\r\n", 400),
    ],
)
def test_what_cannot_become_a_websocket_is_refused(data, status):
    with pytest.raises(Refused) as caught:
        read_head(data)

    assert caught.value.status == status


@given(st.binary())
def test_any_bytes_are_a_head_or_refused(data):
    for text in (data, head((b"x", data)), head((data, b"x")), head(first=data)):
        with contextlib.suppress(Refused):
            read_head(text)


@given(st.binary(min_size=16, max_size=16))
def test_what_passes_is_taken_by_picows(key):
    text = base64.b64encode(key)
    read = read_head(head((b"Sec-WebSocket-Key", text), without=[b"Sec-WebSocket-Key"]))

    request = _parse_http_request(head_for(read.key).removesuffix(b"\r\n\r\n"))
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
