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
from relay.sandbox.english import CANCEL, STOP_WORDS, alike, is_no, is_yes, split_name, stem, words
from relay.sandbox.function_result import read_result
from relay.sandbox.script import Call, Turn
from relay.sandbox.slots import Function, Kind, Slot, answer, fill, is_wish, mentions, read_function

NAME_WEIGHT = 3.0
DESCRIPTION_WEIGHT = 1.0
PARAMETER_WEIGHT = 0.5
ENOUGH = 1.0  # score from which a function is meant
TRIES = 3  # questions for one slot before the agent gives it up


class Stage(Enum):
    FREE = "nothing is going on"
    ASKING = "a slot was asked for"
    CONFIRMING = "everything is there; the user is to agree"
    CORRECTING = "the user did not agree"
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


class SlotFiller:
    """`hear` and `answered` return what to do next, as a turn with `say` or `calls`."""

    def __init__(self, functions: Sequence[dict[str, Any]] = ()) -> None:
        self.functions = functions
        self.stage = Stage.FREE
        self._form: Form | None = None
        self._done: list[str] = []  # titles of what was submitted

    def __repr__(self) -> str:
        return f"<SlotFiller {self.stage.name} {self._form}>"

    @property
    def functions(self) -> tuple[Function, ...]:
        return self._functions

    @functions.setter
    def functions(self, functions: Sequence[dict[str, Any]]) -> None:
        self._functions = tuple(read_function(function) for function in functions)

    # --- ways in -----------------------------------------------------------------------------

    def remember(self, history: Sequence[deepgram.History]) -> None:
        """Go through an earlier conversation, so that this one goes on where it ended."""
        for line in history:
            if line.role == "user" and line.content:
                self.hear(line.content)
            for call in line.function_calls or ():
                self.answered(call.response)
        if self.stage is Stage.WAITING:
            self.stage = Stage.CONFIRMING  # the call never came back: ask again

    def hear(self, said: str) -> Turn:
        """A turn of the user."""
        if self.stage is Stage.WAITING:
            return _say("One moment please, I am still working on that.")
        if self._form is None:
            return self._begin(said)
        if CANCEL.search(said):
            self._drop()
            return _say("All right, I will leave that.", "What else can I do?")
        match self.stage:
            case Stage.ASKING:
                return self._answer(self._form, said)
            case Stage.CONFIRMING:
                return self._confirm(self._form, said)
            case _:
                return self._correct(self._form, said)

    def answered(self, content: str) -> Turn:
        """The result of a function."""
        form = self._form
        self._drop()
        result = read_result(content)
        if not result.ok:
            reason = result.reason or "it did not work"
            return _say(f"I could not do that: {reason.rstrip('.')}.", "What would you like to do?")
        if form is not None:
            self._done.append(_outline(form))
        said = f"Done. {_sentence(result.reason)}" if result.reason else "Done."
        return _say(said, "Is there anything else?")

    # --- picking -----------------------------------------------------------------------------

    def _begin(self, said: str) -> Turn:
        function = self.pick(said)
        if function is None:
            return self._small_talk(said)
        self._form = Form(function, fill(function, said))
        return self._go_on(self._form)

    def pick(self, said: str) -> Function | None:
        """The function that these words mean, if any."""
        spoken = [stem(w) for w in words(said) if w not in STOP_WORDS or w in ("want", "new")]
        if is_wish(said):
            spoken.append(stem("want"))
        scored = [(self._score(f, spoken), f) for f in self.functions]
        best = max((score for score, _ in scored), default=0.0)
        if best < ENOUGH:
            return None
        return next(function for score, function in scored if score == best)

    def _score(self, function: Function, spoken: Sequence[str]) -> float:
        weights = _weights(function)
        score = 0.0
        for word in dict.fromkeys(spoken):
            weight = max((w for own, w in weights.items() if alike(own, word)), default=0.0)
            others = sum(1 for f in self.functions if any(alike(own, word) for own in _weights(f)))
            score += weight / max(others, 1) ** 0.5
        return score

    # --- filling -----------------------------------------------------------------------------

    def _go_on(self, form: Form) -> Turn:
        missing = form.missing
        if missing is not None:
            self.stage = Stage.ASKING
            first, form.asked = form.asked is None, missing
            subject = _subject(form)
            if first and subject:
                return _say(_sentence(subject), _question(form, missing))
            return _say(_question(form, missing))
        self.stage = Stage.CONFIRMING
        form.asked = None
        return _say(_sentence(_outline(form)), "Is that right?")

    def _answer(self, form: Form, said: str) -> Turn:
        slot = form.asked
        assert slot is not None
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
        if is_yes(said):
            self.stage = Stage.WAITING
            arguments = {
                s.name: form.values[s.name] for s in form.function.slots if s.name in form.values
            }
            return Turn(calls=(Call(form.function.name, arguments),))
        if self._changes_the_subject(form, said):
            self._drop()
            return self._begin(said)
        if self._take_correction(form, said):
            return self._go_on(form)
        if is_no(said):
            self.stage = Stage.CORRECTING
            return _say("What should I change?")
        return _say(_sentence(_outline(form)), "Shall I do that?")

    def _changes_the_subject(self, form: Form, said: str) -> bool:
        """Whether the user goes on to another function instead of agreeing to this one."""
        if is_no(said) or len(words(said)) < 3:
            return False
        if any(mentions(slot, said) for slot in form.function.slots):
            return False
        return self.pick(said) not in (None, form.function)

    def _correct(self, form: Form, said: str) -> Turn:
        if not self._take_correction(form, said):
            slot = next((s for s in form.function.slots if s.kind is Kind.SUBJECT), None)
            value = answer(slot, said, lenient=True) if slot is not None else None
            if slot is None or value is None:
                self._drop()
                return _say("Then I will leave it.", "What else can I do?")
            form.values[slot.name] = value
        return self._go_on(form)

    def _take_correction(self, form: Form, said: str) -> bool:
        """ "No, on Saturday"; "the title is ..."; "make it two"."""
        rest = re.sub(r"^\W*(?:no|nope|not|wrong)\b[\s,.]*", "", said, flags=re.I)
        named = [slot for slot in form.function.slots if mentions(slot, rest)]
        moments = (Kind.MOMENT, Kind.DEADLINE, Kind.NUMBER, Kind.CHOICE)
        for slot in named or [s for s in form.function.slots if s.kind in moments]:
            text = re.split(r"\b(?:to|is|should be|be)\b", rest, maxsplit=1)[-1] if named else rest
            value = answer(slot, text) if named or _shows(slot, text) else None
            if value is not None and value != form.values.get(slot.name):
                form.values[slot.name] = value
                return True
        return False

    def _drop(self) -> None:
        self._form = None
        self.stage = Stage.FREE

    # --- everything else ---------------------------------------------------------------------

    def _small_talk(self, said: str) -> Turn:
        spoken = set(words(said))
        offer = self._offer()
        if spoken & {"bye", "goodbye"}:
            return _say("Goodbye.")
        if spoken & {"thanks", "thank"} or re.search(
            r"\bno\b.*\b(all|thanks|nothing)\b", said, re.I
        ):
            return _say("You are welcome.")
        if spoken & {"wait", "stop", "moment", "hold"}:
            return _say("All right, I am listening.")
        if re.search(r"what (did|have) (we|i|you)|where (were|did) we", said, re.I):
            return _say(self._recall(), offer)
        if "hear" in spoken:
            return _say("Yes, I can hear you.", offer)
        if spoken & {"hello", "hi", "hey", "morning", "evening"}:
            return _say("Hello.", offer)
        if spoken <= {"no", "nope", "that's", "all", "nothing", "else", "that", "is"}:
            return _say("All right.")
        return _say("I am sorry, I cannot help with that.", offer)

    def _recall(self) -> str:
        if not self._done:
            return "We have not done anything yet."
        return f"So far we did this: {'; '.join(self._done)}."

    def _offer(self) -> str:
        titles = [function.title for function in self.functions]
        if not titles:
            return "I have nothing to offer yet: the agent has no functions."
        last = titles.pop()
        return f"I can {', '.join(titles)} or {last}." if titles else f"I can {last}."


