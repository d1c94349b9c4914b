"""The head of a request that asks for a WebSocket (RFC 6455, section 4.2.1). Pure.

It is judged before anybody is asked who may come in: a head that cannot become a WebSocket must not
cost a ticket. What passes here always becomes a 101, because picows is given `head_for` the key and
not the bytes that came, which it would judge by rules of its own.
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
    """`target` is as it came; names of headers are in small letters."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    key: bytes


def is_asked(headers: Headers) -> bool:
    """Whether these headers ask for a WebSocket; both fields are lists, in one line or in many."""
    wanted = b"upgrade" in _tokens(headers, b"connection")
    return wanted and b"websocket" in _tokens(headers, b"upgrade")


def read_head(data: bytes) -> Head:
    """A whole head with its empty line. Raises `Refused`: 400 or 426."""
    text, end, rest = data.partition(b"\r\n\r\n")
    if not end or rest:
        raise _refuse("expected nothing after the head until it is answered")
    first, *lines = text.split(b"\r\n")
    method, target, version = _request_line(first)
    headers = [_header(line) for line in lines]
    if method != b"GET" or version != b"HTTP/1.1":
        raise _refuse("expected GET and HTTP/1.1")
    if len(_values(headers, b"host")) != 1:
        raise _refuse("expected one Host")
    if not is_asked(headers):
        raise _refuse("expected Connection: Upgrade and Upgrade: websocket")
    _check_no_body(headers)
    versions = _values(headers, b"sec-websocket-version")
    if not versions:
        raise _refuse("expected Sec-WebSocket-Version")
    if versions != [VERSION]:
        raise Refused(426, "websocket_version", "expected Sec-WebSocket-Version: 13")
    return Head(target, headers, _key(headers))


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


def _refuse(detail: str) -> Refused:
    return Refused(400, "handshake", detail)


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[1].isascii():
        raise _refuse("expected a method, a target and a version")
    return parts[0], parts[1], parts[2]


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip():
        raise _refuse("expected a name and a colon in each line")
    return name.lower(), value.strip(b" \t")


def _check_no_body(headers: Headers) -> None:
    lengths = _values(headers, b"content-length")
    if _values(headers, b"transfer-encoding") or any(length.strip(b"0") for length in lengths):
        raise _refuse("expected no body")


def _key(headers: Headers) -> bytes:
    keys = _values(headers, b"sec-websocket-key")
    try:
        if len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == KEY_BYTES:
            return keys[0]
    except binascii.Error:
        pass
    raise _refuse("expected one Sec-WebSocket-Key, 16 bytes in base64")


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for known, value in headers if known == name]


def _tokens(headers: Headers, name: bytes) -> list[bytes]:
    words = b",".join(_values(headers, name)).split(b",")
    return [word.strip(b" \t").lower() for word in words]
