"""Records that the database will never take, in a file beside the journal: nothing is dropped.

`condemned.jsonl` has one JSON object in a line for each: `at`, `reason` and the `record` as it is
(of a kind that is not known here: its bytes, as `body` in base64). People look at it, mend what can
be mended and put it back with `voice-relay restore`. All processes on the directory append to it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from config.errors import Explained
from relay.core.records import Record
from relay.journal.directory import JournalDirectory
from relay.journal.segment import DiskFailed, decode

NAME = "condemned.jsonl"
LIMIT_BYTES = 64 << 20


class RestoreFailed(Explained):
    """The file is as it was; the text says what is wrong with it."""


def condemn(path: Path, record: Record | bytes, reason: str) -> None:
    """Append one to the file; on return it is forced to disk. Raises `DiskFailed`: full, or no
    disk."""
    kept: dict[str, Any] = {"at": datetime.now(UTC).isoformat(), "reason": reason}
    if isinstance(record, bytes):
        kept["body"] = base64.b64encode(record).decode()
    else:
        kept["record"] = msgspec.to_builtins(record)
    line = json.dumps(kept).encode() + b"\n"
    try:
        with locked(path.parent), open(path, "ab", buffering=0, opener=open_private) as file:
            size = file.tell()
            if size + len(line) > LIMIT_BYTES:
                raise DiskFailed(f"{path} has its {LIMIT_BYTES} bytes: restore it, or move it away")
            if file.write(line) < len(line):
                file.truncate(size)  # no half lines
                raise DiskFailed(f"{path}: no room for {len(line)} bytes")
            os.fsync(file)
    except OSError as error:
        raise DiskFailed(f"{path}: {error.strerror}") from error


def open_private(path: str, flags: int) -> int:
    """Opens a file that nobody else may read: it has what people said."""
    return os.open(path, flags, 0o600)


def restore(path: Path) -> int:
    """Put what a file of condemned records has into the journal of its directory; how many.

    The file is gone then: a relay that runs there, or the next that starts, delivers its records,
    and condemns anew what the database still refuses. Raises `RestoreFailed`.
    """
    try:
        with locked(path.parent):
            lines = path.read_bytes().splitlines()
            bodies = [_read(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
            if bodies:
                folder = JournalDirectory.create(path.parent)
                try:
                    segment = folder.new_segment()
                    segment.extend(list(enumerate(bodies, 1)))
                    segment.close()
                finally:
                    folder.release()
            path.unlink()
    except (OSError, DiskFailed) as error:
        raise RestoreFailed(str(error)) from error
    return len(bodies)


def look(path: Path) -> tuple[int, datetime | None]:
    """How many records a file of condemned ones has, and when the first was put there."""
    lines: list[bytes] = []
    try:
        lines = path.read_bytes().splitlines()
        return len(lines), datetime.fromisoformat(json.loads(lines[0])["at"]) if lines else None
    except FileNotFoundError:
        return 0, None
    except (OSError, ValueError, TypeError, KeyError):
        return max(1, len(lines)), None  # somebody has edited it


def _read(line: bytes, where: str) -> bytes:
    """A record as the journal keeps it. Its text is that of people: an error quotes nothing."""
    try:
        kept = json.loads(line)
        if "body" in kept:
            return base64.b64decode(kept["body"], validate=True)
        body = json.dumps(kept["record"]).encode()
        decode(body)
    except (ValueError, TypeError, KeyError, msgspec.MsgspecError) as error:
        raise RestoreFailed(
            f"{where}: expected a condemned record, got what is none ({type(error).__name__}); "
            "mend the line or take it out"
        ) from None
    return body


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """No other process appends to the file or takes it, while inside."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
