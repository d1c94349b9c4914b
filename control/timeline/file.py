"""The file of a recording as a page.

It blocks, and a long recording takes a second of the processor: not for the event loop.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from config.errors import Explained
from control.timeline.page import Page, draw
from control.timeline.story import tell
from relay.recorder.recording import NotARecording, read_lines
from relay.recorder.sdk_events import split


class TimelineFailed(Explained):
    """The file cannot be read, or is not a recording."""


def draw_file(path: Path, *, in_frame: bool = False) -> Page:
    """Of ours, or of Deepgram's SDK; as `draw`. Raises `TimelineFailed`."""
    try:
        lines, _ = split(path.read_bytes())
        return draw(tell(read_lines(lines)), in_frame=in_frame)
    except OSError as error:
        raise TimelineFailed(f"{path}: {error.strerror}") from error
    except NotARecording as error:
        raise TimelineFailed(f"{path}: {error}") from error


def find_file(directory: Path, session_id: UUID) -> Path | None:
    """The recording of this session, of its last owner that there is one of."""
    found = directory.glob(f"*/{session_id}.*.ndjson")
    return max(found, key=lambda path: int(path.suffixes[-2][1:]), default=None)
