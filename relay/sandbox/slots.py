"""Slots: what a function wants to know, read from its JSON Schema, and how to find it in words.

Pure. Any registry has to work, so everything is guessed from the names, descriptions and types of
the properties. What a date means is left to whoever gets it: "next Friday" stays as it was said,
as a small language model without a calendar would leave it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import msgspec

from relay.sandbox.english import (
    DATE,
    NOTHING,
    consent,
    find_number,
    mentions,
    split_name,
    stem,
    word_set,
    words,
)


class Kind(Enum):
    SUBJECT = "what it is about: the rest of the sentence"
    MOMENT = "a date or a time"
    DEADLINE = "a moment up to which; only taken when the words say so"
    PLACE = "in Berlin"
    NUMBER = "a number"
    FLAG = "yes or no"
    CHOICE = "one of a few words"
    TEXT = "any other words: only when asked"


_NAMES = {
    Kind.DEADLINE: word_set("deadline until expiry expires by finish"),
    Kind.MOMENT: word_set("date time when due day moment start begin starts schedule scheduled"),
    Kind.TEXT: word_set(
        "note notes detail details comment comments remark remarks extra info information reason "
        "description"
    ),
    Kind.PLACE: word_set(
        "place location city town country where address venue destination restaurant hotel shop"
    ),
    Kind.SUBJECT: word_set(
        "title name task goal subject item what topic summary query text message content "
        "product event appointment order reminder thing activity"
    ),
}
"""Words in the name of a text that tell its kind; the first that fits."""


class Slot(msgspec.Struct, frozen=True):
    name: str
    kind: Kind
    schema: dict[str, Any]
    required: bool

    @property
    def label(self) -> str:
        """How the agent calls it."""
        return " ".join(split_name(self.name))


class Function(msgspec.Struct, frozen=True):
    name: str
    description: str
    slots: tuple[Slot, ...]
    is_deferred: bool = False  # called when the user's turn is over, not before

    @property
    def subject(self) -> Slot | None:
        return next((slot for slot in self.slots if slot.kind is Kind.SUBJECT), None)

    @property
    def title(self) -> str:
        """ "create a goal" for create_goal."""
        first, *rest = split_name(self.name) or ["do it"]
        if not rest:
            return first
        article = "an" if rest[0][0] in "aeiou" else "a"
        plural = rest[-1].endswith("s") and not rest[-1].endswith(("ss", "us"))
        article = "the" if plural or first in ("get", "check") else article
        return " ".join([first, article, *rest])


def read_function(function: dict[str, Any]) -> Function:
    """From an entry of `agent.think.functions`."""
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    required = parameters.get("required") or []
    slots = [
        Slot(name, _kind(name, schema, is_only=required == [name]), schema, name in required)
        for name, schema in properties.items()
        if isinstance(schema, dict)
    ]
    return Function(
        function.get("name", ""),
        function.get("description", ""),
        tuple(slots),
        is_deferred=function.get("defer_until_eot", False),
    )


def _kind(name: str, schema: dict[str, Any], *, is_only: bool) -> Kind:
    """Of a property; `is_only`: nothing else is required, so that it says what it is about."""
    types = schema.get("type", "string")  # one or a list of them: `in` suits both
    if "enum" in schema:
        return Kind.CHOICE
    if "boolean" in types:
        return Kind.FLAG
    if "integer" in types or "number" in types:
        return Kind.NUMBER
    parts = set(split_name(name))
    kind = next((kind for kind, names in _NAMES.items() if parts & names), None)
    described = set(words(schema.get("description", ""))[:6])
    if kind is None and (
        schema.get("format") in ("date", "date-time", "time") or described & {"date", "time"}
    ):
        return Kind.MOMENT
    if kind in (None, Kind.TEXT):
        return Kind.SUBJECT if is_only else Kind.TEXT
    return kind


# --- finding values in what was said ---------------------------------------------------------


def fill(function: Function, said: str) -> dict[str, Any]:
    """What the first words of the user say about each slot."""
    found: dict[str, Any] = {}
    rest = said
    for slot in function.slots:
        value, taken = find(slot, rest, first=True)
        if value is not None:
            found[slot.name] = value
            rest = rest.replace(taken, " ", 1)
    subject = function.subject
    if subject is not None and (left := _strip_command(function, rest)):
        found[subject.name] = left
    return found


def find(slot: Slot, said: str, *, first: bool = False) -> tuple[Any, str]:
    """A value that the words show clearly, or None, and the words it was taken from. In the first
    words of the user "a marathon in April" names a marathon, only "by April" is a deadline."""
    match slot.kind:
        case Kind.MOMENT | Kind.DEADLINE:
            needs_cue = first and slot.kind is Kind.DEADLINE
            dates = [m for m in DATE.finditer(said) if m["deadline"] or not needs_cue]
            return (dates[-1]["date"].strip(" ,."), dates[-1][0]) if dates else (None, "")
        case Kind.PLACE:  # capitalised words behind a preposition
            place = re.search(
                r"\b(?:in|at|near|for|to) ((?:the )?[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)", said
            )
            if place is not None and not DATE.fullmatch(place[1]):
                return place[1], place[0]
        case Kind.CHOICE:
            choices = [choice for choice in slot.schema["enum"] if mentions(said, str(choice))]
            return (choices[0], str(choices[0])) if choices else (None, "")
        case Kind.NUMBER:
            number = find_number(said)
            if number is not None and _is_within(slot.schema, number):
                return int(number) if number % 1 == 0 else number, ""
    return None, ""


def _is_within(schema: dict[str, Any], number: float) -> bool:
    return bool(schema.get("minimum", number) <= number <= schema.get("maximum", number))


_LEAD = re.compile(
    r"^\W*(?:(?:hi|hello|hey|okay|ok|so|well|and|now|then|please|also|yes|um|uh)\b[\s,.!]*)*"
    r"(?:(?:can|could|would|will) you (?:please )?|i(?:'d| would) like you to )?"
    r"(?:please )?",
    re.I,
)
_WISH = re.compile(
    r"^(?:(?P<wish>i (?:really )?(?:want|wish|plan|hope|intend|aim|would like|would love)(?: to)?|"
    r"i'd (?:like|love)(?: to)?|my (?:goal|aim|plan|dream) is(?: to)?)|"
    r"i (?:really )?(?:need|have|ought|am going)(?: to)?|remind me(?: to| of| about)?|"
    r"remember to|don't forget to|let's)\b\s*",
    re.I,
)
_ARTICLE = re.compile(r"^(?:a|an|the|my|our|this|that|another|new)\b\s*", re.I)
_LINK = re.compile(r"^(?:to|for|of|about|called|named|that says|saying|is|which is)\b\s*", re.I)
_LOOSE_END = re.compile(r"\s+(?:to|on|by|for|at|in|until|before)$", re.I)


def is_wish(said: str) -> bool:
    """ "I want to", "I'd like to", "my goal is"."""
    found = _WISH.match(_LEAD.sub("", said.strip(), count=1))
    return found is not None and found["wish"] is not None


def _strip_command(function: Function, said: str) -> str:
    """The sentence without the words that only name the function: "add a task to", "move my"."""
    text = _WISH.sub("", _LEAD.sub("", said.strip(), count=1), count=1)
    own = {stem(word) for word in split_name(function.name)}
    named = False
    while True:
        text = re.sub(r"^\W+", "", text)
        bare = _ARTICLE.sub("", text, count=1)
        # "new" is an article, and may be a word for creating.
        named_next = next((each for each in (text, bare) if _first_stem(each) in own), None)
        if named_next is None:
            break
        named = True
        text = re.sub(r"^[\w']+", "", named_next, count=1)
    if named:
        text = _LINK.sub("", bare, count=1)
    return _LOOSE_END.sub("", " ".join(text.split()).strip(" ,.;:!?"))


def _first_stem(text: str) -> str:
    return stem(next(iter(words(text[:40])), ""))


_ANSWER_LEAD = re.compile(
    r"^\W*(?:(?:um|uh|well|okay|ok|yes|so|no|please)\b[\s,.]*)*"
    r"(?:(?:it|that|this|the [\w ]{1,20}|its [\w ]{1,20})(?:'s| is| should be| will be) "
    r"|call it |name it |make it |set it to |let's say |let us say |i(?:'d| would) say |i think )?"
    r"(?:(?:by|on|at|until|before|for|to) )?",
    re.I,
)


def answer(slot: Slot, said: str, *, lenient: bool = False) -> Any:
    """The value in the answer to the question for this slot, or None if it cannot be found.
    Lenient: words that do not look like a date are taken for one."""
    if slot.kind is Kind.FLAG:
        return consent(said)
    value, _ = find(slot, said)
    if value is not None or slot.kind in (Kind.CHOICE, Kind.NUMBER):
        return value
    if slot.kind in (Kind.MOMENT, Kind.DEADLINE):
        if NOTHING.search(said):
            return None if slot.schema.keys() & {"format", "pattern"} else "none"
        if not lenient:
            return None
    return _ANSWER_LEAD.sub("", said.strip(), count=1).strip(" ,.;:!?") or None
