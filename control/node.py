"""This process as others see it: a row in `voice.nodes`, kept fresh.

Control plane. One relay process is one node, with an id of its own for each start. It is dead for
others after 20 s without a heartbeat. Nothing of a conversation waits for this: while the database
is away, the voice goes on, and the heartbeat resumes when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from uuid_utils.compat import uuid7

from control import owners
from control.store import Store, StoreUnavailable

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
LEAVE_SECONDS = 2.0


class Node:
    """`grace` is for how many seconds sessions of a dead node may be taken over."""

    def __init__(
        self, store: Store, *, grace: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.id: UUID = uuid7()
        self._store = store
        self._grace = grace
        self._clock = clock
        self._unseen = False
        self._seen_since = math.inf

    def __repr__(self) -> str:
        return f"<Node {self.id}{' unseen' if self._unseen else ''}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be alive for others while inside; on the way out, say that we stop."""
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(self._beat(), name="node")
            yield
            beating.cancel()
        try:
            async with asyncio.timeout(LEAVE_SECONDS), self._store.transaction() as connection:
                await owners.leave(connection, self.id)
        except (StoreUnavailable, TimeoutError):
            pass  # then others see that it is dead

    async def beat(self) -> None:
        """Say that we live, and end what nodes have left that do not.

        Raises `StoreUnavailable`.
        """
        now = self._clock()
        try:
            async with self._store.transaction() as connection:
                await owners.beat(connection, self.id)
        except StoreUnavailable:
            self._seen_since = math.inf
            raise
        self._seen_since = min(self._seen_since, now)
        # After an outage everybody looks dead: the others get time to be seen again.
        if now - self._seen_since >= owners.DEAD_SECONDS + self._grace:
            async with self._store.transaction() as connection:
                swept = await owners.sweep(connection, self._grace)
            if swept:
                log.warning("node_lost sessions=%d", swept)

    async def _beat(self) -> None:
        while True:
            try:
                await self.beat()
                self._unseen = False
            except StoreUnavailable as error:
                # Once when it begins: the journal and /health/ready say that it goes on.
                if not self._unseen:
                    log.error("node_unseen reason=%s", error)
                self._unseen = True
            await asyncio.sleep(BEAT_SECONDS)
