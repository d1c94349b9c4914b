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
    DEADLINE_CUES,
    NOTHING,
    alike,
    find_number,
    is_no,
    is_yes,
    split_name,
    stem,
    word_set,
    words,
)


class Kind(Enum):
    SUBJECT = "what it is about: the rest of the sentence"
    REMARK = "notes and details: only when asked"
    MOMENT = "a date or a time"
    DEADLINE = "a moment up to which; only taken when the words say so"
    PLACE = "in Berlin"
    PERSON = "with Ann"
    NUMBER = "a number"
    FLAG = "yes or no"
    CHOICE = "one of a few words"
    TEXT = "any other words"


_MOMENT_NAMES = word_set("date time when due day moment start begin starts schedule scheduled")
_DEADLINE_NAMES = word_set("deadline until expiry expires by finish")
_REMARK_NAMES = word_set(
    "note notes detail details comment comments remark remarks extra info information "
    "reason description"
)
_PLACE_NAMES = word_set(
    "place location city town country where address venue destination restaurant hotel shop store"
)
_PERSON_NAMES = word_set("person guest contact recipient attendee who whom friend customer")
_SUBJECT_NAMES = word_set(
    "title name task goal subject item what topic summary query text message content "
    "product event appointment order reminder thing activity"
)


class Slot(msgspec.Struct, frozen=True):
    name: str
    kind: Kind
    schema: dict[str, Any]
    required: bool

    @property
    def label(self) -> str:
        """How the agent calls it."""
        return " ".join(split_name(self.name))

    @property
    def choices(self) -> list[Any]:
        if "enum" in self.schema:
            return [choice for choice in self.schema["enum"] if choice is not None]
        return []


class Function(msgspec.Struct, frozen=True):
    name: str
    description: str
    slots: tuple[Slot, ...]

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
    slots = tuple(
        Slot(name, _kind(name, schema), schema, name in required)
        for name, schema in properties.items()
        if isinstance(schema, dict)
    )
    return Function(
        name=function.get("name", ""),
        description=function.get("description", ""),
        slots=_with_subject(slots),
    )


