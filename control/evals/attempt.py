"""One conversation of an evaluation, as it went. Pure."""

from __future__ import annotations

from typing import Any

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """A line of the transcript; `at` in seconds from the first one.

    `who`: said (by us), heard (as the agent heard it), agent, intent, note.
    """

    at: float
    who: str
    text: str


class Call(msgspec.Struct, frozen=True):
    """A function call as it stood at the end."""

    intent: str | None
    status: str
    arguments: Any = None


class Attempt(msgspec.Struct, kw_only=True):
    """`words` are the agent's since the user first spoke; `first_audio` the seconds to each reply;
    `seconds` how long the agent was connected; `trouble` why it ended early; `timeline` a page for
    a frame, if it failed and was recorded."""

    number: int
    session_id: str = ""
    transcript: list[Entry] = []
    words: list[str] = []
    calls: list[Call] = []
    turns: int = 0
    unasked: str = ""  # what the user would have said after the last turn
    first_audio: list[float] = []
    seconds: float = 0.0
    trouble: str = ""
    failures: list[str] = []
    timeline: str = ""

    @property
    def passed(self) -> bool:
        return not self.failures
