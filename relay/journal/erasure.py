"""What files beside the journal still have of conversations that were erased.

The journal itself drops such records when it is their turn. Two kinds of files stay until somebody
does something: `condemned.jsonl`, and broken segments that were put aside. Which conversations are
gone only the database knows; so the caller is told which ones the files name (`find_named`), and
says which of those are gone. Everything here blocks: it is for a thread.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from relay.journal.condemned import NAME, locked, open_private
from relay.journal.segment import DiskFailed

# A key and its id as msgpack has them: no text that somebody types can look like this, because it
# is no UTF-8. A record of a broken file that is JSON (`segment.encode`) is not told from what
# somebody said in another: `search` finds it.
_CONVERSATION = re.compile(rb"conversation_id\xd9\x24([0-9a-f-]{36})")
_SESSION = re.compile(rb"session_id\xd9\x24([0-9a-f-]{36})")
# The same in a line of JSON, where the quotes of what somebody said are escaped.
_IN_LINE = (
    re.compile(rb'conversation_id(?:\xd9\x24|": ?")([0-9a-f-]{36})'),
    re.compile(rb'session_id(?:\xd9\x24|": ?")([0-9a-f-]{36})'),
)
_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


Patterns: TypeAlias = tuple[re.Pattern[bytes], re.Pattern[bytes]]


class Named(msgspec.Struct, frozen=True):
    """Ids of what records are about."""

    conversations: set[UUID]
    sessions: set[UUID]

    @property
    def subject(self) -> set[UUID]:
        """What decides whether it is gone: the conversation where it is named."""
        return self.conversations or self.sessions


class Removed(msgspec.Struct, frozen=True):
    """Lines of `condemned.jsonl` and broken files that are gone now; broken files that are left."""

    condemned: int
    broken: int
    broken_left: int


def find_named(directory: Path) -> Named:
    """What the files of a journal's directory name. Raises `DiskFailed`."""
    found = Named(set(), set())
    try:
        with locked(directory):
            named = [_named_in_line(line) for line in _lines(directory / NAME)]
        named += [_named_in(_content(path)) for path in _broken(directory)]
    except FileNotFoundError:
        return found  # no directory
    except OSError as error:
        raise DiskFailed(f"{directory}: {error.strerror}") from error
    for one in named:
        found.conversations.update(one.conversations)
        found.sessions.update(one.sessions)
    return found


def remove(directory: Path, gone: set[UUID]) -> Removed:
    """Take out what is about these conversations and sessions. Raises `DiskFailed`.

    A broken file cannot be taken apart: one that names any of them goes as a whole.
    """
    condemned, broken, left = 0, 0, 0
    try:
        with locked(directory):
            condemned = _remove_lines(directory / NAME, gone)
        for path in _broken(directory):
            named = _named_in(_content(path))
            if (named.conversations | named.sessions) & gone:
                for file in _with_logs(path):
                    file.unlink(missing_ok=True)
                broken += 1
            else:
                left += 1
    except FileNotFoundError:
        pass  # no directory
    except OSError as error:
        raise DiskFailed(f"{directory}: {error.strerror}") from error
    return Removed(condemned, broken, left)


def search(directory: Path, ids: Iterable[UUID]) -> list[str]:
    """The files below it that have one of these ids in any place, by name."""
    wanted = {str(one).encode() for one in ids}
    found = []
    for path in sorted(directory.rglob("*")):
        try:
            content = path.read_bytes() if path.is_file() else b""
        except OSError:
            continue  # it was removed just now
        if not wanted.isdisjoint(_ID.findall(content)):
            found.append(str(path.relative_to(directory)))
    return found


def _remove_lines(path: Path, gone: set[UUID]) -> int:
    lines = _lines(path)
    kept = [line for line in lines if not _named_in_line(line).subject & gone]
    if len(kept) == len(lines):
        return 0
    if kept:
        fresh = path.with_name(f"{path.name}.new")
        with open(fresh, "wb", opener=open_private) as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file)
        fresh.replace(path)
    else:
        path.unlink()
    return len(lines) - len(kept)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _broken(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.broken"))


def _with_logs(path: Path) -> Iterator[Path]:
    yield from (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))


def _content(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in _with_logs(path) if file.exists())


def _named_in_line(line: bytes) -> Named:
    """Of a condemned record: what it is about, and not what is quoted in it."""
    body = line
    try:
        kept = json.loads(line)
        record: Any = kept.get("record")
        if record is None:
            body = base64.b64decode(kept["body"])
            as_json = body[:1] == b"{"
            record = json.loads(body) if as_json else msgspec.msgpack.decode(body)
        subjects = {key: record.get(key) for key in ("conversation_id", "session_id")}
        named = {key: {UUID(value)} if value else set() for key, value in subjects.items()}
        return Named(named["conversation_id"], named["session_id"])
    except (ValueError, TypeError, KeyError, AttributeError, msgspec.MsgspecError):
        return _named_in(body, _IN_LINE)  # somebody has edited it, or it is of a later version


def _named_in(content: bytes, patterns: Patterns = (_CONVERSATION, _SESSION)) -> Named:
    found = []
    for pattern in patterns:
        texts = {match.decode() for match in pattern.findall(content) if _ID.fullmatch(match)}
        found.append({UUID(text) for text in texts})
    return Named(*found)
