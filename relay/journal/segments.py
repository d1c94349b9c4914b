"""Everything this process has appended and Postgres does not have yet: segments, one after another.

On local disk as long as there is room on it. When the disk fails, or the journal has grown to its
limit, what comes next is kept in memory, loudly and bounded too; when the disk is back it goes
there before anything newer does. So the order of the segments is the order of the records.

The event loop calls `append` and `drop`; whatever is slow (making, sealing, reading and deleting
files) runs in the one thread of files.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice
from pathlib import Path

from relay.journal.files import JournalFiles
from relay.journal.segment import DiskFailed, Read, Row, Segment, SegmentBroken, read_body

log = logging.getLogger(__name__)

SEGMENT_BYTES = 8 << 20  # the log of one segment: some 3,500 messages, a fifth when it is sealed
MEMORY_BYTES = 16 << 20  # what is kept when the disk does not take it: some 40,000 messages
_SLICE = 2_000  # records that move from memory to disk in one transaction
_AT_ONCE = 100  # records that may move from memory to disk on the event loop: 2 ms


class SegmentsFull(Exception):
    """Neither disk nor memory took the record."""


class Memory:
    """A segment that goes with the process; its positions have no gaps."""

    def __init__(self) -> None:
        self.last = 0
        self.bytes = 0
        self._rows: deque[Row] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, position: int, body: bytes) -> None:
        self._rows.append((position, body))
        self.last = position
        self.bytes += len(body)

    def rows(self, after: int, limit: int) -> list[Row]:
        first = max(0, after + 1 - self._rows[0][0]) if self._rows else 0
        return list(islice(self._rows, first, first + limit))

    def drop(self, position: int) -> None:
        while self._rows and self._rows[0][0] <= position:
            self.bytes -= len(self._rows.popleft()[1])


class Segments:
    """An ordered store of encoded records; a record's position counts from 1."""

    def __init__(self, directory: Path, *, limit: int, memory_limit: int = MEMORY_BYTES) -> None:
        """`limit` is in bytes and for the whole directory, other processes included."""
        self.files = JournalFiles(directory)
        self.last = 0  # the newest position
        self.written = 0  # Postgres has everything up to here
        self.disk_error = ""  # why records are kept in memory; empty: they are not
        self.untidy = asyncio.Event()
        self._limit = limit
        self._memory_limit = memory_limit
        self._segment_bytes = min(SEGMENT_BYTES, limit // 8)
        self._segments: deque[Segment | Memory] = deque([Memory()])
        self._bytes_behind = 0  # of all segments but the last, and of other processes
        self._bytes_others = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Segments {self.written}..{self.last} segments={len(self._segments)}>"

    @property
    def waiting(self) -> int:
        """Records that Postgres does not have."""
        return self.last - self.written

    @property
    def volatile(self) -> int:
        """Of these, the ones that only memory has."""
        newest = self._segments[-1]  # memory is never behind a file
        return len(newest) if isinstance(newest, Memory) else 0

    @property
    def size(self) -> int:
        """What the journal takes on disk, as `limit` counts it."""
        active = self._segments[-1]
        return self._bytes_behind + (0 if isinstance(active, Memory) else active.bytes)

    # --- on the event loop -------------------------------------------------------------------

    def append(self, body: bytes) -> None:
        """Store a record; on return it survives the process. Raises `SegmentsFull`: not taken.

        When the disk does not take it, it is in memory and `disk_error` says why.
        """
        if self._closed:
            raise SegmentsFull("the journal is closed")
        position = self.last + 1
        active = self._segments[-1]
        if isinstance(active, Segment):
            if self.size >= self._limit:
                self._continue_in_memory(self._full())
            else:
                if active.bytes >= self._segment_bytes:
                    active = self._rotate(active)
                try:
                    active.append(position, body)
                    self.last = position
                    return
                except DiskFailed as error:
                    self._continue_in_memory(str(error))
        self._append_to_memory(position, body)

    def _append_to_memory(self, position: int, body: bytes) -> None:
        memory = self._segments[-1]
        assert isinstance(memory, Memory)
        if memory.bytes + len(body) > self._memory_limit:
            raise SegmentsFull(f"{self.disk_error or 'not open yet'}, and memory is full as well")
        memory.append(position, body)
        self.last = position

    def _continue_in_memory(self, why: str) -> None:
        self._note_disk_error(why)
        self._add(Memory())

    def _full(self) -> str:
        return f"the journal has its {self._limit} bytes"

    def _note_disk_error(self, why: str) -> None:
        if not self.disk_error:
            log.error("journal_disk_failed reason=%s: records are kept in memory", why)
        self.disk_error = why

    def _rotate(self, active: Segment) -> Segment:
        """Begin the next segment, if it is there already: making one takes too long to wait."""
        spare, self.files.spare = self.files.spare, None
        self.untidy.set()
        if spare is None:
            return active
        self._add(spare)
        return spare

    def _add(self, segment: Segment | Memory) -> None:
        self._segments.append(segment)
        self._recount_bytes()
        self.untidy.set()

    def _recount_bytes(self) -> None:
        behind = list(self._segments)[:-1]
        own = sum(segment.bytes for segment in behind if isinstance(segment, Segment))
        self._bytes_behind = own + self._bytes_others

    def drop(self, position: int) -> None:
        """Postgres has everything up to `position`."""
        self.written = position
        newest = self._segments[-1]
        if isinstance(newest, Memory):
            newest.drop(position)

    # --- beside it ---------------------------------------------------------------------------

    async def read(self, limit: int) -> list[Read]:
        """The oldest records that Postgres does not have. Raises `DiskFailed`, `SegmentBroken`."""
        while True:
            await self._forget_written()
            head = self._segments[0]
            if head.last <= self.written:
                return []
            if isinstance(head, Memory):
                return [(at, read_body(body)) for at, body in head.rows(self.written, limit)]
            if rows := await self.files.run(head.read, self.written, limit):
                return rows
            raise SegmentBroken(f"expected records up to {head.last}, got none")

    async def skip_broken(self) -> int:
        """Put the oldest segment aside, unread; the number of records that were in it."""
        head = self._segments[0]
        assert isinstance(head, Segment)
        if head is self._segments[-1]:
            self._continue_in_memory(f"{head.path} is broken")
        before, self.written = self.written, max(self.written, head.last)
        self._segments.popleft()
        self._recount_bytes()
        await self.files.run(self.files.put_aside, head)
        return self.written - before

    async def _forget_written(self) -> None:
        while len(self._segments) > 1 and self._segments[0].last <= self.written:
            done = self._segments.popleft()
            self._recount_bytes()
            if isinstance(done, Segment):
                await self.files.run(self.files.finish, done)

    async def open(self) -> None:
        """Be ready to append to disk; if that fails, memory has to do for now."""
        try:
            await self.tidy()
        except (DiskFailed, SegmentBroken) as error:
            self._note_disk_error(str(error))

    async def tidy(self) -> None:
        """What has to be done now and then, and when `untidy` is set. Raises `DiskFailed`."""
        self.untidy.clear()
        await self._forget_written()
        # The last one behind is about to be in Postgres and gone, if all is well.
        for segment in list(self._segments)[:-2]:
            if isinstance(segment, Segment) and not segment.sealed:
                await self.files.run(segment.seal)
        self._bytes_others = await self.files.run(self.files.measure_others)
        self._recount_bytes()
        if self.files.spare is None and self.size < self._limit:
            await self.files.run(self.files.make_spare)
        newest = self._segments[-1]
        if isinstance(newest, Memory):
            # Not at the first byte that is free: it would go to and fro.
            if self.files.spare and self.size + 2 * newest.bytes <= 0.9 * self._limit:
                await self._move_to_disk(newest, self.files.spare)
            elif not self.disk_error:
                self._note_disk_error(self._full())

    async def rotate_written(self) -> None:
        """Begin a new segment if the present one is in Postgres: what was said does not stay."""
        active = self._segments[-1]
        if isinstance(active, Segment) and 0 < active.last <= self.written:
            self._rotate(active)
            await self._forget_written()

    async def _move_to_disk(self, memory: Memory, spare: Segment) -> None:
        """From memory to disk, nearly all of it in the thread."""
        try:
            while len(rows := self._not_in(spare, memory)) > _AT_ONCE:
                await self.files.run(spare.extend, rows)
            if rows:
                spare.extend(rows)
        except (DiskFailed, SegmentBroken) as error:
            self.files.spare = None
            await self.files.run(self.files.finish, spare, wanted=False)
            raise DiskFailed(str(error)) from error
        self.files.spare = None
        self._segments[-1] = spare
        self.untidy.set()  # another spare
        if self.disk_error:
            log.warning("journal_disk_recovered records=%d", len(memory))
        self.disk_error = ""

    def _not_in(self, spare: Segment, memory: Memory) -> list[Row]:
        return memory.rows(max(spare.last, self.written), _SLICE)

    def close(self) -> int:
        """Leave to the next process what is not in Postgres; how many records could not be left.

        It blocks until the files are closed, so that it works in a task that is being cancelled.
        """
        self._closed = True
        lost = self.files.submit(self._close).result()
        self.files.shut_down()
        return lost

    def _close(self) -> int:
        lost = self._save_memory()
        for segment in [*self._segments, self.files.spare]:
            if isinstance(segment, Segment):
                self.files.finish(segment, wanted=segment.last > self.written)
        self.files.release()
        return lost

    def _save_memory(self) -> int:
        memory = self._segments[-1]
        try:
            while isinstance(memory, Memory) and self.written < self.last:
                if self.files.spare is None:
                    self.files.make_spare()
                assert self.files.spare is not None
                rows = self._not_in(self.files.spare, memory)
                if not rows:
                    break
                self.files.spare.extend(rows)
        except (DiskFailed, SegmentBroken):
            return self.volatile
        return 0
