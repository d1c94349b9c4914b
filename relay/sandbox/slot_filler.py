"""The sandbox agent's stand-in for a language model: a slot filler that works for any registry.

Pure and deterministic: the same words in the same order give the same replies, which is also how a
conversation is taken up again: the history is read once more. It picks a function by its
words, asks for what is required and missing, confirms, asks for the call and says what came of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec

from relay.protocol import deepgram
from relay.sandbox.english import (
    CANCEL,
    STOP_WORDS,
    alike,
    consent,
    mentions,
    sentence,
    split_name,
    stem,
    words,
)
from relay.sandbox.function_result import read_result
from relay.sandbox.script import Call, Turn
from relay.sandbox.slots import Function, Kind, Slot, answer, fill, find, is_wish

NAME_WEIGHT = 3.0
DESCRIPTION_WEIGHT = 1.0
PARAMETER_WEIGHT = 0.5
ENOUGH = 1.0  # score from which a function is meant
TRIES = 3  # questions for one slot before the agent gives it up

SMALL_TALK = (
    (r"\b(good)?bye\b", "Goodbye."),
    (r"\bthanks?\b|\bno\b.*\b(all|nothing)\b", "You are welcome."),
    (r"\b(wait|stop|moment|hold)\b", "All right, I am listening."),
    (r"\bhear\b", "Yes, I can hear you. {offer}"),
    (r"\b(hello|hi|hey|morning|evening)\b", "Hello. {offer}"),
    (r"^\W*(no|nope|nothing|that's all|that is all)( else)?\W*$", "All right."),
    ("", "I am sorry, I cannot help with that. {offer}"),
)
"""Patterns of what is no wish, and what is said to it; the first that is found."""


AGAIN = re.compile(r"\bgive it again\b|\bsay (it|that) again\b|\bpardon\b", re.I)


class Stage(Enum):
    FREE = "nothing is going on"
    ASKING = "a slot was asked for, or what is wrong with it"
    CONFIRMING = "everything is there; the user is to agree"
    WAITING = "a function was called"


class Form(msgspec.Struct):
    """What is known so far of one function call."""

    function: Function
    values: dict[str, Any]
    asked: Slot | None = None
    tries: int = 0

    @property
    def missing(self) -> Slot | None:
        slots = self.function.slots
        return next((s for s in slots if s.required and s.name not in self.values), None)

    @property
    def subject(self) -> str:
        """What it is about, as far as it is known."""
        slot = self.function.subject
        return str(self.values.get(slot.name, "")) if slot is not None else ""

    @property
    def outline(self) -> str:
        """ "Create a goal: run a marathon, no deadline"."""
        parts = [self.subject] if self.subject else []
        for slot in self.function.slots:
            value = self.values.get(slot.name)
            if value is None or slot is self.function.subject:
                continue
            shown = {"True": "yes", "False": "no"}.get(str(value), value)
            parts.append(f"no {slot.label}" if value == "none" else f"{slot.label} {shown}")
        title = self.function.title
        return f"{title}: {', '.join(parts)}" if parts else title


class SlotFiller:
    """`hear` and `answered` return what to do next, as a turn with `say` or `calls`.

    `hasty`: it does not ask whether it is right, and no deadline was said means that there is none.
    `forgets_deadlines`: it asks for none, and there is none whatever was said.
    """

    def __init__(
        self,
        functions: Sequence[Function] = (),
        *,
        hasty: bool = False,
        forgets_deadlines: bool = False,
    ) -> None:
        self.functions = functions
        self._hasty = hasty
        self._forgets_deadlines = forgets_deadlines
        self.stage = Stage.FREE
        self._form: Form | None = None
        self._reply = Turn()  # the newest

    def __repr__(self) -> str:
        return f"<SlotFiller {self.stage.name} {self._form}>"

    # --- ways in -----------------------------------------------------------------------------

    def remember(self, history: Sequence[deepgram.History]) -> None:
        """Go through an earlier conversation, so that this one goes on where it ended."""
        for line in history:
            if line.role == "user" and line.content:
                self.hear(line.content)
            for call in line.function_calls or ():
                self.answered(call.response)
        self.lose_call()

    def lose_call(self) -> None:
        """A call that is waited for will not come back: ask again."""
        if self.stage is Stage.WAITING:
            self.stage = Stage.CONFIRMING

    def hear(self, said: str) -> Turn:
        """A turn of the user."""
        if not (self._reply.say and AGAIN.search(said)):
            self._reply = self._think(said)
        return self._reply

    def _think(self, said: str) -> Turn:
        if self.stage is Stage.WAITING:
            return _say("One moment please, I am still working on that.")
        if self._form is None:
            return self._begin(said)
        if CANCEL.search(said):
            self._drop()
            return _say("All right, I will leave that.", "What else can I do?")
        if self.stage is Stage.ASKING:
            return self._answer(self._form, said)
        return self._confirm(self._form, said)

    def answered(self, content: str) -> Turn:
        """The result of a function."""
        self._drop()
        ok, said = read_result(content)
        self._reply = _say(said, "Is there anything else?" if ok else "What would you like to do?")
        return self._reply

    # --- picking -----------------------------------------------------------------------------

    def _begin(self, said: str) -> Turn:
        function = self.pick(said)
        if function is None:
            return self._small_talk(said)
        self._form = Form(function, fill(function, said))
        return self._go_on(self._form)

    def pick(self, said: str) -> Function | None:
        """The function that these words mean, if any."""
        spoken = [stem(word) for word in words(said) if word not in STOP_WORDS or word == "new"]
        if is_wish(said):
            spoken.append(stem("want"))
        scores = [0.0] * len(self.functions)
        for word in dict.fromkeys(spoken):  # each once, in a fixed order
            weights = [_weight(function, word) for function in self.functions]
            rivals = sum(weight > 0 for weight in weights)
            for n, weight in enumerate(weights):
                scores[n] += weight / max(rivals, 1) ** 0.5
        best = max(scores, default=0.0)
        return self.functions[scores.index(best)] if best >= ENOUGH else None

    # --- filling -----------------------------------------------------------------------------

    def _go_on(self, form: Form) -> Turn:
        for slot in form.function.slots:
            if slot.kind is Kind.DEADLINE and self._forgets_deadlines:
                form.values[slot.name] = "none"
            elif slot.kind is Kind.DEADLINE and self._hasty:
                form.values.setdefault(slot.name, "none")
        missing = form.missing
        if missing is not None:
            self.stage = Stage.ASKING
            first, form.asked = form.asked is None, missing
            about = [sentence(form.subject)] if first and form.subject else []
            return _say(*about, _question(form, missing))
        if self._hasty:
            return self._call(form)
        self.stage = Stage.CONFIRMING
        form.asked = None
        return _say(sentence(form.outline), "Is that right?")

    def _answer(self, form: Form, said: str) -> Turn:
        slot = form.asked
        assert slot is not None
        if slot.name in form.values and self._take_correction(form, said):
            return self._go_on(form)
        value = answer(slot, said, lenient=form.tries > 0)
        if value is None:
            form.tries += 1
            if form.tries >= TRIES:
                self._drop()
                return _say("I am sorry, I do not understand that.", "Let us leave it for now.")
            return _say(f"I did not get the {slot.label}.", _question(form, slot))
        form.tries = 0
        form.values[slot.name] = value
        return self._go_on(form)

    def _confirm(self, form: Form, said: str) -> Turn:
        agreed = consent(said)
        if agreed:
            return self._call(form)
        if agreed is None and self._changes_the_subject(form, said):
            self._drop()
            return self._begin(said)
        if self._take_correction(form, said):
            return self._go_on(form)
        if agreed is None:
            return _say(sentence(form.outline), "Shall I do that?")
        form.asked = form.function.subject
        if form.asked is None:
            self._drop()
            return _say("Then I will leave it.", "What else can I do?")
        self.stage = Stage.ASKING
        return _say("What should I change?")

    def _call(self, form: Form) -> Turn:
        self.stage = Stage.WAITING
        arguments = {
            s.name: form.values[s.name] for s in form.function.slots if s.name in form.values
        }
        return Turn(calls=(Call(form.function.name, arguments),))

    def _changes_the_subject(self, form: Form, said: str) -> bool:
        """Whether the user goes on to another function instead of agreeing to this one."""
        if len(words(said)) < 3 or any(mentions(said, slot.name) for slot in form.function.slots):
            return False
        return self.pick(said) not in (None, form.function)

    def _take_correction(self, form: Form, said: str) -> bool:
        """ "No, on Saturday"; "the title is ..."; "make it two"."""
        rest = re.sub(r"^\W*(?:no|nope|not|wrong)\b[\s,.]*", "", said, flags=re.I)
        named = [slot for slot in form.function.slots if mentions(rest, slot.name)]
        if named:
            rest = re.split(r"\b(?:to|is|should be|be)\b", rest, maxsplit=1)[-1]
        for slot in named or form.function.slots:
            value = answer(slot, rest) if named else find(slot, rest)[0]
            if value is not None and value != form.values.get(slot.name):
                form.values[slot.name] = value
                return True
        return False

    def _drop(self) -> None:
        self._form = None
        self.stage = Stage.FREE

    # --- everything else ---------------------------------------------------------------------

    def _small_talk(self, said: str) -> Turn:
        reply = next(reply for pattern, reply in SMALL_TALK if re.search(pattern, said, re.I))
        return _say(*re.split(r"(?<=\.) ", reply.format(offer=self._offer())))

    def _offer(self) -> str:
        titles = [function.title for function in self.functions]
        if not titles:
            return "I have nothing to offer yet: the agent has no functions."
        last = titles.pop()
        return f"I can {', '.join(titles)} or {last}." if titles else f"I can {last}."


def _weight(function: Function, spoken: str) -> float:
    """How much a stem speaks for a function."""
    for weight, own in (
        (NAME_WEIGHT, split_name(function.name)),
        # The first sentence: others say what the function is not for.
        (DESCRIPTION_WEIGHT, words(function.description.partition(". ")[0])),
        (PARAMETER_WEIGHT, [word for slot in function.slots for word in split_name(slot.name)]),
    ):
        if any(alike(stem(word), spoken) for word in own if word not in STOP_WORDS):
            return weight
    return 0.0


def _question(form: Form, slot: Slot) -> str:
    match slot.kind:
        case Kind.DEADLINE:
            return f"What is the {slot.label}, if there is one?"
        case Kind.CHOICE:
            return f"Which {slot.label}: {' or '.join(map(str, slot.schema['enum']))}?"
        case Kind.FLAG:
            return f"{slot.label.capitalize()}: yes or no?"
        case Kind.SUBJECT:
            return f"To {form.function.title}: what is the {slot.label}?"
        case Kind.MOMENT if slot.label in ("when", "due"):
            return "When should it be?"
        case _:
            return f"What is the {slot.label}?"


def _say(*sentences: str) -> Turn:
    return Turn(say=sentences)
