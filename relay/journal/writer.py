"""From the journal to the database: in order, and for as long as it takes.

A database that is away is tried again for ever, loudly. A batch that fails is tried in smaller
ones: what is wrong with one record, or with the size, delays the others as little as may be. Only a
record that the writing function refuses alone is put aside, into the file of condemned ones.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from relay.core.records import Record
from relay.journal.condemned import NAME, condemn
from relay.journal.segment import DiskFailed, FileThread, Read
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Measured: 480 records a second go in one by one, 13,000 in batches of 200, 22,000 in these.
BATCH = 2_000
FIRST_RETRY = 0.25
LAST_RETRY = 5.0
REPEAT_SECONDS = 60.0  # how often the log says that it still fails


class WriteFailed(Exception):
    """The records are not written and may be tried again; its text quotes none of them."""


class WriteRefused(Exception):
    """One of the records will never be written; its text quotes none of them."""


Write = Callable[[Sequence[Record]], Awaitable[None]]
"""All or nothing, and repeating it changes nothing. Raises `WriteRefused` if a record is to blame;
whatever else it raises means that the database is away."""


class Writer:
    """Delivers the rows of one task of the journal."""

    def __init__(
        self,
        write: Write,
        directory: Path,
        thread: FileThread,
        metrics: Metrics,
        waiting: Callable[[], int],
    ) -> None:
        """`waiting` is how many records wait for this writer; it is logged."""
        self._write = write
        self._condemned = directory / NAME
        self._thread = thread
        self._metrics = metrics
        self._waiting = waiting
        self._size = BATCH
        self._failures = 0  # in a row
        self._failing_since = 0.0
        self._said_at = 0.0

    def __repr__(self) -> str:
        return f"<Writer failures={self._failures} size={self._size}>"

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    @property
    def failing_seconds(self) -> float:
        """For how long no try has worked; 0 when the last one did."""
        return asyncio.get_running_loop().time() - self._failing_since if self._failures else 0.0

    async def deliver(self, rows: Sequence[Read]) -> AsyncIterator[tuple[Sequence[Read], bool]]:
        """Until each is done: the next of them, in order, and whether they are written.

        Those that are not are condemned.
        """
        left = list(rows)
        while left:
            some = left[: self._size]
            try:
                why = await self._refusal(some)
                if why and len(some) > 1:
                    self._size = len(some) // 2
                    continue
                if why:
                    await self._condemn(some[0], why)
            except Exception as error:
                # The top of this task. Nothing is condemned while the database or the disk is away.
                self._size = max(1, len(some) // 2)
                await self.back_off(error)
                continue
            self._note_success()
            del left[: len(some)]
            self._size = min(BATCH, 2 * self._size)
            yield some, not why

    async def _refusal(self, some: Sequence[Read]) -> str:
        """Write them; why one of them can never be written, or nothing."""
        records = [record for _, record in some if not isinstance(record, bytes)]
        if len(records) < len(some):
            return "of a kind that this version does not know"
        try:
            await self._write(records)
        except WriteRefused as error:
            return str(error)
        return ""

    async def _condemn(self, row: Read, why: str) -> None:
        position, record = row
        await self._thread.run(condemn, self._condemned, record, why)
        self._metrics.journal_lost.inc()
        self._metrics.journal_condemned.inc()
        log.error(
            "journal_record_condemned kind=%s position=%d file=%s reason=%s",
            "unknown" if isinstance(record, bytes) else type(record).__name__,
            position,
            self._condemned,
            why,
        )

    def lose(self, count: int, error: Exception) -> None:
        """Note that records cannot be read any more."""
        self._metrics.journal_lost.inc(count)
        log.error("journal_records_lost count=%d reason=%s", count, error)

    async def back_off(self, error: Exception) -> None:
        """Note a failure, and wait before the next try."""
        now = asyncio.get_running_loop().time()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        if self._failures == 1 or now >= self._said_at + REPEAT_SECONDS:
            self._said_at = now
            log.error(
                "journal_write_failed waiting=%d failures=%d seconds=%.0f reason=%s",
                self._waiting(),
                self._failures,
                now - self._failing_since,
                _describe(error),
            )
        await asyncio.sleep(min(FIRST_RETRY * 2 ** min(self._failures - 1, 10), LAST_RETRY))

    def _note_success(self) -> None:
        if self._failures:
            log.warning(
                "journal_write_recovered waiting=%d failures=%d", self._waiting(), self._failures
            )
        self._failures = 0


def _describe(error: Exception) -> str:
    if isinstance(error, WriteFailed | DiskFailed):
        return str(error)
    # Nobody foresaw it. Where it was, and not its text: that may quote a record.
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"unforeseen {type(error).__name__} in {place.name}, {place.filename}:{place.lineno}"
