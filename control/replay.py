"""`voice-relay replay`: a recording again, through the rules of a session."""

from __future__ import annotations

from pathlib import Path

import msgspec

from config.errors import Explained
from relay.recorder.recording import NotARecording, Recording, read
from relay.recorder.replay import Difference, replay
from relay.recorder.sdk_events import split

SUFFIX = ".ndjson"


class ReplayFailed(Explained):
    """The file cannot be played, or not be kept."""


class Played(msgspec.Struct, frozen=True):
    """How a file went: `events` and `actions` in it; `difference`: the first thing that is not as
    recorded. `is_adopted`: nobody recorded any actions in it, those are of today's rules."""

    lines: list[bytes]
    recording: Recording
    events: int
    actions: int
    is_adopted: bool
    difference: Difference | None


def play(path: Path) -> Played:
    """Through the rules of today. Raises `ReplayFailed`."""
    try:
        lines, is_adopted = split(path.read_bytes())
        recording = read(lines)
    except OSError as error:
        raise ReplayFailed(f"{path}: {error.strerror}") from error
    except NotARecording as error:
        raise ReplayFailed(f"{path}: {error}") from error
    return Played(
        lines=lines,
        recording=recording,
        events=len(recording.steps),
        actions=sum(len(step.actions) for step in recording.steps),
        is_adopted=is_adopted,
        difference=replay(recording),
    )


def save(played: Played, path: Path) -> Path:
    """Keep it as a regression test: `tests/recorded/test_recorded.py` plays all that lie there.
    Raises `ReplayFailed`: it is there already, or cannot be written."""
    path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.writelines(played.lines)
    except OSError as error:
        raise ReplayFailed(f"{path}: {error.strerror}") from error
    return path
