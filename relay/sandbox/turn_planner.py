"""What the agent has still to deal with, and what it concludes from it. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from relay.sandbox.script import Script, Turn
from relay.sandbox.slot_filler import SlotFiller


class TurnPlanner:
    """A script, where there is one, takes the place of the slot filler."""

    def __init__(self, script: Script | None) -> None:
        self.slot_filler = SlotFiller()
        self.is_scripted = script is not None
        self.turn: Turn | None = None  # what is being carried out
        self.unheard: list[str] = []  # user turns that no thought has taken in
        script = script or Script()
        self._turns = itertools.cycle(script.turns) if script.loop else iter(script.turns)
        self.upcoming: Turn | None = next(self._turns, None)  # of the script
        self._unsaid: tuple[str, ...] = ()  # words that wait for the result of a call

    def take(self, when: str) -> Turn | None:
        """The next turn of the script, if it is one that begins in this way."""
        turn = self.upcoming
        if turn is None or turn.when != when:
            return None
        self.upcoming = next(self._turns, None)
        return turn

    def conclude(self, results: Sequence[str]) -> Turn | None:
        """What to carry out: results of functions first, then what the user said meanwhile."""
        unheard, self.unheard = self.unheard, []
        if self.turn is not None:
            return self.turn
        if self.is_scripted:
            return self.take("text") if unheard else None
        said, self._unsaid = self._unsaid, ()
        for content in results:
            said += self.slot_filler.answered(content).say
        if unheard:
            thought = self.slot_filler.hear(" ".join(unheard))
            said += thought.say
            if thought.calls:
                self._unsaid = said  # said together with the result
                return thought
        return Turn(say=said)
