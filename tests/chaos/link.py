"""A TCP link that breaks when it is told to: between browser and relay, relay and agent, relay and
Orchestrator. It knows bytes, not WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from enum import Enum

CHUNK = 1 << 16
WINDOW = 1 << 18  # bytes that come back and wait in the kernel while they are not read
HOST = "127.0.0.1"
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Mood(Enum):
    """What happens to what is sent over the link from now on."""

    WELL = "passed on"
    REFUSING = "connections are reset as soon as they open"
    TOO_MANY = "answered with 429 by the link itself"
    SLOW = "answers come after `delay` seconds"
    GARBAGE = "answers are random bytes"
    ANSWERLESS = "the request arrives and is carried out; the connection is reset before the answer"


class Link:
    """Listens on `port` of this machine and passes on to another one; owns its tasks."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.mood = Mood.WELL
        self.delay = 0.0
        self.opened = 0  # connections so far
        self._pairs: set[_Pair] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def live(self) -> int:
        return len(self._pairs)

    async def __aenter__(self) -> Link:
        self._server = await asyncio.start_server(self._serve, HOST, 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        self.cut()
        while self._pairs:
            await asyncio.wait({pair.task for pair in self._pairs})

    def cut(self) -> None:
        """Reset every connection, at both ends."""
        for pair in self._pairs:
            pair.cut()

    def cut_one(self, chance: random.Random) -> None:
        """Reset one of them, if there is any."""
        if self._pairs:
            chance.choice(list(self._pairs)).cut()

    def mute(self) -> None:
        """From now on nothing passes on the connections that are open, and nobody is told.

        New connections pass. What was sent meanwhile is never delivered.
        """
        for pair in self._pairs:
            pair.may_go.clear()
            pair.may_come.clear()

    def stop_reading(self) -> None:
        """From now on nothing that comes back is read on the connections that are open."""
        for pair in self._pairs:
            pair.may_come.clear()

    def read_again(self) -> None:
        for pair in self._pairs:
            pair.may_come.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            await self._relay(pair, reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # cut, or the far side did it; nobody but us cancels
        finally:
            pair.cut()
            self._pairs.discard(pair)

    async def _relay(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.mood is Mood.REFUSING:
            return
        if self.mood is Mood.TOO_MANY:
            await reader.read(CHUNK)
            writer.write(TOO_MANY)
            await writer.drain()
            writer.close()
            return
        far = socket.socket()
        far.setblocking(False)
        # Not SO_RCVBUF: when a fixed buffer overflows, the kernel also drops what the far side
        # acknowledges, and nothing goes there any more.
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, WINDOW)
        try:
            await asyncio.get_running_loop().sock_connect(far, (HOST, self.target))
            far_reader, far_writer = await asyncio.open_connection(sock=far)
        except BaseException:  # cut while it is being opened
            far.close()
            raise
        pair.writers.append(far_writer)

        async def there() -> None:
            await _pump(pair.may_go, reader, far_writer, _as_it_is)

        async def back() -> None:
            await _pump(pair.may_come, far_reader, writer, self._answer)

        with contextlib.suppress(BaseExceptionGroup):  # resets: what links do
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(there(), name="link there")
                tasks.create_task(back(), name="link back")

    async def _answer(self, chunk: bytes) -> bytes:
        match self.mood:
            case Mood.SLOW:
                await asyncio.sleep(self.delay)
            case Mood.GARBAGE:
                return os.urandom(200)
            case Mood.ANSWERLESS | Mood.REFUSING:
                raise ConnectionResetError
            case Mood.WELL | Mood.TOO_MANY:
                pass
        return chunk


class _Pair:
    """One connection: both its ends, and whether bytes pass."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.writers = [writer]
        self.may_go, self.may_come = asyncio.Event(), asyncio.Event()
        self.may_go.set()
        self.may_come.set()
        self._is_cut = False

    def cut(self) -> None:
        """Both ends are reset, now. Again: nothing."""
        if self._is_cut:
            return
        self._is_cut = True
        for writer in self.writers:
            opened = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        if self.task is not asyncio.current_task():
            self.task.cancel()


async def _as_it_is(chunk: bytes) -> bytes:
    return chunk


async def _pump(
    may_pass: asyncio.Event,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    change: Callable[[bytes], Awaitable[bytes]],
) -> None:
    while chunk := await reader.read(CHUNK):
        await may_pass.wait()
        answer = await change(chunk)
        if writer.is_closing():
            return
        writer.write(answer)
        await writer.drain()
    await may_pass.wait()
    if writer.can_write_eof():
        writer.write_eof()
