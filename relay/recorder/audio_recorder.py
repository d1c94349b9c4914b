"""Writes the sound of sessions whose users agreed to it: a file for each side, beside the lines.

Frames are copied where they pass and wait in memory; the thread of the recorder writes them. When
more wait than may, or the disk refuses, they are lost and counted, and silence takes their place.
"""

from __future__ import annotations

import logging
import os
from copy import copy
from enum import Enum
from pathlib import Path
from time import monotonic
from uuid import UUID

from config.agent import Audio
from relay.core.actions import Action, ClearAudio
from relay.core.beginning import Beginning
from relay.core.events import Event
from relay.core.records import SessionEnded
from relay.core.watcher import Counts
from relay.recorder.backlog import Backlog
from relay.recorder.sound import find_sound
from relay.recorder.track import Loudspeaker, Microphone, Track
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

WAITING_BYTES = 16 << 20  # of all sessions of a process, beside the lines
SUFFIXES = (".user.wav", ".user.opus", ".agent.wav")
PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600  # what people said
_BLOCK_BYTES = 1 << 16


def can_record(audio: Audio) -> bool:
    """Whether both sides are of a kind that is written."""
    return find_sound(audio.input) is not None and find_sound(audio.output) is not None


class Mark(Enum):
    CLEARED = "cleared"
    ENDED = "ended"


class Room:
    """What the two sides of a session may take yet, in bytes."""

    def __init__(self, left: int) -> None:
        self.left = left


class SideFile:
    """One side of a session on disk, in one thread; its `track` begins at monotonic second
    `began`."""

    def __init__(self, path: Path, track: Track, room: Room, began: float) -> None:
        self.track = track
        self.began = began
        self.is_over = False
        self._path = path
        self._room = room
        self._is_made = False

    def __repr__(self) -> str:
        return f"<SideFile {self._path}>"

    def take(self, at: float, what: bytes | Mark) -> None:
        """Of that monotonic second."""
        second = max(0.0, at - self.began)
        match what:
            case Mark.ENDED:
                self.track.finish(second)
                self.is_over = True
            case Mark.CLEARED:
                if isinstance(self.track, Loudspeaker):
                    self.track.clear(second)
            case _:
                self.track.hear(second, what)

    def write(self) -> bool:
        """What its track has; whether anything was written. A file that was removed is not made
        again. Raises `OSError`."""
        track, sound = self.track, copy(self.track.sound)
        if not track.is_changed:
            return False
        size = sum(map(sound.size, track.pieces))
        if size > self._room.left:
            self._room.left, self.is_over = 0, True
            return False
        try:
            file = self._open()
        except FileNotFoundError:
            self._room.left, self.is_over = 0, True
            return False
        with os.fdopen(file, "r+b", _BLOCK_BYTES) as out:
            place = sound.place(track.start)
            if os.fstat(file).st_size > place:  # cut, or what was not written to its end
                out.write(sound.head(track.start))
                out.truncate(place)
            out.seek(place)
            for block in sound.encode(track.pieces, track.start):
                out.write(block)
            out.seek(0)
            out.write(sound.head(track.end))
        track.written(sound)
        self._room.left -= size
        return True

    def _open(self) -> int:
        if self._is_made:
            return os.open(self._path, os.O_RDWR)
        self._path.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
        self._is_made = True
        return file


class AudioRecorder:
    """Of one process. `listen` is for the session registry."""

    def __init__(self, directory: Path, session_bytes: int, metrics: Metrics) -> None:
        """`session_bytes`: what the sound of a session may take."""
        self._directory = directory
        self._session_bytes = session_bytes
        self._metrics = metrics
        self._waiting = Backlog[tuple[SideFile, float, bytes | Mark]](WAITING_BYTES)
        self._open: set[SideFile] = set()  # of who writes
        self._is_failing = False

    def __repr__(self) -> str:
        return f"<AudioRecorder {self._directory} waiting={len(self._waiting)}>"

    def listen(self, beginning: Beginning) -> AudioRecording | None:
        """Record the sound of this session, as its user wants; None: it is not."""
        admitted = beginning.admitted
        heard, said = find_sound(admitted.audio.input), find_sound(admitted.audio.output)
        if not admitted.record_audio or heard is None or said is None:
            return None
        folder = self._directory / str(admitted.conversation_id)
        name, room = f"{admitted.session_id}.{admitted.epoch}", Room(self._session_bytes)
        user, agent = (
            SideFile(folder / f"{name}.{side}{track.sound.suffix}", track, room, beginning.now)
            for side, track in (("user", Microphone(heard)), ("agent", Loudspeaker(said)))
        )
        return AudioRecording(self, user, agent, room)

    def put(self, side: SideFile, what: bytes | Mark) -> None:
        """This happens now. Sound that there is no room for is lost."""
        size = len(what) if isinstance(what, bytes) else 0
        if not self._waiting.put((side, monotonic(), what), size):
            self._metrics.recording_audio_lost_bytes.inc(size)

    def write(self) -> None:
        """What waits, into its files; blocks. Of one thread at a time."""
        now = monotonic()  # all that came until then waits already
        for side, at, what in self._waiting.take():
            if not side.is_over:
                self._open.add(side)
                side.take(at, what)
        for side in tuple(self._open):
            if not side.is_over:
                side.track.settle(now - side.began)
            self._write(side)
            if side.is_over:
                self._open.discard(side)

    def _write(self, side: SideFile) -> None:
        try:
            if side.write():
                self._is_failing = False
        except OSError as error:
            lost = sum(len(piece) for piece in side.track.pieces if isinstance(piece, bytes))
            self._metrics.recording_audio_lost_bytes.inc(lost)
            side.track.lose()
            if not self._is_failing:
                log.error("recording_refused path=%s reason=%s", side, error.strerror)
            self._is_failing = True


class AudioRecording:
    """A `Listener` that keeps what it hears, until its files are full."""

    def __init__(
        self, recorder: AudioRecorder, user: SideFile, agent: SideFile, room: Room
    ) -> None:
        self._recorder = recorder
        self._user = user
        self._agent = agent
        self._room = room
        recorder.put(user, b"")  # both files are there from the beginning
        recorder.put(agent, b"")

    def from_browser(self, payload: bytes | memoryview) -> None:
        if self._room.left:
            self._recorder.put(self._user, bytes(payload))

    def to_browser(self, payload: bytes | memoryview) -> None:
        if self._room.left:
            self._recorder.put(self._agent, bytes(payload))

    def drew(self, value: UUID | float | str) -> None:
        pass

    def told(self, now: float, event: Event | None, text: bytes, asked: list[Action]) -> None:
        if any(isinstance(action, ClearAudio) for action in asked):
            self._recorder.put(self._agent, Mark.CLEARED)

    def replied(self, now: float) -> None:
        pass

    def counted(self, now: float, counts: Counts) -> None:
        pass

    def ended(self, now: float, ended: SessionEnded) -> None:
        self._recorder.put(self._user, Mark.ENDED)
        self._recorder.put(self._agent, Mark.ENDED)
