"""The head of a request that asks for a WebSocket (RFC 6455, section 4.2.1). Pure.

It is judged before anybody is asked who may come in: a head that cannot become a WebSocket must not
cost a ticket. What passes here always becomes a 101, because picows is given `head_for` the key and
not the head that came, which it would judge by rules of its own.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import NamedTuple

from relay.protocol.refusal import Refused

VERSION = b"13"
KEY_BYTES = 16

Headers = Sequence[tuple[bytes, bytes]]


class Head(NamedTuple):
    """As a parser has read it: `target` as it came, names of headers in small letters."""

    method: str
    target: bytes
    version: str
    headers: Headers


def is_asked(headers: Headers) -> bool:
    """Whether these headers ask for a WebSocket; both fields are lists, in one line or in many."""
    wanted = b"upgrade" in _tokens(headers, b"connection")
    return wanted and b"websocket" in _tokens(headers, b"upgrade")


def read_key(head: Head) -> bytes:
    """Its Sec-WebSocket-Key, of a head that asks for a WebSocket. Raises `Refused`: 400 or 426."""
    headers = head.headers
    if head.method != "GET" or head.version != "1.1" or not head.target.isascii():
        raise refusal("expected GET, a target in ASCII and HTTP/1.1")
    if len(_values(headers, b"host")) != 1:
        raise refusal("expected one Host")
    lengths = _values(headers, b"content-length")
    if _values(headers, b"transfer-encoding") or any(length.strip(b"0") for length in lengths):
        raise refusal("expected no body")
    versions = _values(headers, b"sec-websocket-version")
    if not versions:
        raise refusal("expected Sec-WebSocket-Version")
    if versions != [VERSION]:
        raise Refused(426, "websocket_version", "expected Sec-WebSocket-Version: 13")
    keys = _values(headers, b"sec-websocket-key")
    try:
        if len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == KEY_BYTES:
            return keys[0]
    except binascii.Error:
        pass
    raise refusal("expected one Sec-WebSocket-Key, 16 bytes in base64")


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request's target; the absolute form is one that servers have to take."""
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/"):
        authority = path.partition(b"://")[2]
        path = b"/" + authority.partition(b"/")[2]
    return path, query


def head_for(key: bytes) -> bytes:
    """The shortest head with this key that asks for a WebSocket."""
    lines = (
        b"GET / HTTP/1.1",
        b"Host: relay",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: " + VERSION,
        b"Sec-WebSocket-Key: " + key,
    )
    return b"\r\n".join((*lines, b"", b""))


def refusal(detail: str) -> Refused:
    """A handshake that is none."""
    return Refused(400, "handshake", detail)


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value.strip(b" \t") for known, value in headers if known == name]


def _tokens(headers: Headers, name: bytes) -> list[bytes]:
    words = b",".join(_values(headers, name)).split(b",")
    return [word.strip(b" \t").lower() for word in words]
