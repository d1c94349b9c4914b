"""The folder of one process in the journal's directory, and who may have it.

A process holds its folder by a lock of the operating system (`flock`), which goes when the process
does, however that dies. Who gets the lock of somebody else's folder knows that nobody is left who
writes there, and takes over what is in it. The directory has to be on a local disk; processes that
share it have to be on one machine.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from uuid_utils.compat import uuid7

from relay.journal.segment import DiskFailed, Segment, size_of

_PRIVATE = 0o700  # what people said


class JournalDirectory:
    """A folder that this process holds; `create` and `take` are the ways to get one."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._number = 0

    def __repr__(self) -> str:
        return f"<JournalDirectory {self.path.name}>"

    @classmethod
    def create(cls, directory: Path) -> JournalDirectory:
        """A new folder. Raises `DiskFailed`."""
        try:
            directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            while True:
                path = directory / str(uuid7())  # they sort by when their processes began
                path.mkdir(mode=_PRIVATE)
                # Between these two lines it may be taken for one that is left over.
                if folder := cls.take(path):
                    return folder
        except OSError as error:
            raise DiskFailed(f"{directory}: {error.strerror}") from error

    @classmethod
    def take(cls, path: Path) -> JournalDirectory | None:
        """The folder at `path`; None when another process holds it, or it is not there."""
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return cls(path, lock)
        except OSError:
            pass  # held, or removed by the one who held it
        os.close(lock)
        return None

    def new_segment(self) -> Segment:
        """The next file. Raises `DiskFailed`."""
        self._number += 1
        return Segment.create(self.path / f"{self._number:08}.db")

    def segments(self) -> list[Segment]:
        """The files that are there, in order. Raises `DiskFailed`."""
        try:
            return [Segment(path) for path in sorted(self.path.glob("*.db"))]
        except OSError as error:
            raise DiskFailed(f"{self.path}: {error.strerror}") from error

    def release(self) -> None:
        """Let others have it; it is removed when nothing is left in it."""
        try:
            for rest in self.path.glob("*.db-*"):  # of a table whose removal was cut short
                if not rest.with_name(rest.name.rpartition("-")[0]).exists():
                    rest.unlink()
            self.path.rmdir()
        except OSError:
            pass  # something is in it: the next one will see
        finally:
            os.close(self._lock)


def take_orphan(directory: Path, passed_over: set[Path]) -> JournalDirectory | None:
    """The oldest folder whose process is gone, held from now on; None: there is none."""
    for path in _folders(directory):
        if path not in passed_over and (folder := JournalDirectory.take(path)):
            return folder
    return None


def measure(directory: Path, without: Path | None) -> int:
    """The bytes of all segments in the directory, those of one folder left out."""
    folders = (path for path in _folders(directory) if path != without)
    try:
        return sum(size_of(segment) for path in folders for segment in path.glob("*.db"))
    except OSError:
        return 0  # one was removed just now; the next time will do


def _folders(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError:
        return []