def _weights(function: Function) -> dict[str, float]:
    """Stems that speak for a function."""
    weights: dict[str, float] = {}
    parameters = [w for slot in function.slots for w in split_name(slot.name)]
    for source, weight in (
        (parameters, PARAMETER_WEIGHT),
        (words(_positive(function.description)), DESCRIPTION_WEIGHT),
        (split_name(function.name), NAME_WEIGHT),
    ):
        for word in source:
            if word not in STOP_WORDS or word == "want":
                weights[stem(word)] = weight
    return weights


def _positive(description: str) -> str:
    """Without what the function is not for."""
    sentences = re.split(r"(?<=[.;])\s+", description)
    return " ".join(s for s in sentences if not re.match(r"(?:not|never|do not|don't)\b", s, re.I))


def _shows(slot: Slot, said: str) -> bool:
    return bool(fill(Function("", "", (slot,)), said)) or (
        slot.kind is Kind.DEADLINE and answer(slot, said) not in (None, "none", said.strip(" .,"))
    )


def _subject(form: Form) -> str:
    """What the form is about, as far as it is known."""
    slots = (slot for slot in form.function.slots if slot.kind is Kind.SUBJECT)
    return str(next((form.values[s.name] for s in slots if s.name in form.values), ""))


def _question(form: Form, slot: Slot) -> str:
    match slot.kind:
        case Kind.DEADLINE:
            return f"What is the {slot.label}, if there is one?"
        case Kind.CHOICE:
            return f"Which {slot.label}: {' or '.join(map(str, slot.choices))}?"
        case Kind.FLAG:
            return f"{slot.label.capitalize()}: yes or no?"
        case Kind.SUBJECT:
            return f"To {form.function.title}: what is the {slot.label}?"
        case Kind.MOMENT if slot.label in ("when", "due"):
            return "When should it be?"
        case _:
            return f"What is the {slot.label}?"


def _outline(form: Form) -> str:
    """ "Create a goal: run a marathon, deadline none"."""
    parts: list[str] = []
    for slot in form.function.slots:
        if slot.name not in form.values:
            continue
        value = form.values[slot.name]
        value = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        if slot.kind is Kind.SUBJECT:
            parts.insert(0, str(value))
        elif value == "none":
            parts.append(f"no {slot.label}")
        else:
            parts.append(f"{slot.label} {value}")
    return f"{form.function.title}: {', '.join(parts)}" if parts else form.function.title


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _say(*sentences: str) -> Turn:
    return Turn(say=sentences)
