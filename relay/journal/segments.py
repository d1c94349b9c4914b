"""Everything this process has appended and Postgres does not have yet: segments, then memory.

Records are on local disk as long as there is room on it. When the disk fails, or the journal has
grown to its limit, what comes next is kept in memory, loudly and bounded too; when the disk is back
it goes there before anything newer does. So memory is always behind the files, and never beside an
open one.

The event loop calls `append` and `drop`; whatever is slow (making, sealing, reading and deleting
files) runs in the thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from relay.journal.directory import JournalDirectory, measure
from relay.journal.segment import (
    DiskFailed,
    FileThread,
    Read,
    Row,
    Segment,
    SegmentBroken,
    read_body,
)

log = logging.getLogger(__name__)

SEGMENT_BYTES = 8 << 20  # the log of one segment: some 3,500 messages, a fifth when it is sealed
MEMORY_BYTES = 16 << 20  # what is kept when the disk does not take it: some 40,000 messages
_SLICE = 2_000  # records that move from memory to disk in one transaction


class Memory:
    """Records that go with the process; their positions have no gaps."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        self._limit = limit
        self._rows: deque[Row] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, position: int, body: bytes) -> bool:
        """False: full, not taken."""
        if self.bytes + len(body) > self._limit:
            return False
        self._rows.append((position, body))
        self.bytes += len(body)
        return True

    def rows(self, after: int, limit: int) -> list[Row]:
        first = max(0, after + 1 - self._rows[0][0]) if self._rows else 0
        return list(islice(self._rows, first, first + limit))

    def drop(self, position: int) -> None:
        """Forget everything up to `position`."""
        while self._rows and self._rows[0][0] <= position:
            self.bytes -= len(self._rows.popleft()[1])


