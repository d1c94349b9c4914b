"""Handshakes of browsers, proxies and libraries: those that a standard allows, and all others."""

from __future__ import annotations

import asyncio
import re
import signal
import time

import pytest

from tests.outside.raw import (
    ACCEPT,
    KEY,
    ask,
    begin,
    connected,
    get,
    is_good,
    read_answer,
    upgrade,
)

ALLOWED = {
    "Firefox": (["Connection: keep-alive, Upgrade"], ["connection"]),
    "any case": (["CONNECTION: upGRADE", "UPGRADE: WebSocket"], ["connection", "upgrade"]),
    "no spaces": (["Connection:keep-alive,Upgrade"], ["connection"]),
    "empty members": (["Connection: , Upgrade ,,"], ["connection"]),
    "tabs": (["Connection:\tkeep-alive\t,\tUpgrade\t"], ["connection"]),
    "close as well": (["Connection: Upgrade, close"], ["connection"]),
    "in two lines": (["Connection: Upgrade", "Connection: keep-alive"], ["connection"]),
    "in two lines, the other way": (["Connection: TE", "Connection: Upgrade"], ["connection"]),
    "two protocols": (["Upgrade: websocket, h2c"], ["upgrade"]),
    "two protocols in two lines": (["Upgrade: foo/2", "Upgrade: websocket"], ["upgrade"]),
    "an extension": (["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"], []),
    "a long cookie": ([f"Cookie: a={'x' * 20_000}"], []),
    "many fields": ([f"X-Field-{number}: 1" for number in range(300)], []),
    "bytes that are no ASCII": (["X-Name: gr\xfc\xdfe"], []),
    "an empty body": (["Content-Length: 0"], []),
    "subprotocols in two lines": (
        ["Sec-WebSocket-Protocol: {ticket}", "Sec-WebSocket-Protocol: relay.v1"],
        ["protocol"],
    ),
}  # fmt: skip


@pytest.mark.timeout(120)
async def test_a_head_that_the_standard_allows_becomes_a_websocket(stage):
    relay = stage.relay(RELAY_SESSIONS_PER_ADDRESS="0")
    await relay.start()
    for name, (lines, drop) in ALLOWED.items():
        path, ticket = await begin(stage, relay)
        lines = [line.format(ticket=ticket) if "{" in line else line for line in lines]
        answer = await ask(relay.port, upgrade(path, ticket, *lines, drop=drop))
        assert (name, answer.status) == (name, 101)
        assert answer.headers["sec-websocket-accept"] == ACCEPT, name
        assert answer.headers["sec-websocket-protocol"] == "relay.v1", name
    path, ticket = await begin(stage, relay)
    whole = upgrade(path, ticket, first="GET http://127.0.0.1{} HTTP/1.1")
    assert (await ask(relay.port, whole)).status == 101
    await stage.stop_relays()


REFUSED = {
    "no key": ([], ["key"], 400),
    "a short key": (["Sec-WebSocket-Key: c2hvcnQ="], ["key"], 400),
    "a key that is no base64": (["Sec-WebSocket-Key: *" + KEY[1:]], ["key"], 400),
    "an empty key": (["Sec-WebSocket-Key:"], ["key"], 400),
    "two keys": ([f"Sec-WebSocket-Key: {KEY}"], [], 400),
    "version 12": (["Sec-WebSocket-Version: 12"], ["version"], 426),
    "version 8": (["Sec-WebSocket-Version: 8"], ["version"], 426),
    "two versions": (["Sec-WebSocket-Version: 13, 8"], ["version"], 426),
    "no version": ([], ["version"], 400),
    "no Host": ([], ["host"], 400),
    "two Hosts": (["Host: 127.0.0.1"], [], 400),
    "a body": (["Content-Length: 5\r\n\r\nhello"], [], 400),
    "a chunked body": (["Transfer-Encoding: chunked\r\n\r\n0"], [], 400),
    "a field without a colon": (["Nonsense"], [], 400),
    "a field without a name": ([": nonsense"], [], 400),
    "a folded field": (["X-Folded: a\r\n b"], [], None),
    "a NUL": (["X-Nul: a\x00b"], [], 400),
    "a cookie that is too long": ([f"Cookie: a={'x' * 40_000}"], [], 431),
    "fields that are too many": ([f"X-Field-{n}: {'x' * 100}" for n in range(400)], [], 431),
    "frames before the 101": (["", "\x81\x80\x00\x00\x00\x00"], [], 400),
}
FIRST = {
    "POST": "POST {} HTTP/1.1",
    "HTTP/1.0": "GET {} HTTP/1.0",
    "a path that is too long": "GET {}?" + "x" * 40_000 + " HTTP/1.1",
    "a path with other bytes": "GET {}\xfc HTTP/1.1",
}


@pytest.mark.timeout(120)
async def test_any_other_head_is_refused_and_costs_no_ticket(stage):
    relay = stage.relay(RELAY_SESSIONS_PER_ADDRESS="0")
    await relay.start()
    path, ticket = await begin(stage, relay)
    for name, (lines, drop, status) in REFUSED.items():
        head = upgrade(path, ticket, *lines, drop=drop)
        if name == "frames before the 101":
            head = head.removesuffix(b"\r\n\r\n")
        answer = await ask(relay.port, head)
        if status is None:
            assert 400 <= answer.status < 500, name
        else:
            assert (name, answer.status) == (name, status)
        if status == 426:
            assert answer.headers["sec-websocket-version"] == "13"
            assert answer.headers["upgrade"] == "websocket"
    for name, first in FIRST.items():
        answer = await ask(relay.port, upgrade(path, ticket, first=first))
        assert 400 <= answer.status < 500, name

    too_long = 'relay_refusals_total{code="head_too_large"}'
    assert await relay.metric(stage.http, re.escape(too_long)) == 3

    # Nothing of that has touched the ticket, and nothing is left that a stop would wait for.
    assert await is_good(relay, path, ticket)
    assert await relay.metric(stage.http, "relay_sessions_live") <= 1
    began = time.monotonic()
    relay.signal(signal.SIGTERM)
    assert await relay.end(20) == 0
    assert time.monotonic() - began < 5


@pytest.mark.timeout(120)
async def test_requests_for_another_protocol_go_on_as_http(stage):
    """Java's HttpClient and curl ask for h2c with every request; a server may pass over it."""
    relay = stage.relay()
    await relay.start()
    port = relay.port
    h2c = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    )
    assert (await get(port, "/health/live", *h2c)).status == 200
    body = b'{"timezone": "Europe/Berlin"}'
    head = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    lines = "\r\n".join(("POST /api/v1/voice/session HTTP/1.1", "Host: 127.0.0.1", *h2c, *head))
    assert (await ask(port, lines.encode() + b"\r\n\r\n" + body)).status == 201

    # One connection, one request after the other, in one piece.
    one = "\r\n".join(("GET /health/live HTTP/1.1", "Host: 127.0.0.1", *h2c, "", "")).encode()
    async with asyncio.timeout(10), connected(port) as (reader, writer):
        writer.write(one + one)
        assert [(await read_answer(reader)).status for _ in range(2)] == [200, 200]

    connect = await ask(port, b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n")
    assert 400 <= connect.status < 500

    path, ticket = await begin(stage, relay)
    plain = await get(port, path)
    assert 400 <= plain.status < 500
    assert "application/problem+json" in plain.headers["content-type"]
    half = await get(port, path, "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}")
    assert half.status == plain.status
    assert await is_good(relay, path, ticket)
    await stage.stop_relays()
