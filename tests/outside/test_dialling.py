"""How the agent's WebSocket is opened: heads of a 101 that a standard allows, peers that hang up in
the middle, names with dead addresses, names that are none."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import struct
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from relay.transport.connection import Connection
from relay.transport.connection_handler import Handler
from relay.transport.dial import DialFailed, Dialler
from relay.transport.send_queue import SendQueue
from tests.closed_network import agent_with, egress_of, socks_proxy

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
WELCOME = b'{"type":"Welcome","request_id":"r"}'


@asynccontextmanager
async def server(handle, tls=None):
    """Each connection is `handle`d and then closed; yields the port."""

    async def serve(reader, writer):
        try:
            await handle(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # who dials has hung up
        finally:
            writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with running:
        yield running.sockets[0].getsockname()[1]


async def dial(port, *, scheme="ws", host="127.0.0.1", seconds=5.0, **variables):
    """The leg of an agent; it is open."""
    connection = Connection(SendQueue(1024), max_message_bytes=1 << 20)
    egress = egress_of(**variables)
    url = f"{scheme}://{host}:{port}/v1/agent/converse"
    dialler = Dialler(
        url,
        lambda: "key",
        ping_seconds=5,
        seconds=seconds,
        max_message_bytes=1 << 20,
        egress=egress,
    )
    await dialler.dial(connection)
    assert connection.is_open
    return connection


async def failure(port, **how):
    async with asyncio.timeout(3):
        with pytest.raises(DialFailed) as caught:
            (await dial(port, **how)).abort()
    return caught.value


def answering(*lines, status=b"101 Switching Protocols", pieces=1, then=b""):
    """Answers with these lines, `%s` in one of them being the proof; stays until the other end."""

    async def handle(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        start = head.lower().index(b"sec-websocket-key:") + len(b"sec-websocket-key:")
        key = head[start:].split(b"\r\n")[0].strip()
        proof = base64.b64encode(hashlib.sha1(key + GUID).digest())
        said = [b"HTTP/1.1 " + status, *(line.replace(b"%s", proof) for line in lines), b"", b""]
        answer = b"\r\n".join(said) + then
        size = -(-len(answer) // pieces)
        for at in range(0, len(answer), size):
            writer.write(answer[at : at + size])
            await writer.drain()
        await reader.read()

    return handle


PROOF = b"Sec-WebSocket-Accept: %s"
HEADS = {
    "plain": (b"Upgrade: websocket", b"Connection: Upgrade", PROOF),
    "a list": (b"Upgrade: websocket", b"Connection: keep-alive, Upgrade", PROOF),
    "a list, the other way": (b"Upgrade: websocket", b"Connection: Upgrade,keep-alive", PROOF),
    "any case": (b"UPGRADE: WebSocket", b"connection: UPGRADE", PROOF),
    "several lines": (
        b"Connection: keep-alive",
        PROOF,
        b"Upgrade: WebSocket",
        b"Connection: upgrade",
    ),
    "empty elements": (b"Upgrade: websocket", b"Connection: , upgrade ,,", PROOF),
    "tabs": (b"Upgrade:\twebsocket\t", b"Connection:keep-alive\t,\tUpgrade", PROOF),
    "a list of protocols": (b"Upgrade: h2c, websocket", b"Connection: upgrade", PROOF),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("pieces", [1, 7])
async def test_a_101_with_lists_of_words_opens_and_what_follows_it_is_heard(name, pieces):
    frame = b"\x81" + bytes([len(WELCOME)]) + WELCOME
    heard = asyncio.Event()
    async with server(answering(*HEADS[name], pieces=pieces, then=frame)) as port:
        connection = Connection(SendQueue(1024), max_message_bytes=1 << 20)
        texts = []

        class Hearing(Handler):
            def on_text(self, text):
                texts.append(text)
                heard.set()

        connection.listen(Hearing())
        url = f"ws://127.0.0.1:{port}/"
        await Dialler(
            url, lambda: "key", ping_seconds=5, seconds=5, max_message_bytes=1 << 20
        ).dial(connection)
        async with asyncio.timeout(3):
            await heard.wait()
        connection.abort()

        assert texts == [WELCOME]


@pytest.mark.parametrize(
    "lines",
    [
        (b"Upgrade: websocket", b"Connection: keep-alive", PROOF),
        (b"Upgrade: websockets", b"Connection: upgrade", PROOF),
        (b"Upgrade: websocket", PROOF),
        (b"Connection: upgrade", PROOF),
        (b"Upgrade: websocket", b"Connection: upgrade", b"Sec-WebSocket-Accept: no"),
        (b"Upgrade: websocket", b"Connection: upgrade", PROOF, b"X: " + b"x" * (20 << 10)),
    ],
)
async def test_a_101_that_is_none_is_still_refused(lines):
    async with server(answering(*lines)) as port:
        assert "WS" in str(await failure(port))


async def test_a_long_answer_over_tls_through_a_proxy_is_read_whole(authority, proxy):
    more = [f"X-Number-{number}: {'x' * 100}".encode() for number in range(60)]
    lines = (b"Upgrade: websocket", b"Connection: close, upgrade", PROOF, *more)
    handle = answering(*lines, pieces=20)
    async with server(handle, authority.issue()) as port:
        ways = {"RELAY_EGRESS_PROXY": proxy.url, "RELAY_TLS_CA_FILE": str(authority.file)}
        (await dial(port, scheme="wss", host="agent.example", **ways)).abort()


def reset(writer):
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    writer.transport.abort()


HALF = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso"
MOMENTS = {
    "before the request": (0, b""),
    "after the request": (1, b""),
    "in the status line": (1, HALF[:12]),
    "in the middle of the head": (1, HALF),
    "before the last line": (1, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"),
}


def hanging_up(moment, how):
    reads, said = MOMENTS[moment]

    async def handle(reader, writer):
        if reads:
            await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        if how == "RST":
            reset(writer)

    return handle


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_peer_that_hangs_up_before_its_answer_is_a_failed_dial_at_once(moment, how):
    async with server(hanging_up(moment, how)) as port:
        assert str(await failure(port)).startswith("reset: ")


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_peer_behind_tls_that_hangs_up_is_a_failed_dial_at_once(authority, moment, how):
    tls = authority.issue("localhost")
    async with server(hanging_up(moment, how), tls) as port:
        ca = str(authority.file)
        failed = await failure(port, scheme="wss", host="localhost", RELAY_TLS_CA_FILE=ca)
        assert str(failed).split(":")[0] in ("reset", "tls")


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_peer_that_hangs_up_in_the_tls_handshake_is_a_failed_dial_at_once(how):
    async def handle(reader, writer):
        await reader.read(1)
        if how == "RST":
            reset(writer)

    async with server(handle) as port:
        failed = await failure(port, scheme="wss")
        assert str(failed).split(":")[0] in ("reset", "tls")


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_peer_behind_a_proxy_that_hangs_up_is_a_failed_dial_at_once(proxy, moment, how):
    async with server(hanging_up(moment, how)) as port, socks_proxy() as socks:
        for way in (proxy.url, socks.url):
            await failure(port, host="agent.example", RELAY_EGRESS_PROXY=way)


CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("said", [b"", CONNECTED[:20], CONNECTED])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_proxy_that_hangs_up_is_a_failed_dial_at_once(scheme, said, how):
    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        if how == "RST":
            reset(writer)

    async with server(handle) as port:
        way = f"http://127.0.0.1:{port}"
        await failure(1, scheme=scheme, host="agent.example", RELAY_EGRESS_PROXY=way)


class Unaccepted:
    """Opens sockets that nobody accepts, and closes them all in the end."""

    def __enter__(self):
        self.sockets = []
        return self.open

    def open(self, address):
        opened = socket.socket()
        opened.setblocking(False)
        opened.connect_ex(address)
        self.sockets.append(opened)

    def __exit__(self, *exc):
        for opened in self.sockets:
            opened.close()


async def test_one_dead_address_of_a_name_costs_a_moment_and_not_the_time_limit(monkeypatch):
    """The first never answers a SYN: it is a listener whose queue is full."""
    with socket.socket() as dead, Unaccepted() as fill:
        dead.bind(("127.0.0.2", 0))
        port = dead.getsockname()[1]
        dead.listen(0)
        for _ in range(8):
            fill(("127.0.0.2", port))
        async with agent_with(None, port=port) as (agent, _):
            loop = asyncio.get_running_loop()

            async def two_addresses(host, wanted, **more):
                kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
                return [(*kind, (address, wanted)) for address in ("127.0.0.2", "127.0.0.1")]

            monkeypatch.setattr(loop, "getaddrinfo", two_addresses)
            began = loop.time()
            connection = await dial(port, host="agent.test")
            took = loop.time() - began
            connection.abort()

            assert took < 2.0
            assert len(agent.connections) == 1


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "ü" * 64 + ".example"])
async def test_what_can_be_no_name_is_a_failed_dial(host):
    assert str(await failure(80, host=host)).startswith("dns: ")


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        (b"Retry-After: 3", 3, 3),
        (b"retry-after: 0", 0, 0),
        (b"Retry-After: soon", 0, 0),
        (b"Retry-After: -5", 0, 0),
        (b"Retry-After: " + b"9" * 400, 100, float("inf")),
        (b"X: y", 0, 0),
    ],
)
async def test_a_refusal_says_how_long_to_stay_away(said, least, most):
    async with server(answering(said, status=b"429 Too Many Requests")) as port:
        failed = await failure(port)

        assert failed.status == 429
        assert least <= failed.retry_after <= most


async def test_a_refusal_may_say_it_with_a_date():
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True).encode()
    async with server(answering(b"Retry-After: " + at, status=b"503 Away")) as port:
        assert 50 < (await failure(port)).retry_after <= 60
