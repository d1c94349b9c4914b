"""What the agent has still to deal with, and what it concludes from it. Pure."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import msgspec

from relay.sandbox.script import Script, Turn
from relay.sandbox.slot_filler import SlotFiller


class Guess(msgspec.Struct):
    """What would be done about these words if they were all; `slot_filler` has heard them. The
    calls of the turn may be made, and answered, before it is known."""

    text: str
    slot_filler: SlotFiller
    turn: Turn
    is_called: bool = False
    is_answered: bool = False

    @property
    def may_call(self) -> bool:
        """Whether there are calls, and none of them has to wait for the end of the turn."""
        called = {call.name for call in self.turn.calls}
        deferred = {each.name for each in self.slot_filler.functions if each.is_deferred}
        return bool(called) and not called & deferred


class TurnPlanner:
    """A script, where there is one, takes the place of the slot filler."""

    def __init__(
        self, script: Script | None, *, hasty: bool = False, forgets_deadlines: bool = False
    ) -> None:
        self.slot_filler = SlotFiller(hasty=hasty, forgets_deadlines=forgets_deadlines)
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

    @property
    def guesses(self) -> bool:
        """Whether anything may be called before the user's turn is over."""
        functions = () if self.is_scripted else self.slot_filler.functions
        return any(not each.is_deferred for each in functions)

    def guess(self, text: str) -> Guess:
        """About a turn that may go on; nothing is changed by it."""
        slot_filler = copy.deepcopy(self.slot_filler)
        return Guess(text, slot_filler, slot_filler.hear(" ".join([*self.unheard, text])))

    def adopt(self, guess: Guess) -> None:
        """It was the whole turn."""
        self.slot_filler, self.turn, self.unheard = guess.slot_filler, guess.turn, []

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