def _with_subject(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """Without an obvious subject, a text that is the only thing required is it."""
    required = [slot for slot in slots if slot.required]
    if any(slot.kind is Kind.SUBJECT for slot in slots) or len(required) != 1:
        return slots
    if required[0].kind is not Kind.TEXT:
        return slots
    subject = msgspec.structs.replace(required[0], kind=Kind.SUBJECT)
    return tuple(subject if slot is required[0] else slot for slot in slots)


def _kind(name: str, schema: dict[str, Any]) -> Kind:
    types = schema.get("type", "string")
    types = types if isinstance(types, list) else [types]
    if "enum" in schema:
        return Kind.CHOICE
    if "boolean" in types:
        return Kind.FLAG
    if "integer" in types or "number" in types:
        return Kind.NUMBER
    parts = set(split_name(name))
    described = set(words(schema.get("description", ""))[:6])
    named = (
        (_DEADLINE_NAMES, Kind.DEADLINE),
        (_MOMENT_NAMES, Kind.MOMENT),
        (_REMARK_NAMES, Kind.REMARK),
        (_PLACE_NAMES, Kind.PLACE),
        (_PERSON_NAMES, Kind.PERSON),
        (_SUBJECT_NAMES, Kind.SUBJECT),
    )
    for names, kind in named:
        if parts & names:
            return kind
    if schema.get("format") in ("date", "date-time", "time") or described & {"date", "time"}:
        return Kind.MOMENT
    return Kind.TEXT


# --- finding values in what was said ---------------------------------------------------------


def fill(function: Function, said: str) -> dict[str, Any]:
    """What the first words of the user say about each slot."""
    found: dict[str, Any] = {}
    rest = said
    # The subject is what is left over, so it comes last.
    for slot in sorted(function.slots, key=lambda slot: slot.kind is Kind.SUBJECT):
        if slot.kind is Kind.SUBJECT:
            subject = _subject(function, rest)
            if subject and not any(
                s.kind is Kind.SUBJECT and s.name in found for s in function.slots
            ):
                found[slot.name] = subject
            continue
        value, taken = _spot(slot, rest)
        if value is not None:
            found[slot.name] = value
            rest = rest.replace(taken, " ", 1)
    return found


def _spot(slot: Slot, said: str) -> tuple[Any, str]:
    """A value that the words show clearly, and the words it was taken from."""
    match slot.kind:
        case Kind.MOMENT | Kind.DEADLINE:
            return _moment(said, deadline=slot.kind is Kind.DEADLINE)
        case Kind.CHOICE:
            choice = _choice(slot, said)
            return choice, str(choice) if choice is not None else ""
        case Kind.NUMBER:
            return (_number(slot, said), "")
        case Kind.PLACE:
            return _after(r"in|at|near|for|to", said)
        case Kind.PERSON:
            return _after(r"with|for|to", said)
        case Kind.FLAG | Kind.REMARK | Kind.TEXT | Kind.SUBJECT:
            return None, ""
    raise AssertionError(slot.kind)


def _moment(said: str, *, deadline: bool) -> tuple[str | None, str]:
    matches = list(DATE.finditer(said))
    if deadline:
        # "a marathon in April" names a marathon, "by April" a deadline.
        matches = [m for m in matches if (m["cue"] or "").lower() in DEADLINE_CUES]
    if not matches:
        return None, ""
    last = matches[-1]
    return last["date"].strip(" ,."), last[0]


def _after(prepositions: str, said: str) -> tuple[str | None, str]:
    """Capitalised words behind a preposition."""
    found = re.search(rf"\b(?:{prepositions}) ((?:the )?[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)", said)
    if found is None or DATE.fullmatch(found[1]):
        return None, ""
    return found[1], found[0]


def _choice(slot: Slot, said: str) -> Any:
    spoken = words(said)
    for choice in slot.choices:
        wanted = split_name(str(choice))
        if wanted and all(any(alike(w, s) or stem(w) == stem(s) for s in spoken) for w in wanted):
            return choice
    return None


def _number(slot: Slot, said: str) -> float | int | None:
    found = find_number(said)
    if found is None:
        return None
    low, high = slot.schema.get("minimum"), slot.schema.get("maximum")
    if (low is not None and found < low) or (high is not None and found > high):
        return None
    types = slot.schema.get("type")
    whole = types == "integer" or (isinstance(types, list) and "integer" in types)
    return int(found) if whole or found == int(found) else found


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


def is_wish(said: str) -> bool:
    """ "I want to", "I'd like to", "my goal is"."""
    found = _WISH.match(_LEAD.sub("", said.strip(), count=1))
    return found is not None and found["wish"] is not None


_ARTICLE = re.compile(r"^(?:a|an|the|my|our|this|that|another|new)\b\s*", re.I)
_LINK = re.compile(r"^(?:to|for|of|about|called|named|that says|saying|is|which is)\b\s*", re.I)


def _subject(function: Function, said: str) -> str:
    """The sentence without the words that only name the function: "add a task to", "move my"."""
    text = _LEAD.sub("", said.strip(), count=1)
    text = _WISH.sub("", text, count=1)
    own = {stem(word) for word in split_name(function.name)}
    own |= {stem(word) for word in ("create", "add", "make", "new")} if "create" in own else set()
    stripped = _strip_command(text, own)
    text = re.sub(r"\s+", " ", stripped).strip(" ,.;:!?")
    return re.sub(r"\s+(?:to|on|by|for|at|in|until|before)$", "", text, flags=re.I)


def _strip_command(text: str, own: set[str]) -> str:
    """Drop leading articles, links and words of the function's own name, but not what follows."""
    named = False
    while True:
        text = text.lstrip(" ,.")
        spoken = words(text[:40])
        if spoken and stem(spoken[0]) in own:
            text = re.sub(r"^[\w']+", "", text, count=1)
            named = True
            continue
        following = _ARTICLE.sub("", text, count=1)
        after = words(following[:40])
        if following != text and (named or (after and stem(after[0]) in own)):
            text = following
            continue
        return _LINK.sub("", text, count=1) if named else text


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
    match slot.kind:
        case Kind.CHOICE:
            return _choice(slot, said)
        case Kind.NUMBER:
            return _number(slot, said)
        case Kind.FLAG:
            return True if is_yes(said) else False if is_no(said) else None
        case Kind.MOMENT | Kind.DEADLINE:
            found, _ = _moment(said, deadline=False)
            if found is not None:
                return found
            if NOTHING.search(said):
                return _nothing(slot)
            if not lenient:
                return None
        case _:
            pass
    text = _ANSWER_LEAD.sub("", said.strip(), count=1).strip(" ,.;:!?")
    return text or None


def _nothing(slot: Slot) -> Any:
    """How this slot says that there is none; None if it has to have a value."""
    types = slot.schema.get("type", "string")
    if types == "string" and "format" not in slot.schema and "pattern" not in slot.schema:
        return "none"
    return None


def mentions(slot: Slot, said: str) -> bool:
    """Whether the words name this slot, as in "change the title"."""
    spoken = words(said)
    return all(any(alike(part, word) for word in spoken) for part in split_name(slot.name))
