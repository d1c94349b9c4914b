"""This process as others see it, and what others want of it.

Control plane. One relay process is one node, with an id of its own for each start: a row in
`voice.nodes`, kept fresh. It is dead for others after 20 s without a heartbeat. With each heartbeat
it looks whether its live sessions are still its own: a browser may have gone to another node with
one, or somebody may have ended one there. A notification of the database lets it look at once.

Nothing of a conversation waits for this: while the database is away, the voice goes on, and the
heartbeat resumes when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from uuid import UUID

from uuid_utils.compat import uuid7

from control.cluster.listener import listening
from control.db import ownership
from control.db.store import Store, StoreUnavailable
from relay.core.events import EndReason
from relay.live.session_registry import SessionRegistry
from relay.supervisor import Supervisor

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
LEAVE_SECONDS = 2.0


class Heartbeat:
    """`grace` is for how many seconds sessions of a dead node may be taken over."""

    def __init__(
        self,
        store: Store,
        session_registry: SessionRegistry,
        database_url: str,
        *,
        grace: float,
        supervisor: Supervisor | None = None,
        node_id: UUID | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = node_id or uuid7()
        self._store = store
        self._session_registry = session_registry
        self._database_url = database_url
        self._supervisor = supervisor or Supervisor()
        self._grace = grace
        self._clock = clock
        self._missing: Mapping[UUID, int] = {}
        self._seen_since = math.inf
        self._asked = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Heartbeat {self.id}{' unseen' if self._seen_since == math.inf else ''}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be alive for others while inside; on the way out, say that we stop."""
        async with (
            self._supervisor.repeating(
                "node",
                self.beat,
                pause=self._wait,
                foreseen=(StoreUnavailable,),
                say=lambda error: log.error("node_unseen reason=%s", error),
            ),
            listening(self._database_url, self._hear, self._supervisor),
        ):
            yield
        try:
            async with asyncio.timeout(LEAVE_SECONDS), self._store.transaction() as connection:
                await ownership.leave(connection, self.id)
        except (StoreUnavailable, TimeoutError):
            pass  # then others see that it is dead

    async def beat(self) -> None:
        """Say that we live, look after our sessions, and end what dead nodes have left.

        Raises `StoreUnavailable`.
        """
        now = self._clock()
        # Whatever goes wrong from here on: nobody knows whether we were seen.
        seen_since, self._seen_since = self._seen_since, math.inf
        async with self._store.transaction() as connection:
            await ownership.beat(connection, self.id)
        self._seen_since = min(seen_since, now)
        await self.look()
        async with self._store.transaction() as connection:
            self._missing = await ownership.end_missing(
                connection, self.id, self._session_registry.owned, self._missing
            )
        # After an outage everybody looks dead: the others get time to be seen again.
        if now - self._seen_since >= ownership.DEAD_SECONDS + self._grace:
            async with self._store.transaction() as connection:
                swept = await ownership.sweep(connection, self._grace)
            if swept:
                log.warning("node_lost sessions=%d", swept)

    async def look(self) -> None:
        """End those of our sessions that are not ours any more. Raises `StoreUnavailable`."""
        if not (owned := self._session_registry.owned):
            return
        async with self._store.transaction() as connection:
            lost = await ownership.find_lost(connection, self.id, owned)
        for session_id, why in lost.items():
            self._session_registry.hang_up(session_id, EndReason(why))

    def _hear(self, session_id: UUID | None) -> None:
        if session_id is None or session_id in self._session_registry.owned:
            self._asked.set()

    async def _wait(self) -> None:
        """Until the next beat; what others want of our sessions is not waited for so long.

        Raises `StoreUnavailable`.
        """
        until = self._clock() + BEAT_SECONDS
        while (left := until - self._clock()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._asked.wait()
                self._asked.clear()
                await self.look()
            except TimeoutError:
                return
