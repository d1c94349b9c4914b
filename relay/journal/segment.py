"""One file of the journal: records in the order of their positions, in sqlite.

The event loop appends and a `FileThread` does all the rest, each with a connection of its own.
While a segment is appended to nobody checkpoints it and nothing is deleted from it: the log in
front of the table (WAL) only grows, so an append never waits for another connection or for `fsync`.
A segment that has grown is sealed: its log is folded into the table, which makes it a fifth of the
size.

What `append` returned from survives the death of the process, however it dies: the operating system
has it. It may not survive a power cut or a crash of the system: with `synchronous=NORMAL` a log
that is not sealed yet is not forced to the disk (a file that is cut short loses its last records,
it does not break).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar, TypeVarTuple

import msgspec

from relay.core.records import Record

log = logging.getLogger(__name__)

_PAGE = 1024  # a log is written in whole pages; measured: 4096 doubles the bytes of a record
_FRAME = _PAGE + 24
_FRAMES = 2  # a row's page, and now and then a new one with its parent

Row: TypeAlias = tuple[int, bytes]
Read: TypeAlias = tuple[int, Record | bytes]  # bytes: as they were, they cannot be decoded

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


class DiskFailed(Exception):
    """The disk did not do it: full, read-only, broken; it may later."""


class SegmentBroken(Exception):
    """A file whose contents are no longer those of a segment; trying again will not help."""


class FileThread(ThreadPoolExecutor):
    """The one thread for whatever is slow with the files of a process's journal: one thing after
    another, and it is carried out even if who waits for it is cancelled."""

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="journal")

    async def run(self, function: Callable[[*_Arguments], _T], *args: *_Arguments) -> _T:
        return await asyncio.shield(asyncio.wrap_future(self.submit(function, *args)))


class Segment:
    """Records of one process; positions grow and `last` is the newest one (0: none). `is_old`: it
    is not to be appended to any more."""

    def __init__(self, path: Path) -> None:
        """A segment that exists, to be read; `create` makes one that can be appended to."""
        self.path = path
        self.last = 0
        self.bytes = 0
        self.is_old = False
        self._writer: sqlite3.Connection | None = None
        self._reading: sqlite3.Cursor | None = None  # of the writer, never read to its end
        self._reader: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"<Segment {self.path.name} last={self.last} bytes={self.bytes}>"

    @classmethod
    def create(cls, path: Path) -> Segment:
        """A new segment. Raises `DiskFailed`."""
        segment = cls(path)
        with _translated():
            # No time-out: it would be waited for on the event loop.
            writer = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
            segment._writer = writer
            try:
                # An `fsync` in the thread holds up who writes on the event loop; there is nothing
                # in the file yet that would need it.
                writer.execute("PRAGMA synchronous = OFF")
                writer.execute(f"PRAGMA page_size = {_PAGE}")
                (mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
                if mode != "wal":
                    raise DiskFailed(f"expected a disk that can do WAL, got journal mode {mode}")
                writer.execute("PRAGMA wal_autocheckpoint = 0")
                writer.execute(
                    "CREATE TABLE record (position INTEGER PRIMARY KEY, body BLOB NOT NULL)"
                )
                writer.execute("PRAGMA synchronous = NORMAL")
                # Who reads already need not lock the file anew for each append, and give it back:
                # these were six of its ten system calls, and are two.
                rows = "SELECT rootpage FROM sqlite_master"
                segment._reading = writer.execute(f"{rows} UNION ALL {rows}")
            except (sqlite3.Error, DiskFailed):
                segment.remove()
                raise
        return segment

    def append(self, position: int, body: bytes) -> None:
        """Store one row; on return it survives the process. Raises `DiskFailed`."""
        assert self._writer is not None, "appended to a sealed segment"
        try:
            self._writer.execute("INSERT INTO record VALUES (?, ?)", (position, body))
        except sqlite3.Error as error:
            raise DiskFailed(str(error)) from error
        self.last = position
        self.bytes += _FRAME * (_FRAMES + len(body) // _PAGE)  # near enough; sealing makes it exact

    def extend(self, rows: Sequence[Row]) -> None:
        """Store some rows, all or none. Raises `DiskFailed`."""
        assert self._writer is not None, "appended to a sealed segment"
        with _translated():
            self._writer.execute("BEGIN")
            try:
                self._writer.executemany("INSERT INTO record VALUES (?, ?)", rows)
                self._writer.execute("COMMIT")
            except sqlite3.Error:
                self._writer.rollback()
                raise
        self.last = rows[-1][0]
        self.bytes = size_of(self.path)

    def read(self, after: int, limit: int) -> list[Read]:
        """The next rows behind a position. Raises `DiskFailed` and `SegmentBroken`."""
        with _translated():
            rows = self._opened().execute(
                "SELECT position, body FROM record WHERE position > ? ORDER BY position LIMIT ?",
                (after, limit),
            )
            return [(position, read_body(body)) for position, body in rows]

    def survey(self) -> int:
        """How many rows it has; `last` and `bytes` are right from now on. Raises as `read`."""
        with _translated():
            query = "SELECT count(*), coalesce(max(position), 0) FROM record"
            count, self.last = self._opened().execute(query).fetchone()
        self.bytes = size_of(self.path)
        return int(count)

    def _opened(self) -> sqlite3.Connection:
        if self._reader is None:
            reader = sqlite3.connect(self.path, isolation_level=None)
            if self._writer is None:
                # Ours alone: no shared memory file, which a full disk would have no room for.
                reader.execute("PRAGMA locking_mode = EXCLUSIVE")
            if not reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'record'").fetchone():
                # Its process died while it was made.
                reader.execute("CREATE TEMP TABLE record (position INTEGER, body BLOB)")
            self._reader = reader
        return self._reader

    def seal(self, *, wanted: bool = True) -> None:
        """Take no more records and become small; not `wanted`: it is about to be removed."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            if self._reading is not None:
                self._reading.close()
                self._reading = None
            _close(writer, wanted=wanted)
            self.bytes = size_of(self.path)

    def close(self, *, wanted: bool = True) -> None:
        """Close what is open; the rows stay."""
        self.seal(wanted=wanted)
        if self._reader is not None:
            reader, self._reader = self._reader, None
            _close(reader, wanted=wanted)

    def remove(self) -> None:
        """Delete it, with its rows. Raises `DiskFailed`."""
        self.close(wanted=False)
        with _translated():
            for path in _files(self.path):  # the table first: without it the log is nothing
                path.unlink(missing_ok=True)
        self.bytes = 0

    def put_aside(self) -> None:
        """Move it out of its folder, broken as it is, for people to look at."""
        folder = self.path.parent
        path = folder.with_name(f"{folder.name}-{self.path.stem}.broken")
        log.error("journal_broken file=%s", path)
        self.close()
        try:
            for old, new in zip(_files(self.path), _files(path), strict=True):
                if old.exists():
                    old.rename(new)
        except OSError as error:  # the next process finds it and tries again
            log.error("journal_disk_failed file=%s reason=%s", self.path, error.strerror)


