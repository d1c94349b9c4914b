"""A browser that came to one worker, for a session that another has: its socket goes there.

The workers of one parent share a listener, so a browser reaches any of them. Who does not have its
session asks the others, over a socket of each in the folder that only our account may enter, and
who has it gets the connection itself (SCM_RIGHTS) with the head that was read. What a browser says
can name nothing but a session, and whoever gets it judges it from the start.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import msgspec

from control.http.siblings import Siblings
from relay.supervisor import Contained, Supervisor
from relay.transport.request_head import Head
from relay.transport.upgrade import Handshake

SUFFIX = ".browsers"
ASK_SECONDS = 2.0  # of one that hangs; then the session is begun or taken over where the browser is
WAITING = 1024  # who may wait to be answered
MOST_BYTES = 64 * 1024  # of a head, with what packs it
YES = b"yes"

Take = Callable[[socket.socket, Head], Awaitable[None]]

_heads = msgspec.msgpack.Decoder(Head)


class HandOver:
    """`has` says whether a session is here; `count` hears of each browser that was given away. A
    worker without siblings keeps all of them."""

    def __init__(
        self,
        siblings: Siblings | None,
        has: Callable[[UUID], bool],
        supervisor: Supervisor,
        *,
        count: Callable[[], None],
    ) -> None:
        self._siblings = siblings
        self._has = has
        self._supervisor = supervisor
        self._count = count
        self.take: Take | None = None  # gets what others give, once there is a server

    def __repr__(self) -> str:
        return f"<HandOver of {self._siblings!r}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The others are answered while inside."""
        if self._siblings is None:
            yield
            return
        path = self._siblings.path(SUFFIX)
        path.unlink(missing_ok=True)  # of the one in whose place we are
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.setblocking(False)
            listener.bind(str(path))
            listener.listen(WAITING)
            async with (
                self._supervisor.containing("hand-over", seconds=ASK_SECONDS) as tasks,
                self._supervisor.repeating(
                    "hand-overs",
                    partial(self._accept, listener, tasks),
                    pause=partial(asyncio.sleep, 0),
                ),
            ):
                yield

    async def offer(self, session_id: UUID, handshake: Handshake) -> bool:
        """Give the browser to the worker that has the session. False: none has it, or there is none
        any more, and the browser is ours."""
        if self._siblings is None or handshake.is_handed_over:
            return False
        asked = [
            asyncio.create_task(_ask(path, session_id), name=f"hand-over {session_id}")
            for path in self._siblings.others(SUFFIX)
        ]
        try:
            for answer in asyncio.as_completed(asked):
                wire = await answer
                if wire is not None:
                    has_gone = handshake.hand_over(partial(_give, wire))
                    if has_gone:
                        self._count()
                    return has_gone
        finally:
            for task in asked:
                task.cancel()
                task.add_done_callback(_hang_up)
        return False

    async def _accept(self, listener: socket.socket, tasks: Contained) -> None:
        wire, _ = await asyncio.get_running_loop().sock_accept(listener)
        tasks.start(self._answer(wire), name="hand-over")

    async def _answer(self, wire: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with wire:
            wire.setblocking(False)
            async with asyncio.timeout(2 * ASK_SECONDS):
                session_id = UUID(bytes=await loop.sock_recv(wire, 16))
                if self.take is None or not self._has(session_id):
                    return
                await loop.sock_sendall(wire, YES)
                await _readable(wire)
            packed, descriptors, _, _ = socket.recv_fds(wire, MOST_BYTES, 1)
        for descriptor in descriptors:  # none: the browser has left
            browser = socket.socket(fileno=descriptor)
            browser.setblocking(False)
            await self.take(browser, _heads.decode(packed))


async def _ask(path: Path, session_id: UUID) -> socket.socket | None:
    """A way to the worker at `path`, if it has the session."""
    loop = asyncio.get_running_loop()
    wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire.setblocking(False)
    try:
        async with asyncio.timeout(ASK_SECONDS):
            await loop.sock_connect(wire, str(path))
            await loop.sock_sendall(wire, session_id.bytes)
            if await loop.sock_recv(wire, len(YES)) == YES:
                return wire
    except (OSError, TimeoutError):
        pass
    except asyncio.CancelledError:
        wire.close()
        raise
    wire.close()
    return None


def _give(wire: socket.socket, descriptor: int, head: Head) -> None:
    socket.send_fds(wire, [msgspec.msgpack.encode(head)], [descriptor])


def _hang_up(asked: asyncio.Task[socket.socket | None]) -> None:
    if not asked.cancelled() and (wire := asked.result()) is not None:
        wire.close()


async def _readable(wire: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(wire, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(wire)
