"""The sessions of the other workers of one parent: counted, placed, and their browsers sent there.

The workers share a listener, so a browser reaches any of them. Each answers the others on a socket
in the folder that only our account may enter. Who is asked for a session that another one has gives
it the connection itself (SCM_RIGHTS), with the head that was read. What a browser says can name
nothing but a session, and whoever gets it judges it from the start.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import msgspec

from control.http.siblings import Siblings
from relay.core.user_context import About
from relay.live.quotas import NOBODY, Counted, Room
from relay.live.session_registry import SessionRegistry
from relay.supervisor import Contained, Supervisor
from relay.transport.request_head import Head
from relay.transport.upgrade import Handshake

SUFFIX = ".sessions"
ASK_SECONDS = 2.0  # of one that hangs; then we go on without it
COUNT_SECONDS = 0.5  # the same, where only a number is missing then
EXPECTED_SECONDS = 10.0  # from a POST to its WebSocket; one that comes later stays where it comes
WAITING = 1024  # who may wait to be answered
MOST_BYTES = 64 * 1024  # of a head, with what packs it
ANYWHERE = Room("", None, None)


class Have(msgspec.Struct, tag=True, frozen=True):
    """Will you have this browser? For a session, that is who has it; None: for a new one."""

    session_id: UUID | None


class Expect(msgspec.Struct, tag=True, frozen=True):
    """A browser is about to come for this session; as an `About`."""

    session_id: UUID
    user_id: str
    conversation_id: UUID
    timezone: str


class Count(msgspec.Struct, tag=True, frozen=True):
    """How many sessions are there? The answer is a `Counted`."""

    room: Room


YES = b"yes"
_read_question = msgspec.msgpack.Decoder(Have | Expect | Count).decode
_read_counted = msgspec.msgpack.Decoder(Counted).decode
_read_head = msgspec.msgpack.Decoder(Head).decode
_pack = msgspec.msgpack.encode


class SiblingSessions:
    """Without `siblings` this process has all sessions. `count` hears of each browser that was
    given away."""

    def __init__(
        self,
        siblings: Siblings | None,
        registry: SessionRegistry,
        supervisor: Supervisor,
        *,
        count: Callable[[], None],
    ) -> None:
        self._siblings = siblings
        self._registry = registry
        self._supervisor = supervisor
        self._count = count
        self._expected: dict[UUID, float] = {}  # until when, in the order of arrival
        self._sent: Counter[Path] = Counter()  # sessions that each was to expect
        self._settled: Counter[Path] = Counter()  # of these, those that it has answered
        # Gets what others give, once there is a server.
        self.take: Callable[[socket.socket, Head], Awaitable[None]] | None = None
        if siblings is not None:
            registry.count_elsewhere = self.count

    def __repr__(self) -> str:
        return f"<SiblingSessions of {self._siblings!r} expected={len(self._expected)}>"

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
                self._supervisor.containing("sibling", seconds=ASK_SECONDS) as tasks,
                self._supervisor.repeating(
                    "siblings",
                    partial(self._accept, listener, tasks),
                    pause=partial(asyncio.sleep, 0),
                ),
            ):
                yield

    # --- what we ask ---------------------------------------------------------------------------

    async def count(self, room: Room) -> Counted:
        """What all others have; one that hangs is left out."""
        elsewhere = NOBODY
        for _, counted in await self._count_each(room):
            elsewhere = Counted(*map(sum, zip(elsewhere, counted, strict=True)))
        return elsewhere

    async def expect(self, session_id: UUID, about: About) -> None:
        """A browser is about to come: the worker with the fewest sessions is to dial its agent."""
        path = await self._find_place()
        if path is not None:
            question = Expect(session_id, about.user_id, about.conversation_id, about.timezone)
            self._sent[path] += 1
            try:
                answer = await _ask(path, question)
            finally:
                self._settled[path] += 1
            if answer is not None:
                answer.wire.close()
                return
        self._expect(session_id, about)

    async def _find_place(self) -> Path | None:
        """Where the fewest sessions are; None: here."""
        if self._siblings is None:
            return None
        settled = self._settled.copy()  # by now: what comes later may not be in the answer
        counts = await self._count_each(ANYWHERE)
        best, fewest = None, self._count_here(ANYWHERE).sessions
        for path, counted in counts:
            there = counted.sessions + self._sent[path] - settled[path]
            if there < fewest:
                best, fewest = path, there
        return best

    async def _count_each(self, room: Room) -> list[tuple[Path, Counted]]:
        paths = self._siblings.others(SUFFIX) if self._siblings else []
        asked = (_ask(path, Count(room), COUNT_SECONDS) for path in paths)
        found = []
        for path, answer in zip(paths, await asyncio.gather(*asked), strict=True):
            if answer is not None:
                answer.wire.close()
                found.append((path, _read_counted(answer.text)))
        return found

    async def offer(self, session_id: UUID | None, handshake: Handshake) -> bool:
        """Give a browser to the worker that has its session; None: it is for a new one, and goes
        where there are the fewest. False: it is ours, or has left."""
        if self._siblings is None or handshake.is_handed_over:
            return False
        if session_id is None:
            best = await self._find_place()
            paths = [best] if best else []
        else:
            paths = [] if self._has(session_id) else self._siblings.others(SUFFIX)
        asked = [
            asyncio.create_task(_ask(path, Have(session_id)), name=f"sibling {path.stem}")
            for path in paths
        ]
        try:
            for done in asyncio.as_completed(asked):
                answer = await done
                if answer is not None:
                    has_gone = handshake.hand_over(partial(_give, answer.wire))
                    if has_gone:
                        self._count()
                    return has_gone
        finally:
            for task in asked:
                task.cancel()
                task.add_done_callback(_hang_up)
        return False

    # --- what the others ask -------------------------------------------------------------------

    async def _accept(self, listener: socket.socket, tasks: Contained) -> None:
        wire, _ = await asyncio.get_running_loop().sock_accept(listener)
        tasks.start(self._answer(wire), name="sibling")

    async def _answer(self, wire: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        packed = b""
        descriptors: list[int] = []
        with wire:
            wire.setblocking(False)
            async with asyncio.timeout(2 * ASK_SECONDS):
                match _read_question(await loop.sock_recv(wire, MOST_BYTES)):
                    case Count(room):
                        await loop.sock_sendall(wire, _pack(self._count_here(room)))
                    case Expect() as about if self._is_open:
                        self._expect(about.session_id, about)
                        await loop.sock_sendall(wire, YES)
                    case Have(session_id) if (
                        self._is_open if session_id is None else self._has(session_id)
                    ):
                        await loop.sock_sendall(wire, YES)
                        await _readable(wire)
                        packed, descriptors, _, _ = socket.recv_fds(wire, MOST_BYTES, 1)
        for descriptor in descriptors:  # none: the browser has left, or another one has it
            browser = socket.socket(fileno=descriptor)
            browser.setblocking(False)
            if self.take is None:
                browser.close()
            else:
                await self.take(browser, _read_head(packed))

    def _expect(self, session_id: UUID, about: About) -> None:
        if self._siblings is not None:
            self._still_expected()[session_id] = time.monotonic() + EXPECTED_SECONDS
        self._registry.expect(session_id, about)

    @property
    def _is_open(self) -> bool:
        """Whether sessions may begin here."""
        return not (self._registry.is_drained or self._registry.is_draining)

    def _has(self, session_id: UUID) -> bool:
        return self._registry.has(session_id) or session_id in self._still_expected()

    def _still_expected(self) -> dict[UUID, float]:
        now = time.monotonic()
        while self._expected and next(iter(self._expected.values())) <= now:
            del self._expected[next(iter(self._expected))]
        return self._expected

    def _count_here(self, room: Room) -> Counted:
        counted = self._registry.count(room)
        coming = sum(self._registry.figures(one) is None for one in self._still_expected())
        return counted._replace(sessions=counted.sessions + coming)


class _Answer(NamedTuple):
    """The text, and the way that it came."""

    text: bytes
    wire: socket.socket


async def _ask(
    path: Path, question: Have | Expect | Count, seconds: float = ASK_SECONDS
) -> _Answer | None:
    """None: there is no answer, which may be a no."""
    loop = asyncio.get_running_loop()
    wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire.setblocking(False)
    try:
        async with asyncio.timeout(seconds):
            await loop.sock_connect(wire, str(path))
            await loop.sock_sendall(wire, _pack(question))
            if text := await loop.sock_recv(wire, MOST_BYTES):
                return _Answer(text, wire)
    except (OSError, TimeoutError):
        pass
    except asyncio.CancelledError:
        wire.close()
        raise
    wire.close()
    return None


def _give(wire: socket.socket, descriptor: int, head: Head) -> None:
    socket.send_fds(wire, [_pack(head)], [descriptor])


def _hang_up(asked: asyncio.Task[_Answer | None]) -> None:
    if not asked.cancelled() and (answer := asked.result()) is not None:
        answer.wire.close()


async def _readable(wire: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(wire, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(wire)
