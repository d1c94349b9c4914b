"""What processes that are gone left in the journal's directory: written to Postgres, and removed.

They died, or could not finish. Their folders are looked for every few seconds, and when asked.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from relay.journal.directory import JournalDirectory, take_orphan
from relay.journal.segment import DiskFailed, FileThread, Segment, SegmentBroken
from relay.journal.writer import BATCH, Write, Writer
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0  # how soon the journal of a worker that died is found by the others


class Adoption:
    """`waiting`: records of others that were found and are not written yet."""

    def __init__(self, write: Write, directory: Path, thread: FileThread, metrics: Metrics) -> None:
        self.waiting = 0
        self.writer = Writer(write, directory, thread, metrics, lambda: self.waiting)
        self._directory = directory
        self._thread = thread
        self._metrics = metrics
        self._sweep_asked = asyncio.Event()
        self._swept: list[asyncio.Event] = []
        self._unreadable: set[Path] = set()

    async def sweep(self) -> None:
        """Wait until all that was left before now is in Postgres, if it can be read."""
        swept = asyncio.Event()
        self._swept.append(swept)
        self._sweep_asked.set()
        await swept.wait()

    async def run(self) -> None:
        """Adopt whatever is left behind, then wait until it is time to look again."""
        self._sweep_asked.clear()
        asked, self._swept = self._swept, []
        passed_over: set[Path] = set()
        while folder := await self._thread.run(take_orphan, self._directory, passed_over):
            passed_over.add(folder.path)
            await self._adopt_folder(folder)
        for swept in asked:
            swept.set()
        try:
            async with asyncio.timeout(SWEEP_SECONDS):
                await self._sweep_asked.wait()
        except TimeoutError:
            pass  # then without being asked

    async def _adopt_folder(self, folder: JournalDirectory) -> None:
        adopted = 0
        segments: list[Segment] = []
        try:
            segments = await self._thread.run(folder.segments)
            for segment in segments:
                adopted += await self._adopt_segment(segment)
        except DiskFailed as error:
            if folder.path not in self._unreadable:  # it is tried again at every sweep
                self._unreadable.add(folder.path)
                log.error("journal_unreadable folder=%s reason=%s", folder.path, error)
        finally:
            self.waiting = 0
            for segment in segments:
                self._thread.submit(segment.close)
            self._thread.submit(folder.release)
            if adopted:
                log.warning("journal_adopted folder=%s records=%d", folder.path.name, adopted)

    async def _adopt_segment(self, segment: Segment) -> int:
        """Write it and remove it; how many records were in it."""
        run = self._thread.run
        found = adopted = position = 0
        try:
            found = await run(segment.survey)
            self.waiting += found
            while position < segment.last:
                rows = await run(segment.read, position, BATCH)
                async for done, written in self.writer.deliver(rows):
                    adopted += len(done)
                    self.waiting -= len(done)
                    self._metrics.journal_adopted.inc(len(done) if written else 0)
                position = rows[-1][0] if rows else segment.last
        except SegmentBroken as error:
            self.writer.lose(found - adopted or 1, error)
            await run(segment.put_aside)
        else:
            await run(segment.remove)
        return adopted
