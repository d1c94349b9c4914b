"""Frames against the server seam, by a client of another make: wsproto over a bare socket.

wsproto will not make most of what is wrong, so frames are made here, after RFC 6455 section 5.2; it
does the handshake and reads what the relay answers. Whatever one browser sends, another goes on.
"""

from __future__ import annotations

import asyncio
import json
import struct
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Pong,
    Request,
    TextMessage,
)

from relay.protocol.relay_events import SUBPROTOCOL
from tests.relay.wires import TICKET, agent_and_relay, next_event

CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LIMIT = 256 * 1024  # LIMITS has the default of RELAY_BROWSER_MESSAGE_BYTES
KEY = b"\x0f\xf0\x5a\xa5"


def frame(opcode, payload=b"", *, fin=True, reserved=0, masked=True, length=None):
    """One frame; `length` is what is announced, whatever there is."""
    size = len(payload) if length is None else length
    first, mask = (fin << 7) | (reserved << 4) | opcode, masked << 7
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    if not masked:
        return head + payload
    pad = (KEY * (len(payload) // 4 + 1))[: len(payload)]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return head + KEY + number.to_bytes(len(payload), "big")


def parts(opcode, *pieces):
    """A message in parts."""
    kinds = [opcode] + [CONTINUED] * (len(pieces) - 1)
    last = len(pieces) - 1
    return [
        frame(kind, piece, fin=at == last)
        for at, (kind, piece) in enumerate(zip(kinds, pieces, strict=True))
    ]


def goodbye(code, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


class Peer:
    """A browser: wsproto reads, the test writes bytes."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer
        self.wire = WSConnection(ConnectionType.CLIENT)
        self._events = iter(())

    async def open(self, port, session_id):
        target = f"/api/v1/voice/session/{session_id}/ws"
        asked = Request(host=f"127.0.0.1:{port}", target=target, subprotocols=[SUBPROTOCOL, TICKET])
        self.writer.write(self.wire.send(asked))
        accepted = await self.event(AcceptConnection)
        assert accepted.subprotocol == SUBPROTOCOL
        await self.told("SettingsApplied")

    async def event(self, kind):
        """The next event of a kind; the end of the connection is a CloseConnection with None."""
        async with asyncio.timeout(2):
            while True:
                for event in self._events:
                    if isinstance(event, kind):
                        return event
                data = await self._read()
                if data is None and kind is CloseConnection:
                    return CloseConnection(code=None)
                assert data is not None, f"the connection ended before {kind.__name__}"
                self.wire.receive_data(data)
                self._events = self.wire.events()

    async def _read(self):
        try:
            return await self.reader.read(65536) or None
        except ConnectionError:
            return None

    async def told(self, kind):
        while True:
            event = json.loads((await self.event(TextMessage)).data)
            if event["type"] == kind:
                return event

    async def send(self, *frames):
        for one in frames:
            self.writer.write(one)
        await self.writer.drain()

    async def closed(self):
        """The code of the close frame, after which the relay hangs up; "open": there was none."""
        try:
            said = await self.event(CloseConnection)
        except TimeoutError:
            return "open"
        async with asyncio.timeout(5):
            while await self._read() is not None:
                pass
        return said.code


@asynccontextmanager
async def peer(relay):
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    one = Peer(reader, writer)
    try:
        await one.open(relay.port, uuid4())
        yield one
    finally:
        writer.transport.abort()


async def test_messages_in_parts_arrive_whole_with_control_frames_in_between():
    async with agent_and_relay() as (agent, relay), peer(relay) as browser:
        said = json.dumps({"type": "InjectUserMessage", "content": "gr\u00fc\u00dfe"}).encode()
        cut = json.dumps({"type": "InjectUserMessage", "content": "\u00fc"}, ensure_ascii=False)
        cut = cut.encode()
        inside = cut.index("\u00fc".encode()) + 1  # in the middle of a character
        first, second, third = parts(TEXT, said[:5], said[5:9], said[9:])
        await browser.send(first, frame(PING, b"one"), second, frame(PONG, b"unasked"), third)
        assert (await browser.event(Pong)).payload == b"one"
        await browser.send(*parts(TEXT, cut[:inside], b"", cut[inside:]))
        await agent.until(lambda: len(agent.texts) == 3)
        assert [m["content"] for m in agent.texts[1:]] == ["gr\u00fc\u00dfe", "\u00fc"]

        first, second, third = parts(BINARY, bytes(2), b"\x01\x02", bytes(4))
        await browser.send(frame(BINARY, b"ab"), first, second, frame(PING), third)
        await browser.send(frame(BINARY, b"cd"), *parts(BINARY, b"ef", b""))
        await agent.until(lambda: sum(map(len, agent.audio)) == 14)
        assert b"".join(agent.audio) == b"ab\0\0\x01\x02\0\0\0\0cdef"


@pytest.mark.parametrize("size", [0, 1, 125])
async def test_a_ping_is_answered_with_its_payload(size):
    async with agent_and_relay() as (_, relay), peer(relay) as browser:
        await browser.send(frame(PING, bytes(range(size))))
        assert (await browser.event(Pong)).payload == bytes(range(size))


async def test_the_agent_is_answered_too():
    async with agent_and_relay() as (agent, relay), peer(relay):
        async with asyncio.timeout(5):
            await (await agent.connections[0].ping(b"from the agent"))


async def test_frames_before_the_101_are_refused_whenever_they_come():
    """The ticket is being looked at: it may be lost, but nothing is left behind."""
    async with agent_and_relay() as (_, relay):
        relay.may_answer.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        target = f"/api/v1/voice/session/{uuid4()}/ws"
        asked = Request(host="relay", target=target, subprotocols=[SUBPROTOCOL, TICKET])
        writer.write(WSConnection(ConnectionType.CLIENT).send(asked))
        async with asyncio.timeout(5):
            await relay.asked.wait()
            writer.write(frame(BINARY, b"early"))
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        relay.may_answer.set()
        async with asyncio.timeout(5):
            while relay.server.server_state.connections or relay.server.server_state.tasks:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        writer.close()


async def test_bytes_may_come_one_by_one():
    async with agent_and_relay() as (agent, relay), peer(relay) as browser:
        for byte in frame(BINARY, b"slow") + frame(PING, b"p"):
            await browser.send(bytes([byte]))
        assert (await browser.event(Pong)).payload == b"p"
        await agent.until(lambda: agent.audio == [b"slow"])


BROKEN = {
    "a ping with a reserved bit": ([frame(PING, b"x", reserved=1)], 1002),
    "a frame without a mask": ([frame(BINARY, b"ab", masked=False)], 1002),
    "a ping without a mask": ([frame(PING, b"ab", masked=False)], 1002),
    "text without a mask": ([frame(TEXT, b"{}", masked=False)], 1002),
    "a continuation of nothing": ([frame(CONTINUED, b"ab")], 1002),
    "a continuation after the end": ([*parts(BINARY, b"a", b"b"), frame(CONTINUED, b"c")], 1002),
    "a message inside another": ([frame(TEXT, b"{", fin=False), frame(TEXT, b"}")], 1002),
    "audio inside a text": ([frame(TEXT, b"{", fin=False), frame(BINARY, b"ab")], 1002),
    "text inside audio": ([frame(BINARY, b"ab", fin=False), frame(TEXT, b"{}")], 1002),
    "text that is not UTF-8": ([frame(TEXT, b"\xff\xfe")], 1007),
    "a character that is cut off": ([frame(TEXT, b"\xc3")], 1007),
    "a surrogate": ([frame(TEXT, b"\xed\xa0\x80")], 1007),
    "parts that are not UTF-8": (parts(TEXT, b"ab\xc3", b"", b"\x28"), 1007),
    "a frame that is too big": ([frame(BINARY, bytes(LIMIT + 2))], 1009),
    "one that says so only": ([frame(BINARY, length=1 << 40)], 1009),
    "a length with the highest bit": ([frame(BINARY, length=(1 << 63) + 1)], 1002),
    "a text that is too big": ([frame(TEXT, b" " * (LIMIT + 1))], 1009),
    "parts that are too big": (parts(BINARY, *[bytes(LIMIT // 4)] * 5), 1009),
    "texts that are too big": (parts(TEXT, *[b" " * (LIMIT // 4)] * 5), 1009),
    **{
        f"reserved bit {bit} in {name}": ([frame(kind, b"{}", reserved=bit)], 1002)
        for bit in (1, 2, 4)
        for name, kind in (("a text", TEXT), ("audio", BINARY))
    },
    "a reserved bit amid audio": (
        [
            *[frame(BINARY, b"ab")] * 20,
            frame(BINARY, b"xx", reserved=4),
            *[frame(BINARY, b"ab")] * 20,
        ],
        1002,
    ),
    "a reserved bit in a part": (
        [frame(BINARY, b"a", fin=False), frame(CONTINUED, b"b", reserved=2)],
        1002,
    ),
    **{f"opcode {code}": ([frame(code, b"ab")], 1002) for code in (3, 4, 5, 6, 7, 11, 12, 15)},
    "a long ping": ([frame(PING, bytes(126))], 1002),
    "a long pong": ([frame(PONG, bytes(126))], 1002),
    "a long close": ([goodbye(1000, bytes(124))], 1002),
    "a ping in parts": ([frame(PING, b"a", fin=False)], 1002),
    "a close in parts": ([frame(CLOSE, fin=False)], 1002),
    "half a code": ([frame(CLOSE, b"\x03")], 1002),
    "a reason that is not UTF-8": ([goodbye(1000, b"\xff")], 1007),
    **{f"code {code}": ([goodbye(code)], 1002) for code in (0, 999, 1004, 1005, 1006, 1015)},
    **{f"code {code}": ([goodbye(code)], 1002) for code in (1016, 2999, 5000, 65535)},
}


async def test_what_is_broken_ends_its_own_socket_with_the_code_for_it():
    async with agent_and_relay() as (agent, relay), relay.attach() as neighbour:
        await next_event(neighbour, "SettingsApplied")
        before = agent.connections[-1]
        got = {}
        for name, (frames, _) in BROKEN.items():
            async with peer(relay) as browser:
                await browser.send(*frames)
                got[name] = await browser.closed()
            await neighbour.send(name.encode())
            await agent.until(partial(agent.audio.__contains__, name.encode()))
        assert got == {name: code for name, (_, code) in BROKEN.items()}
        assert before.close_code is None
        assert b"xx" not in agent.audio


CLOSES = {
    "no code": (frame(CLOSE), {None, 1000, 1005}),
    **{
        f"code {code}": (goodbye(code, b"bye"), {code})
        for code in (1000, 1001, 1003, 1007, 1011, 3000, 4999)
    },
    "the longest reason": (goodbye(1000, b"x" * 123), {1000}),
}


async def test_a_good_close_is_answered_with_its_code():
    async with agent_and_relay() as (_, relay), relay.attach() as neighbour:
        await next_event(neighbour, "SettingsApplied")
        for name, (sent, codes) in CLOSES.items():
            async with peer(relay) as browser:
                await browser.send(sent)
                assert await browser.closed() in codes, name
        await (await neighbour.ping())
