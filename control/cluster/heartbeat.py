"""This process as others see it, and what others want of it.

Control plane. One relay process is one node, with an id of its own for each start: a row in
`voice.nodes`, kept fresh. It is dead for others after 20 s without a heartbeat. With each heartbeat
it looks whether its live sessions are still its own: a browser may have gone to another node with
one, or somebody may have ended one there. A notification of the database lets it look at once. That
is a convenience: one may be lost, and behind a pooler in transaction mode none comes.

Nothing of a conversation waits for this: while the database is away, the voice goes on, and the
heartbeat resumes when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from control.db import ownership
from control.db.errors import FROM_DATABASE
from control.db.pool import connect
from control.db.store import Store, StoreUnavailable
from relay.core.events import EndReason
from relay.journal.segment import DiskFailed
from relay.live.session_registry import SessionRegistry
from relay.supervisor import Supervisor

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
LEAVE_SECONDS = 2.0
# Of the connection that listens; one that is half open is found within CHECK_SECONDS.
CONNECT_SECONDS = 5.0
CHECK_SECONDS = 30.0
PAUSE_SECONDS = 5.0


class Heartbeat:
    """`grace` is for how many seconds sessions of a dead node may be taken over; `name` is for
    people. `clear` takes out of our files what is of conversations that were erased."""

    def __init__(
        self,
        store: Store,
        session_registry: SessionRegistry,
        database_url: str,
        *,
        node_id: UUID,
        grace: float,
        name: str | None = None,
        clear: Callable[[], Awaitable[object]] | None = None,
        supervisor: Supervisor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = node_id
        self._name = name
        self._clear = clear
        self._store = store
        self._session_registry = session_registry
        self._database_url = database_url
        self._supervisor = supervisor or Supervisor()
        self._grace = grace
        self._clock = clock
        self._missing: Mapping[UUID, int] = {}
        self._seen_since = math.inf

    def __repr__(self) -> str:
        return f"<Heartbeat {self.id}{' unseen' if self._seen_since == math.inf else ''}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be alive for others while inside; on the way out, say that we stop."""
        async with (
            self._supervisor.repeating(
                "node",
                self.beat,
                pause=BEAT_SECONDS,
                foreseen=(StoreUnavailable,),
                say=lambda error: log.error("node_unseen reason=%s", error),
            ),
            self._supervisor.repeating(
                "node notices",
                self._listen,
                pause=PAUSE_SECONDS,
                foreseen=(*FROM_DATABASE, StoreUnavailable),
                # Nobody has to mend this: if the database is away, the heartbeat says so.
                say=lambda error: log.debug("notices_lost reason=%s", error),
            ),
        ):
            yield
        with suppress(StoreUnavailable, TimeoutError):  # then others see that it is dead
            async with asyncio.timeout(LEAVE_SECONDS), self._store.transaction() as connection:
                await ownership.leave(connection, self.id)

    async def beat(self) -> None:
        """Say that we live, look after our sessions, and end what dead nodes have left.

        Raises `StoreUnavailable`.
        """
        now = self._clock()
        # Whatever goes wrong from here on: nobody knows whether we were seen.
        seen_since, self._seen_since = self._seen_since, math.inf
        async with self._store.transaction(durable=False) as connection:
            is_sweeper = await ownership.beat(connection, self.id, self._name)
        self._seen_since = min(seen_since, now)
        await self.look()
        async with self._store.transaction() as connection:
            self._missing = await ownership.end_missing(
                connection, self.id, self._session_registry.owned, self._missing
            )
        # After an outage everybody looks dead: the others get time to be seen again.
        if is_sweeper and now - self._seen_since >= ownership.DEAD_SECONDS + self._grace:
            async with self._store.transaction() as connection:
                swept = await ownership.sweep(connection, self._grace)
            if swept:
                log.warning("node_lost sessions=%d", swept)

    async def look(self) -> None:
        """End those of our sessions that are not ours any more, and do what administrators want of
        this node. Raises `StoreUnavailable`."""
        lost: Mapping[UUID, str] = {}
        owned = self._session_registry.owned
        async with self._store.transaction() as connection:
            if owned:
                lost = await ownership.find_lost(connection, self.id, owned)
            wishes = await ownership.read_wishes(connection, self.id)
        for session_id, why in lost.items():
            self._session_registry.hang_up(session_id, EndReason(why))
        await self._heed(wishes)

    async def _heed(self, wishes: ownership.Wishes) -> None:
        if wishes.drained != self._session_registry.is_drained:
            self._session_registry.is_drained = wishes.drained
            log.warning("node_drained on=%s", wishes.drained)
        if wishes.erased_at is None or self._clear is None:
            return
        try:
            await self._clear()
        except DiskFailed as error:  # tried again with the next heartbeat
            log.error("leftovers_not_cleared reason=%s", error)
            return
        async with self._store.transaction() as connection:
            await ownership.note_cleared(connection, self.id, wishes.erased_at)

    async def _listen(self) -> None:
        """Look at each notice of a session of ours, and first: one may have been missed."""
        heard = asyncio.Event()

        def hear(_: object, __: object, ___: object, text: object) -> None:
            with suppress(ValueError):  # somebody else's
                about = UUID(str(text))
                if about == self.id or self._session_registry.epoch(about) is not None:
                    heard.set()

        connection = await connect(
            self._database_url,
            application_name="voice-relay notices",
            timeout=CONNECT_SECONDS,
            command_timeout=CONNECT_SECONDS,
        )
        connection.add_termination_listener(lambda _: heard.set())
        try:
            await connection.add_listener(ownership.CHANNEL, hear)
            while not connection.is_closed():
                heard.clear()
                await self.look()
                await connection.execute("SELECT 1")
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await heard.wait()
        finally:
            connection.terminate()
