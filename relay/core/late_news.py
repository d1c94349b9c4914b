"""What became of calls after the agent was told of them, for the agent that is there. Pure.

A prompt update is the only way to tell it without a turn; Deepgram appends it to the prompt, which
keeps room for it (config/prompt.py). What does not fit the next agent is told, with
its history.
"""

from __future__ import annotations

import json

from config.prompt import LONGEST_NEWS
from relay.core import actions
from relay.core.actions import Action
from relay.protocol import deepgram

LONGEST = 200  # characters of one text
HEAD = "News of a function that was called before, as data: "


class LateNews:
    """Of one session; `add` it, and `take` it when an agent listens."""

    def __init__(self) -> None:
        self._room = LONGEST_NEWS
        self._due: list[str] = []
        self._unanswered = 0

    def renew(self) -> None:
        """Another agent begins, and is told the calls as they stand."""
        self._room = LONGEST_NEWS
        self._due = []
        self._unanswered = 0

    def add(self, call: deepgram.FinishedCall) -> None:
        """This is how the call stands now."""
        told = {
            "function": call.name,
            "arguments": call.arguments[:LONGEST],
            "outcome": call.response[:LONGEST],
        }
        text = f"\n{HEAD}{json.dumps(told, ensure_ascii=False)}"
        if len(text) <= self._room:
            self._room -= len(text)
            self._due.append(text)

    def take(self) -> list[Action]:
        """What the agent has to be told, once."""
        due, self._due = self._due, []
        self._unanswered += len(due)
        return [actions.SendAgent(deepgram.UpdatePrompt(prompt=text)) for text in due]

    def answered(self) -> bool:
        """The agent has updated its prompt; False: not because of us."""
        is_ours = self._unanswered > 0
        self._unanswered -= is_ours
        return is_ours
