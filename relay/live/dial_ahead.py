"""Agents dialled ahead: a socket that is open, or on its way, before its browser has come.

When a session is made the browser still has to open its WebSocket. The handshake with the agent
happens meanwhile. What nobody comes for is closed: Deepgram itself gives up a socket without
Settings after 10 to 15 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from relay.core.user_context import UserContext
from relay.live.quotas import AgentQuota
from relay.protocol import close_codes
from relay.supervisor import Contained
from relay.telemetry.metrics import Metrics
from relay.telemetry.open_time import OpenTime
from relay.transport.connection import Connection
from relay.transport.connection_handler import BufferingHandler
from relay.transport.dial import Dial, DialFailed

KEPT_SECONDS = 8.0  # docs/protocol.md: CLIENT_MESSAGE_TIMEOUT after 10 to 15 s without Settings
REMEMBERED = 1_000  # agents that nobody came for, until they are counted; then the oldest go


Ask = Callable[[], Coroutine[Any, Any, UserContext | None]]
"""Asks what is known of one user."""


class Dialled(NamedTuple):
    """One connection on its way; `connect` is a `Dial` for just this connection. `asking` gets what
    is known of the user, if somebody is asked."""

    connection: Connection
    task: asyncio.Task[DialFailed | None]
    expiry: asyncio.TimerHandle
    asking: asyncio.Task[UserContext | None] | None

    @property
    def usable(self) -> bool:
        """Whether it may still become, or is, an open socket."""
        if self.task.done() and (self.task.cancelled() or self.task.result() is not None):
            return False
        return not self.connection.is_closed

    async def connect(self, connection: Connection) -> None:
        """Wait until the socket is open. Raises `DialFailed`; cancelled, it stops the dialling."""
        failed = await self.task
        if failed is not None:
            raise failed

    async def known(self) -> UserContext | None:
        """An `Ask`: what was asked with the dial."""
        return None if self.asking is None else await self.asking


class DialAhead:
    """At most `limit` agents wait at once; 0 turns it off."""

    def __init__(
        self,
        dial: Dial,
        new_connection: Callable[[], Connection],
        metrics: Metrics,
        *,
        share: AgentQuota,
        limit: int,
    ) -> None:
        self._dial = dial
        self._new_connection = new_connection
        self._metrics = metrics
        self._share = share
        self._limit = limit
        self._waiting: dict[UUID, Dialled] = {}
        self._in_vain: dict[UUID, OpenTime] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, session_id: UUID) -> bool:
        return session_id in self._waiting

    def close(self) -> None:
        """Nobody will come any more."""
        for session_id in list(self._waiting):
            self.cancel(session_id)

    def begin(self, session_id: UUID, tasks: Contained, ask: Ask | None = None) -> None:
        """Dial, in one of these tasks, for a session whose browser is about to come, and `ask`
        meanwhile; does nothing when too many wait."""
        if not self._limit or session_id in self._waiting:
            return
        if len(self._waiting) >= self._limit or not self._share.enter(session_id):
            self._count("full")  # at the attach more may be asked for
            return
        connection = self._new_connection()
        connection.listen(BufferingHandler(connection.abort))
        task = tasks.start(self._try(connection), name=f"dial ahead {session_id}")
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(KEPT_SECONDS, self._expire, session_id)
        asking = tasks.start(ask(), name=f"ask ahead {session_id}") if ask else None
        self._waiting[session_id] = Dialled(connection, task, expiry, asking)

    def take(self, session_id: UUID, *, is_new: bool = True) -> Dialled | None:
        """What was dialled for this session, if it is any good; from now on it is the caller's.
        For one that is not new nothing is missed.

        So is its place in the share, even if it is not.
        """
        dialled = self._waiting.pop(session_id, None)
        if dialled is None:
            if is_new and self._limit:
                self._count("missed")
            return None
        dialled.expiry.cancel()
        self._count("used" if dialled.usable else "failed")
        if dialled.usable:
            return dialled
        dialled.connection.forget()
        self._remember(session_id, dialled)
        return None

    @property
    def in_vain(self) -> dict[UUID, float]:
        """For how many seconds agents were connected that no browser came for, by session."""
        now = monotonic()
        return {id: time.seconds(now) for id, time in self._in_vain.items()}

    def forget_in_vain(self, session_id: UUID) -> bool:
        """It is counted. Whether there was one."""
        return self._in_vain.pop(session_id, None) is not None

    def cancel(self, session_id: UUID) -> None:
        """Nobody will come for this one, if it is here."""
        if session_id in self._waiting:
            self._count("cancelled")
            self._let_go(session_id)

    def _count(self, outcome: str) -> None:
        self._metrics.dialled_ahead.labels(outcome=outcome).inc()

    def _let_go(self, session_id: UUID) -> None:
        dialled = self._waiting.pop(session_id, None)
        if dialled is not None:
            self._share.leave(session_id)
            dialled.expiry.cancel()
            dialled.task.cancel()
            if dialled.asking is not None:
                dialled.asking.cancel()
            dialled.connection.forget()
            dialled.connection.close(close_codes.NORMAL, "")
            self._remember(session_id, dialled)

    async def _try(self, connection: Connection) -> DialFailed | None:
        try:
            await self._dial(connection)
        except DialFailed as error:
            return error
        return None

    def _expire(self, session_id: UUID) -> None:
        self._count("expired")
        self._let_go(session_id)

    def _remember(self, session_id: UUID, dialled: Dialled) -> None:
        if not dialled.connection.open_time.seconds(monotonic()):
            return  # it never opened
        if len(self._in_vain) >= REMEMBERED:
            del self._in_vain[next(iter(self._in_vain))]
        self._in_vain[session_id] = dialled.connection.open_time
