"""What the agent has still to deal with, and what it concludes from it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay.protocol import deepgram
from relay.sandbox.script import Call, Progress, Script, Turn
from relay.sandbox.slot_filler import SlotFiller


class TurnPlanner:
    """A script, where there is one, takes the place of the slot filler."""

    def __init__(self, slot_filler: SlotFiller, script: Script | None) -> None:
        self.slot_filler = slot_filler
        self.script = Progress(script)
        self._is_scripted = script is not None
        self.unheard: list[str] = []  # user turns that no thought has taken in
        self.turn: Turn | None = None  # what is being carried out
        self.queue: list[str] = []  # injected messages that wait for the agent
        self.acks: list[deepgram.ServerMessage | dict[str, Any]] = []
        self.asked: float | None = None  # when the user's turn ended
        self._unsaid: list[str] = []  # words that wait for the result of a call
        self._thought: Turn | None = None  # the slot filler's last

    def conclude(self, results: Sequence[tuple[Call, str]]) -> Turn | None:
        """What to carry out: results of functions first, then what the user said meanwhile."""
        unheard, self.unheard = self.unheard, []
        if self.turn is not None:
            return self.turn
        if self._is_scripted:
            return self.script.take() if unheard and self.script.on_user is not None else None
        said, self._unsaid = self._unsaid, []
        calls: Sequence[Call] = ()
        for call, content in results:
            said.extend(self.slot_filler.answered(call, content).say)
        if unheard:
            thought = self.slot_filler.hear(" ".join(unheard))
            said.extend(thought.say)
            calls = thought.calls
        if calls:
            said, self._unsaid = [], said  # said together with the result
        self._thought = Turn(say=tuple(said), calls=tuple(calls))
        return self._thought

    @property
    def is_own(self) -> bool:
        """Whether the slot filler, not a script, thought of what is being carried out."""
        return self.turn is self._thought
