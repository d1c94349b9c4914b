"""Durable write-behind: what sessions leave behind, on its way to Postgres.

A record is on local disk when `append` returns, so it survives the process; nothing waits for
Postgres. One task writes in batches and in order, and only what is written is dropped: a database
that does not answer delays the records, never a conversation. What another process left behind,
because it died or could not finish, is found here and written too, at start and every few seconds.
A batch may be written twice, after a crash for instance; whoever writes has to bear that.

What Postgres will never take is put aside into a file: writer.py has the rule.

When the disk does not take a record, or the journal has its limit, records are kept in memory, and
when that is full as well the newest is refused: a hole at the end can be seen and one in the middle
cannot. All of this is logged and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from relay.core.records import Record
from relay.journal.adoption import Adoption
from relay.journal.ages import Ages
from relay.journal.segment import DiskFailed, Read, SegmentBroken, encode
from relay.journal.segments import Segments
from relay.journal.writer import BATCH, Write, WriteFailed, Writer, WriteRefused
from relay.supervisor import Supervisor
from relay.telemetry.metrics import Metrics

__all__ = ["Journal", "Write", "WriteFailed", "WriteRefused"]

log = logging.getLogger(__name__)

# What a record waits for others: a batch costs us nearly the same with one or with a hundred.
GATHER_SECONDS = 0.5
TIDY_SECONDS = 10.0  # what is in Postgres does not stay on disk for longer
DISK_RETRY_SECONDS = 1.0
CALLBACKS_MAX = 100_000  # of those that wait for their record to be written; others are not called

Saved = Callable[[], None]


class JournalFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`waiting` records are not in Postgres yet, `volatile` of them in memory only; the oldest of
    this process waits for `oldest_seconds`. `bytes` are on disk, of all processes on the directory.
    `disk_error`: why the disk takes none; empty: it does.
    """

    waiting: int
    oldest_seconds: float
    volatile: int
    bytes: int
    failing_seconds: float
    disk_error: str


