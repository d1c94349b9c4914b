"""What the agent has still to deal with, and what it has counted. Pure."""

from __future__ import annotations

from typing import Any

from relay import deepgram
from relay.sandbox.script import Call, Turn


class Thoughts:
    """What the agent has still to deal with."""

    def __init__(self) -> None:
        self.early: list[str] = []  # messages between Settings and SettingsApplied
        self.unheard: list[str] = []  # user turns that no thought has taken in
        self.results: list[tuple[Call, str]] = []  # answers of functions, likewise
        self.unsaid: list[str] = []  # words that wait for the result of a call
        self.thought: Turn | None = None  # the mind's last
        self.turn: Turn | None = None  # what is being carried out
        self.batches: list[list[Call]] = []  # requests not made yet
        self.open_calls: dict[str, Call] = {}
        self.queue: list[str] = []  # injected messages that wait for the agent
        self.acks: list[deepgram.ServerMessage | dict[str, Any]] = []
        self.asked: float | None = None  # when the user's turn ended

    @property
    def waiting(self) -> bool:
        return bool(self.unheard or self.results or self.turn is not None)


class Counts:
    def __init__(self) -> None:
        self.frames_in = 0
        self.frames_out = 0
        self.stt_seconds = 0.0
        self.thought_seconds = 0.0

    def frame(self) -> int:
        """The number of the next frame of agent audio."""
        self.frames_out += 1
        return self.frames_out - 1
