"""Durable write-behind: what sessions leave behind, on its way to Postgres.

Nothing waits for it: `append` returns at once, one task writes in batches and in order, and a
database that does not answer delays the records, never a conversation. Records are kept in memory
here, at most `limit` of them; when that is full the newest is refused, loudly, because a hole at
the end can be seen and one in the middle cannot.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice

from relay.metrics import Metrics
from relay.records import Record

log = logging.getLogger(__name__)

BATCH = 200  # measured: batches of this size go in about twenty times faster than one by one
LIMIT = 100_000  # some tens of megabytes: hours of talk, minutes of a crowd
FIRST_RETRY = 0.25
LAST_RETRY = 5.0

Saved = Callable[[], None]


class WriteFailed(Exception):
    """The records are not written and may be tried again; the store raises it."""


Write = Callable[[Sequence[Record]], Awaitable[None]]


class Journal:
    """An ordered queue of records with one writer."""

    def __init__(self, write: Write, metrics: Metrics, *, limit: int = LIMIT) -> None:
        self._write = write
        self._metrics = metrics
        self._limit = limit
        self._waiting: deque[tuple[Record, Saved | None]] = deque()
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._failing = False

    def __repr__(self) -> str:
        return f"<Journal waiting={len(self._waiting)} failing={self._failing}>"

    @property
    def failing(self) -> bool:
        """Whether the last write failed."""
        return self._failing

    def append(self, record: Record, saved: Saved | None = None) -> bool:
        """Take a record; `saved` is called when it is in Postgres. False: full, not taken."""
        if len(self._waiting) >= self._limit:
            self._metrics.journal_lost.inc()
            log.error("journal_full limit=%d: a record is lost", self._limit)
            return False
        self._waiting.append((record, saved))
        self._metrics.journal_waiting.set(len(self._waiting))
        self._arrived.set()
        self._empty.clear()
        return True

    async def settled(self, seconds: float) -> bool:
        """Wait until all that was appended before now is in Postgres; False: not in time."""
        if not self._waiting:
            return True
        reached = asyncio.Event()
        last, saved = self._waiting[-1]

        def settle() -> None:
            reached.set()
            if saved is not None:
                saved()

        self._waiting[-1] = last, settle
        try:
            async with asyncio.timeout(seconds):
                await reached.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def running(self, *, grace: float) -> AsyncIterator[None]:
        """Write while inside; on the way out, up to `grace` seconds for what is still waiting."""
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._run(), name="journal")
            yield
            try:
                async with asyncio.timeout(grace):
                    await self._empty.wait()
            except TimeoutError:
                log.error("journal_abandoned records=%d: not in Postgres", len(self._waiting))
            writer.cancel()

    async def _run(self) -> None:
        retry = FIRST_RETRY
        while True:
            await self._arrived.wait()
            batch = list(islice(self._waiting, BATCH))
            try:
                await self._write_or_isolate([record for record, _ in batch])
            except WriteFailed as error:
                # Once when it begins; the metric and /health/ready say that it goes on.
                if not self._failing:
                    log.error("journal_write_failed waiting=%d: %s", len(self._waiting), error)
                self._failing = True
                await asyncio.sleep(retry)
                retry = min(retry * 2, LAST_RETRY)
                continue
            if self._failing:
                log.warning("journal_write_recovered waiting=%d", len(self._waiting))
            self._failing = False
            retry = FIRST_RETRY
            self._done(len(batch))

    async def _write_or_isolate(self, records: list[Record]) -> None:
        """Write all; a record that breaks the writer is dropped alone, not with its neighbours."""
        try:
            await self._write(records)
        except WriteFailed:
            raise
        except Exception:
            # The top of this task. A record that cannot be written must not stop those behind it.
            if len(records) == 1:
                self._metrics.journal_lost.inc()
                log.exception("journal_record_lost kind=%s", type(records[0]).__name__)
                return
            for record in records:
                await self._write_or_isolate([record])

    def _done(self, count: int) -> None:
        done = [self._waiting.popleft() for _ in range(count)]
        self._metrics.journal_waiting.set(len(self._waiting))
        if not self._waiting:
            self._arrived.clear()
            self._empty.set()
        for _, saved in done:
            if saved is not None:
                saved()
