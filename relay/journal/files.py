"""The files of one process's journal, and the one thread for whatever is slow with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from relay.journal.condemned import Condemned
from relay.journal.directory import JournalDirectory, measure
from relay.journal.segment import DiskFailed, Segment

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class JournalFiles:
    """Everything here but `run` and `submit` may block: the thread calls it.

    The process has a folder of its own from its first segment on. `spare` is a segment that was
    made before it is needed; whoever uses it sets None.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.condemned = Condemned(directory)
        self.spare: Segment | None = None
        self._folder: JournalDirectory | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call something in the thread; it is carried out even if we are cancelled."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(function, *args, **kwargs)))

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """The same, without waiting for it; also from a task that is being cancelled."""
        return self._thread.submit(function, *args, **kwargs)

    def make_spare(self) -> None:
        """Raises `DiskFailed`."""
        if self._folder is None:
            self._folder = JournalDirectory.create(self.directory)
        self.spare = self._folder.new_segment()

    def measure_others(self) -> int:
        """The bytes that other processes have in the directory."""
        return measure(self.directory, without=self._folder.path if self._folder else None)

    def finish(self, segment: Segment, *, wanted: bool = False) -> None:
        """Close a segment that is `wanted`, remove one that is not."""
        try:
            if wanted:
                segment.close()
            else:
                segment.remove()
        except DiskFailed as error:  # the next process finds it
            log.error("journal_disk_failed file=%s: %s", segment.path, error)

    def put_aside(self, segment: Segment) -> None:
        """Move a broken segment out of its folder, for people to look at."""
        path = self.directory / f"{segment.path.parent.name}-{segment.path.stem}.broken"
        log.error("journal_broken file=%s", path)
        try:
            segment.set_aside(path)
        except DiskFailed as error:  # the next process finds it and tries again
            log.error("journal_disk_failed file=%s: %s", segment.path, error)

    def release(self) -> None:
        """Let others have our folder."""
        if self._folder is not None:
            self._folder.release()

    def shut_down(self) -> None:
        """Wait until the thread has done all that it was asked."""
        self._thread.shutdown()
