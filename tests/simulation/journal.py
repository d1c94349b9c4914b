"""The journal of a relay as relay/journal promises it: in order, on a disk that outlives the
process, and written again if nobody knows whether it was written."""

from __future__ import annotations

from collections.abc import Callable

from relay.backoff import Backoff
from relay.core.records import Record
from tests.simulation.clock import Ask, Process, Work
from tests.simulation.database import Database, Unavailable

GATHER_SECONDS = 0.5
RETRY = Backoff(first=0.1, longest=2.0)
Saved = Callable[[], None]


class Rows:
    """One process's folder: the records that Postgres does not have."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.written = 0  # of all that was ever appended

    @property
    def last(self) -> int:
        return self.written + len(self.records)


class Journal:
    """`rows` are on the disk; who wants to hear of them is not."""

    def __init__(self, process: Process, database: Database, rows: Rows, jitter) -> None:
        self.rows = rows
        self._process = process
        self._database = database
        self._jitter = jitter
        self._saved: list[tuple[int, Saved]] = []
        self._waiting: list[tuple[int, Callable[[object], None]]] = []
        self._timer: list | None = None
        self._is_writing = False
        if rows.records:
            self._hurry(0.0)

    def append(
        self, record: Record, saved: Saved | None = None, *, in_a_hurry: bool = False
    ) -> bool:
        self.rows.records.append(record)
        if saved is not None:
            self._saved.append((self.rows.last, saved))
        self._hurry(0.0 if in_a_hurry else GATHER_SECONDS)
        return True

    def settled(self) -> Ask:
        """Wait until all that was appended before now is written."""

        def ask(resume) -> None:
            if not self.rows.records:
                resume(True)
                return
            self._waiting.append((self.rows.last, resume))
            self._hurry(0.0)

        return ask

    def _hurry(self, seconds: float) -> None:
        if self._is_writing:
            return
        at = self._process.clock.now + seconds
        if self._timer is not None:
            if self._timer[0] <= at:
                return
            self._process.clock.forget(self._timer)
        self._timer = self._process.later(seconds, self._begin)

    def _begin(self) -> None:
        self._timer, self._is_writing = None, True
        self._process.start(self._write())

    def _write(self) -> Work:
        failures = 0
        while self.rows.records:
            batch = list(self.rows.records)
            try:
                yield self._database.ask(self._process, self._database.flush, batch)
            except Unavailable:
                failures += 1
                yield RETRY.pause(failures, self._jitter())
                continue
            failures = 0
            del self.rows.records[: len(batch)]
            self.rows.written += len(batch)
            while self._saved and self._saved[0][0] <= self.rows.written:
                self._saved.pop(0)[1]()
            reached = [one for one in self._waiting if one[0] <= self.rows.written]
            self._waiting = [one for one in self._waiting if one[0] > self.rows.written]
            for _, resume in reached:
                resume(True)
            if self.rows.records and not self._waiting:
                break
        self._is_writing = False
        if self.rows.records:
            self._hurry(GATHER_SECONDS)
