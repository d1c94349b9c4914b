"""Writes what happens in the sessions of this process into files, beside them.

A session's lines are made where they happen and wait in memory; a thread writes them, every second.
When more wait than may, or the disk refuses, lines are lost and counted: nobody is slowed. What a
killed process had not written yet is lost, too.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import msgspec

from relay.core.actions import Action
from relay.core.beginning import Beginning
from relay.core.events import Event
from relay.core.records import SessionEnded
from relay.core.watcher import Counts
from relay.recorder.audio_recorder import (
    PRIVATE_DIRECTORY,
    PRIVATE_FILE,
    SUFFIXES,
    AudioRecorder,
    AudioRecording,
)
from relay.recorder.backlog import Backlog
from relay.recorder.recording import Scribe
from relay.recorder.redaction import Redactor
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
TIDY_SECONDS = 60.0
WAITING_BYTES = 16 << 20  # of all sessions of a process
STOP_SECONDS = 5.0
SUFFIX = ".ndjson"


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one session; bytes of all files in the directory, those of other processes included;
    days that a file stays after its last line (0: for ever)."""

    session_bytes: int
    total_bytes: int
    days: float


class Recorder:
    """Of one process; several may share a directory. `watch` and `listen` are for the session
    registry; `audio` writes the sound, in the same thread (None: no sound is recorded)."""

    def __init__(
        self,
        directory: Path,
        bounds: Bounds,
        metrics: Metrics,
        *,
        keeps_content: bool = False,
        audio: AudioRecorder | None = None,
    ) -> None:
        self.directory = directory
        self._audio = audio
        self._bounds = bounds
        self._metrics = metrics
        self._keeps_content = keeps_content
        self._waiting = Backlog[tuple[Path, bytes]](WAITING_BYTES)
        self._writing = threading.Lock()
        self._stopped = threading.Event()
        self._is_failing = False

    def __repr__(self) -> str:
        return f"<Recorder {self.directory} waiting={len(self._waiting)}>"

    def watch(self, beginning: Beginning) -> SessionRecording:
        """Record this session."""
        admitted = beginning.admitted
        name = f"{admitted.session_id}.{admitted.epoch}{SUFFIX}"
        path = self.directory / str(admitted.conversation_id) / name
        redactor = Redactor(secrets.token_bytes(16), keeps_content=self._keeps_content)
        most = self._bounds.session_bytes
        return SessionRecording(self, path, Scribe(beginning, redactor), most)

    def listen(self, beginning: Beginning) -> AudioRecording | None:
        """Record the audio of this session, if that is allowed and its user wants it."""
        return self._audio.listen(beginning) if self._audio else None

    def put(self, path: Path, line: bytes) -> bool:
        """Have this written behind what is in the file; False: there is no room for it."""
        has_room = self._waiting.put((path, line), len(line))
        if not has_room:
            self._metrics.recording_lines_lost.inc()
        return has_room

    @contextmanager
    def running(self) -> Iterator[None]:
        """Lines are written while inside, and on the way out what still waits."""
        thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join(STOP_SECONDS)

    def _work(self) -> None:
        tidy_at = 0.0
        while True:
            is_last = self._stopped.wait(WRITE_SECONDS)
            try:
                self.write()
                if time.monotonic() >= tidy_at:
                    tidy_at = time.monotonic() + TIDY_SECONDS
                    self.tidy()
            except Exception:
                # The top of this thread: the next second may do better.
                log.exception("recorder_broken")
            if is_last:
                return

    # --- what blocks -------------------------------------------------------------------------

    def write(self) -> None:
        """What waits, into its files."""
        with self._writing:  # whoever erases writes, too
            lines: dict[Path, list[bytes]] = defaultdict(list)
            for path, line in self._waiting.take():
                lines[path].append(line)
            for path, text in lines.items():
                self._append(path, text)
            if self._audio is not None:
                self._audio.write()

    def _append(self, path: Path, lines: list[bytes]) -> None:
        try:
            _append(path, b"".join(lines))
            self._is_failing = False
        except OSError as error:
            self._metrics.recording_lines_lost.inc(len(lines))
            if not self._is_failing:
                log.error("recording_refused path=%s reason=%s", path, error.strerror)
            self._is_failing = True

    def tidy(self) -> None:
        """Remove what is too old, and of the rest the oldest until there is not too much."""
        files = []
        for path in self.directory.glob("*/*"):
            if not path.name.endswith((SUFFIX, *SUFFIXES)):
                continue
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # another process was faster
            files.append((found.st_mtime, found.st_size, path))
        files.sort()
        size = sum(each for _, each, _ in files)
        oldest = time.time() - self._bounds.days * 86400 if self._bounds.days else 0.0
        for written, bytes_, path in files:
            if written >= oldest and size <= self._bounds.total_bytes:
                break
            path.unlink(missing_ok=True)
            size -= bytes_
            _remove_empty(path.parent)
        self._metrics.recording_bytes.set(size)

    def list_conversations(self) -> set[UUID]:
        """Those that there are recordings of."""
        found = set()
        for path in self.directory.iterdir():
            try:
                found.add(UUID(path.name))
            except ValueError:
                continue  # nothing of ours
        return found

    def erase(self, conversations: Iterable[UUID]) -> int:
        """Remove all recordings of these, and what waits for them; how many conversations there
        were."""
        self.write()
        count = 0
        for conversation_id in conversations:
            path = self.directory / str(conversation_id)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                count += 1
        return count


class SessionRecording:
    """A `Watcher` that writes down what it hears, until its file is full."""

    def __init__(self, recorder: Recorder, path: Path, scribe: Scribe, most: int) -> None:
        self._recorder = recorder
        self._path = path
        self._scribe = scribe
        self._room = most
        self._drawn: list[UUID | float | str] = []
        self._lost = 0
        self._has_begun = False
        self._counts: Counts | None = None

    def drew(self, value: UUID | float | str) -> None:
        self._drawn.append(value)

    def told(self, now: float, event: Event | None, text: bytes, asked: list[Action]) -> None:
        drawn, self._drawn = self._drawn, []
        if not self._has_begun:
            self._has_begun = True
            self._put(now, self._scribe.beginning(drawn))
            drawn = []
        for line in self._scribe.event(now, event, text, asked, drawn):
            self._put(now, line)

    def replied(self, now: float) -> None:
        self._put(now, self._scribe.first_audio(now))

    def counted(self, now: float, counts: Counts) -> None:
        if counts != self._counts:
            self._counts = counts
            self._put(now, self._scribe.counts(now, counts))

    def ended(self, now: float, ended: SessionEnded) -> None:
        self._write(now, self._scribe.end(now, ended))

    def _put(self, now: float, line: bytes) -> None:
        if self._room <= 0:
            return
        self._room -= len(line)
        if self._room <= 0:
            line = self._scribe.cut(now)
        self._write(now, line)

    def _write(self, now: float, line: bytes) -> None:
        if self._lost and self._recorder.put(self._path, self._scribe.gap(now, self._lost)):
            self._lost = 0
        self._lost += not self._recorder.put(self._path, line)


def _append(path: Path, text: bytes) -> None:
    """All of it or nothing. Raises `OSError`."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        file = os.open(path, flags, PRIVATE_FILE)
    except FileNotFoundError:
        path.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        file = os.open(path, flags, PRIVATE_FILE)
    try:
        size = os.fstat(file).st_size
        try:
            left = memoryview(text)
            while left:
                left = left[os.write(file, left) :]
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


def _remove_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        pass  # there are others