def size_of(path: Path) -> int:
    """What a segment takes on disk, in bytes."""
    size = 0
    for file in _files(path):
        try:
            size += file.stat().st_size
        except OSError:
            pass  # there is none
    return size


def encode(record: Record) -> bytes:
    """A record as bytes; any record."""
    try:
        return _encoder.encode(record)
    except (OverflowError, UnicodeError):
        # An Orchestrator's result may hold what only Python's JSON can: 2**70, half a surrogate.
        return json.dumps(msgspec.to_builtins(record)).encode()


def decode(body: bytes) -> Record:
    """What `encode` was given. Raises `MsgspecError` or `ValueError`."""
    if body[:1] == b"{":  # msgpack never begins with it here: a record is a map
        record: Record = msgspec.convert(json.loads(body), Record)
    else:
        record = _decoder.decode(body)
    return record


def read_body(body: bytes) -> Record | bytes:
    """What `encode` was given; the bytes themselves when this version cannot read them."""
    try:
        return decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return body


def _close(connection: sqlite3.Connection, *, wanted: bool) -> None:
    try:
        if not wanted:
            connection.execute("PRAGMA synchronous = OFF")
        # Not left to `close`, which may keep the event loop from running meanwhile.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error:
        pass  # no room to fold the log: it stays, and can be read as it is
    finally:
        connection.close()


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DiskFailed(str(error)) from error
    except sqlite3.DatabaseError as error:
        raise SegmentBroken(str(error)) from error
    except OSError as error:
        raise DiskFailed(error.strerror or str(error)) from error