class Journal:
    """An ordered queue of records on disk, and what brings it to Postgres."""

    def __init__(
        self,
        write: Write,
        metrics: Metrics,
        directory: Path,
        *,
        limit: int = 256 << 20,
        supervisor: Supervisor | None = None,
    ) -> None:
        """`limit` is in bytes on disk, for all processes that share the directory."""
        self._metrics = metrics
        self._supervisor = supervisor or Supervisor(metrics)
        self._segments = segments = Segments(directory, limit=limit)
        # What others left has a writer of its own: neither waits for the other.
        self._own = Writer(write, directory, segments.thread, metrics, lambda: segments.waiting)
        self._adoption = Adoption(write, directory, segments.thread, metrics)
        # The newest records as they came: those that are written soon need not be read again.
        self._fresh: deque[tuple[int, Record]] = deque(maxlen=BATCH)
        self._saved: deque[tuple[int, Saved]] = deque()
        self._ages = Ages()
        self._hurried = asyncio.Event()  # somebody waits, or there is enough for a batch
        self._hurried_to = 0
        self._progress = asyncio.Event()  # another one after each batch
        self._tidied = asyncio.Event()  # another one after each look at the files
        metrics.journal_waiting.set_function(lambda: segments.waiting + self._adoption.waiting)
        metrics.journal_volatile.set_function(lambda: segments.volatile)
        metrics.journal_bytes.set_function(lambda: segments.size)
        metrics.journal_limit_bytes.set(limit)
        metrics.journal_oldest_seconds.set_function(lambda: self.oldest_seconds)
        metrics.journal_failing.set_function(lambda: self.failing)

    def __repr__(self) -> str:
        return f"<Journal waiting={self._segments.waiting} failing={self.failing}>"

    @property
    def failing(self) -> bool:
        """Whether the last write failed."""
        return self._own.failing or self._adoption.writer.failing

    @property
    def failing_seconds(self) -> float:
        """For how long Postgres has taken nothing; 0 when the last write worked."""
        return max(self._own.failing_seconds, self._adoption.writer.failing_seconds)

    @property
    def oldest_seconds(self) -> float:
        """For how long the oldest record of this process that Postgres does not have has waited."""
        return self._ages.oldest(self._segments.written, self._segments.last, time.monotonic())

    @property
    def figures(self) -> JournalFigures:
        return JournalFigures(
            oldest_seconds=self.oldest_seconds,
            waiting=self._segments.waiting + self._adoption.waiting,
            volatile=self._segments.volatile,
            bytes=self._segments.size,
            failing_seconds=self.failing_seconds if self.failing else 0.0,
            disk_error=self._segments.disk_error,
        )

    def append(
        self, record: Record, saved: Saved | None = None, *, in_a_hurry: bool = False
    ) -> bool:
        """Take a record: on return it survives the process. False: full, not taken.

        `in_a_hurry`: another process waits for it, so it is not gathered with others.
        `saved` is called when it is in Postgres. Without a disk it is in memory only.
        """
        if not self._segments.append(encode(record)):
            self._metrics.journal_lost.inc()
            why = self._segments.disk_error or "not open yet"
            log.error("journal_full reason=%s", why)
            return False
        self._fresh.append((self._segments.last, record))
        self._ages.note(self._segments.last, self._segments.written, time.monotonic())
        if saved is not None and len(self._saved) < CALLBACKS_MAX:
            self._saved.append((self._segments.last, saved))
        if in_a_hurry:
            self._hurried_to = self._segments.last
        if in_a_hurry or self._segments.waiting >= BATCH:
            self._hurried.set()
        return True

    async def settled(self, seconds: float) -> bool:
        """Wait until all that was appended before now is in Postgres; False: not in time.

        So is what processes that are gone by now have left in the directory, if it can be read.
        """
        last = self._segments.last
        try:
            async with asyncio.timeout(seconds):
                await self._adoption.sweep()
                await self._reach(last)
        except TimeoutError:
            return False
        return True

    def renew(self) -> None:
        """What is on disk now goes from there as soon as it is in Postgres, however much is
        appended meanwhile."""
        self._segments.renew()

    async def cleared(self, seconds: float) -> bool:
        """Wait until all that was appended before now is in Postgres and off the disk; False: not
        in time."""
        segments = self._segments
        try:
            async with asyncio.timeout(seconds):
                old = segments.renew()
                await self._adoption.sweep()
                await self._reach(segments.last)
                while segments.has_any(old):
                    tidied = self._tidied
                    segments.untidy.set()
                    await tidied.wait()
                    await self._reach(segments.last)  # what came before there was another file
                await segments.settle_files()
        except TimeoutError:
            return False
        return True

    async def _reach(self, position: int) -> None:
        while self._segments.written < position:
            self._hurried_to = max(self._hurried_to, position)
            self._hurried.set()
            await self._progress.wait()

    @asynccontextmanager
    async def running(self, *, grace: float) -> AsyncIterator[None]:
        """Write while inside; on the way out, up to `grace` seconds for what is still waiting.

        What is not in Postgres then stays on disk, for the next process to find.
        """
        await self._segments.tidy()
        try:
            async with AsyncExitStack() as tasks:
                for name, work in (
                    ("journal", self._write_own),
                    ("journal of others", self._adoption.run),
                    ("journal files", self._tidy),
                ):
                    # Each waits for something to do, so there is nothing to pause for.
                    pause = partial(asyncio.sleep, 0)
                    repeating = self._supervisor.repeating(name, work, pause=pause)
                    await tasks.enter_async_context(repeating)
                yield
                try:
                    async with asyncio.timeout(grace):
                        await self._reach(self._segments.last)
                except TimeoutError:
                    pass  # said below
        finally:
            self._close()

    def _close(self) -> None:
        lost = self._segments.close()
        if left := self._segments.waiting - lost:
            log.error("journal_left records=%d", left)
        if lost:
            self._metrics.journal_lost.inc(lost)
            log.error("journal_abandoned records=%d", lost)

    # --- what this process appends -----------------------------------------------------------

    async def _write_own(self) -> None:
        await self._gather()
        try:
            rows = self._read_fresh() or await self._segments.read(BATCH)
        except DiskFailed as error:
            await self._own.back_off(error)
            return
        except SegmentBroken as error:
            self._own.lose(await self._segments.skip_broken(), error)
            self._reached(is_written=False)
            return
        async for done, written in self._own.deliver(rows):
            self._segments.drop(done[-1][0])
            self._reached(is_written=written)

    def _read_fresh(self) -> list[Read]:
        """What Postgres does not have; empty when that is more than we remember."""
        fresh, written = self._fresh, self._segments.written
        while fresh and fresh[0][0] <= written:
            fresh.popleft()
        return list(fresh) if fresh and fresh[0][0] == written + 1 else []

    async def _gather(self) -> None:
        # One who was in a hurry once must not make all that follow go one by one.
        waited_for = self._segments.written < self._hurried_to
        if not waited_for and self._segments.waiting < BATCH:
            self._hurried.clear()
        try:
            async with asyncio.timeout(GATHER_SECONDS):
                await self._hurried.wait()
        except TimeoutError:
            pass  # it was a quiet moment

    def _reached(self, *, is_written: bool) -> None:
        """Call those who wait for what is written now, or is never to be."""
        while self._saved and self._saved[0][0] <= self._segments.written:
            _, saved = self._saved.popleft()
            if is_written:  # what goes wrong in it is not ours
                asyncio.get_running_loop().call_soon(saved)
        self._progress.set()
        self._progress = asyncio.Event()

    # --- the files ---------------------------------------------------------------------------

    async def _tidy(self) -> None:
        segments = self._segments
        try:
            async with asyncio.timeout(DISK_RETRY_SECONDS if segments.disk_error else TIDY_SECONDS):
                await segments.untidy.wait()
        except TimeoutError:
            pass  # it is time
        is_tidy = await segments.tidy()
        self._tidied.set()
        self._tidied = asyncio.Event()
        if not is_tidy:
            await asyncio.sleep(DISK_RETRY_SECONDS)  # that it fails was said when it began