class Segments:
    """An ordered store of encoded records; a record's position counts from 1."""

    def __init__(self, directory: Path, *, limit: int) -> None:
        """`limit` is in bytes and for the whole directory, other processes included."""
        self.thread = FileThread()
        self.last = 0  # the newest position
        self.written = 0  # Postgres has everything up to here
        self.disk_error = ""  # why records are kept in memory; empty: they are not
        self.untidy = asyncio.Event()
        self._directory = directory
        self._folder: JournalDirectory | None = None  # ours, from the first segment on
        self._limit = limit
        self._segments: deque[Segment] = deque()
        self._active: Segment | None = None  # the newest, while it is appended to; None: memory is
        self._memory = Memory(MEMORY_BYTES)
        self._bytes_others = 0  # of other processes

    def __repr__(self) -> str:
        return f"<Segments {self.written}..{self.last} segments={len(self._segments)}>"

    @property
    def waiting(self) -> int:
        """Records that Postgres does not have."""
        return self.last - self.written

    def has_any(self, segments: Sequence[Segment]) -> bool:
        """Whether one of these is still ours; the file of one that is not may be about to go."""
        return any(segment in self._segments for segment in segments)

    async def settle_files(self) -> None:
        """Wait until files that are about to go have gone: one thread does it, in order."""
        await self.thread.run(lambda: None)

    @property
    def volatile(self) -> int:
        """Of these, the ones that only memory has."""
        return len(self._memory)

    @property
    def size(self) -> int:
        """What the journal takes on disk, as `limit` counts it."""
        return self._bytes_others + sum(segment.bytes for segment in self._segments)

    # --- on the event loop -------------------------------------------------------------------

    def append(self, body: bytes) -> bool:
        """Store a record; on return it survives the process. False: not taken, memory is full.

        When the disk does not take it, it is in memory and `disk_error` says why.
        """
        position = self.last + 1
        if self._active is not None and self.size >= self._limit:
            self._leave_disk(self._full)
        if self._active is not None:
            try:
                self._active.append(position, body)
            except DiskFailed as error:
                self._leave_disk(str(error))
            else:
                if self._is_grown(self._active):
                    self.untidy.set()
        if self._active is None and not self._memory.append(position, body):
            return False
        self.last = position
        return True

    @property
    def _full(self) -> str:
        return f"the journal has its {self._limit} bytes"

    def _is_grown(self, segment: Segment) -> bool:
        return segment.bytes >= min(SEGMENT_BYTES, self._limit // 8)

    def _leave_disk(self, why: str) -> None:
        if not self.disk_error:
            log.error("journal_disk_failed reason=%s", why)
        self.disk_error = why
        self._active = None
        self.untidy.set()

    def renew(self) -> list[Segment]:
        """The files that have something now. The newest is not appended to for much longer."""
        old = [segment for segment in self._segments if segment.last]
        for segment in old:
            segment.is_old = True
        self.untidy.set()
        return old

    def drop(self, position: int) -> None:
        """Postgres has everything up to `position`."""
        self.written = position
        self._memory.drop(position)

    # --- beside it ---------------------------------------------------------------------------

    async def read(self, limit: int) -> list[Read]:
        """The oldest records that Postgres does not have. Raises `DiskFailed`, `SegmentBroken`."""
        await self._forget_written()
        if not self._segments or self._segments[0].last <= self.written:
            rows = self._memory.rows(self.written, limit)
            return [(position, read_body(body)) for position, body in rows]
        head = self._segments[0]
        if found := await self.thread.run(head.read, self.written, limit):
            return found
        raise SegmentBroken(f"expected records up to {head.last}, got none")

    async def skip_broken(self) -> int:
        """Put the oldest segment aside, unread; the number of records that were in it."""
        head = self._segments.popleft()
        if head is self._active:
            self._leave_disk(f"{head.path} is broken")
        before, self.written = self.written, max(self.written, head.last)
        await self.thread.run(head.put_aside)
        return self.written - before

    async def _forget_written(self) -> None:
        while (
            self._segments
            and self._segments[0] is not self._active
            and self._segments[0].last <= self.written
        ):
            await self.thread.run(_remove, self._segments.popleft())

    async def tidy(self) -> bool:
        """What has to be done at the start, now and then, and when `untidy` is set.

        What was said does not stay: a segment whose records are all in Postgres goes, the active
        one too. False: the disk failed, so it has to be tried again soon.
        """
        self.untidy.clear()
        try:
            await self._forget_written()
            behind = [segment for segment in self._segments if segment is not self._active]
            for segment in behind[:-1]:  # the newest is about to be in Postgres, if all is well
                await self.thread.run(segment.seal)
            own = self._folder.path if self._folder else None
            self._bytes_others = await self.thread.run(measure, self._directory, own)
            active = self._active
            is_over = active is None or active.is_old or self._is_grown(active)
            if is_over or (active is not None and 0 < active.last <= self.written):
                await self._begin_segment()
                await self._forget_written()
        except (DiskFailed, SegmentBroken) as error:
            if self._active is None:
                self._leave_disk(str(error))
            self.untidy.clear()
            return False
        return True

    async def _begin_segment(self) -> None:
        """Append to a new file from now on, after what memory has. Raises `DiskFailed`,
        `SegmentBroken`."""
        memory = self._memory
        # Not at the first byte that is free: it would go to and fro.
        if self.size + 2 * memory.bytes >= 0.9 * self._limit:
            if self._active is None:
                raise DiskFailed(self._full)
            return
        segment = await self.thread.run(self._make_segment)
        try:
            while rows := self._not_in(segment):
                await self.thread.run(segment.extend, rows)
        except BaseException:
            self.thread.submit(_remove, segment)
            raise
        self._segments.append(segment)
        self._active = segment
        if self.disk_error:
            log.warning("journal_disk_recovered records=%d", len(memory))
        self.disk_error = ""
        memory.drop(self.last)

    def _make_segment(self) -> Segment:
        if self._folder is None:
            self._folder = JournalDirectory.create(self._directory)
        return self._folder.new_segment()

    def _not_in(self, segment: Segment) -> list[Row]:
        return self._memory.rows(max(segment.last, self.written), _SLICE)

    def close(self) -> int:
        """Leave to the next process what is not in Postgres; how many records could not be left.

        It blocks until the files are closed, so that it works in a task that is being cancelled.
        """
        lost = self.thread.submit(self._close).result()
        self.thread.shutdown()
        return lost

    def _close(self) -> int:
        try:
            self._save_memory()
            lost = 0
        except (DiskFailed, SegmentBroken):
            lost = self.volatile
        for segment in self._segments:
            if segment.last > self.written:
                segment.close()
            else:
                _remove(segment)
        if self._folder is not None:
            self._folder.release()
        self._active = None
        self._memory = Memory(0)  # takes no more
        self.disk_error = "the journal is closed"
        return lost

    def _save_memory(self) -> None:
        if self.volatile:
            segment = self._make_segment()
            self._segments.append(segment)
            while rows := self._not_in(segment):
                segment.extend(rows)


def _remove(segment: Segment) -> None:
    try:
        segment.remove()
    except DiskFailed as error:  # the next process finds it
        log.error("journal_disk_failed file=%s reason=%s", segment.path, error)
