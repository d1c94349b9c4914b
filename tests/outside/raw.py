"""Requests as bytes: what no well-behaved library would send."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import NamedTuple

from tests.chaos.link import HOST

API = "/api/v1/voice"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@asynccontextmanager
async def connected(port, host=HOST):
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_answer(reader, *, has_body=True):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    status = int(first.split(" ")[1])
    size = int(headers.get("content-length", 0)) if has_body and status != 101 else 0
    return Answer(status, headers, await reader.readexactly(size))


async def ask(port, data, *, has_body=True, host=HOST):
    """What is answered to these bytes; the connection is cut then."""
    async with asyncio.timeout(20), connected(port, host) as (reader, writer):
        writer.write(data)
        return await read_answer(reader, has_body=has_body)


async def get(port, target, *lines, method="GET", host=HOST, name="127.0.0.1"):
    """One plain request; `lines` are more of its head."""
    head = "\r\n".join((f"{method} {target} HTTP/1.1", f"Host: {name}", *lines, "", ""))
    return await ask(port, head.encode("latin-1"), has_body=method != "HEAD", host=host)


def upgrade(path, ticket, *lines, drop=(), first="GET {} HTTP/1.1"):
    """The head of a handshake: the usual fields but those dropped, then `lines`."""
    usual = {
        "host": "Host: 127.0.0.1",
        "connection": "Connection: Upgrade",
        "upgrade": "Upgrade: websocket",
        "version": "Sec-WebSocket-Version: 13",
        "key": f"Sec-WebSocket-Key: {KEY}",
        "protocol": f"Sec-WebSocket-Protocol: relay.v1, {ticket}",
    }
    kept = [line for name, line in usual.items() if name not in drop]
    return "\r\n".join((first.format(path), *kept, *lines, "", "")).encode("latin-1")


async def begin(stage, relay, **headers):
    """A session of its own: the path of its WebSocket and its ticket."""
    answer = await stage.http.post(f"{relay.url}{API}/session", headers=headers)
    assert answer.status_code == 201, answer.text
    begun = answer.json()
    return f"{API}/session/{begun['session_id']}/ws", begun["ticket"]


async def is_good(relay, path, ticket):
    """Whether this ticket still opens its WebSocket. It is used up then."""
    return (await ask(relay.port, upgrade(path, ticket))).status == 101
