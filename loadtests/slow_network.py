"""A network with a delay: a TCP proxy on this machine between a browser and whom it talks to.

Load tests. Half of the round trip is spent on each way, so an answer comes one round trip after its
question. Opening a connection costs one, too, as SYN and its answer do: what was sent before that
waits. Bandwidth is not limited, and nothing is lost.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loadtests.processes import HOST

CHUNK = 65_536


class SlowNetwork:
    """The way to one port of this machine. `round_trip`, in seconds, may change at any time."""

    def __init__(self, target: int) -> None:
        self.round_trip = 0.0
        self.port = 0
        self._target = target
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SlowNetwork]:
        """Connections to `port` are passed on while inside, and cut at the end."""
        server = await asyncio.start_server(self._take_in, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            if self._connections:
                await asyncio.wait(self._connections)

    async def _take_in(self, reader: StreamReader, writer: StreamWriter) -> None:
        opened = asyncio.get_running_loop().time() + self.round_trip
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()  # nobody listens there, as without us
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._writers |= {writer, back}
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass_on(reader, back, opened), name="up")
                ways.create_task(self._pass_on(there, writer, opened), name="down")
        finally:
            self._connections.discard(task)
            self._writers -= {writer, back}

    async def _pass_on(self, reader: StreamReader, writer: StreamWriter, opened: float) -> None:
        """One way, in order, until its end."""
        clock = asyncio.get_running_loop().time
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def arrive() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - clock())
                if not data:
                    return writer.close()
                if not writer.is_closing():  # that side has hung up: it is for nobody
                    writer.write(data)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(arrive(), name="arrive")
            data = b"?"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except OSError:
                    data = b""  # that side is gone
                sent = max(clock(), opened)
                under_way.put_nowait((sent + self.round_trip / 2, data))
