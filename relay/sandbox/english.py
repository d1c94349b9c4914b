"""Words for the slot filler: what counts as yes and no, a date, a number, the same thing. Pure.

Everything is English and forgiving: the words come from a small speech recogniser.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _listed(text: str) -> list[str]:
    return text.split()


YES = word_set(
    "yes yeah yep yup yea sure correct right exactly ok okay absolutely certainly "
    "definitely fine confirm confirmed indeed perfect great good agreed please"
)
NO = word_set("no nope nah not wrong incorrect don't dont never neither")
CANCEL = re.compile(
    r"\b(never mind|nevermind|cancel (it|that|this)|forget (it|that|about it)|stop (it|that)|"
    r"leave it|drop it|let's not|not any ?more)\b|^\W*(cancel|stop|abort)\W*$",
    re.I,
)
NOTHING = re.compile(
    r"\b(no|none|nothing|not|never|without|don't|doesn't|isn't|any ?time|whenever|open end(ed)?|"
    r"no matter)\b",
    re.I,
)

STOP_WORDS = word_set(
    "a an and are as at be been but by can could do does for from had has have he her him "
    "his how i i'd i'll i'm if in into is it it's its let let's may me my of on one or our "
    "out over own please she so some such than that the their them then there these they "
    "thing things this to up us use user users user's very was we were what when which who "
    "will with would you your single another other not no yes given get gets name call "
    "function new"
)

SAME = (
    "goal aim achieve accomplish reach dream objective ambition resolution plan hope want wish",
    "task todo errand chore remind reminder remember",
    "create add make set record start new open register save note put",
    "reschedule move postpone shift delay push bring change",
    "delete remove cancel erase drop",
    "show list tell what which give read see view find search look check status",
    "book reserve reservation order table",
    "buy purchase shop",
    "appointment meeting event",
    "send mail email message text write",
    "weather forecast temperature rain",
)
"""Words of one line are taken for each other."""

_GROUPS = {word: line.split()[0] for line in SAME for word in reversed(line.split())}

_MONTHS = _listed(
    "january february march april may june july august september october november december"
)
_DAYS = _listed("monday tuesday wednesday thursday friday saturday sunday")
_COUNTS = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100}

_DAY = "|".join(_DAYS)
_MONTH = "|".join(_MONTHS)
_UNIT = "minute|hour|day|week|month|year"
_COUNT = rf"\d+|a|an|{'|'.join(_COUNTS)}"
_ORDINAL = (
    r"\d{1,2}(?:st|nd|rd|th)?|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
)
_PARTS = (
    r"\d{4}-\d{2}-\d{2}(?:[ t]\d{2}:\d{2})?",
    rf"(?:the )?(?:{_ORDINAL})(?: of)? (?:{_MONTH})(?:,? \d{{4}})?",
    rf"(?:{_MONTH})(?: the)? (?:{_ORDINAL})\b(?:,? \d{{4}})?",
    rf"(?:next |this |last |early |late |mid |the end of |the beginning of )*(?:{_MONTH})"
    r"(?:,? \d{4})?",
    r"(?:the )?day after tomorrow",
    r"(?:today|tonight|tomorrow)(?: (?:morning|noon|afternoon|evening|night))?",
    rf"(?:next |this |coming )?(?:{_DAY})(?: (?:morning|noon|afternoon|evening|night|next week))?",
    r"(?:the )?(?:end of (?:the |this |next )?)?(?:next |this )?(?:week|month|year|weekend|spring|"
    r"summer|autumn|fall|winter|christmas|easter)\b",
    rf"(?:in )?(?:{_COUNT}) (?:{_UNIT})s?(?: from now)?",
    r"(?:at )?\d{1,2}(?::\d{2})? ?(?:o'clock|am|pm|a\.m\.|p\.m\.)",
    rf"at (?:{'|'.join(_COUNTS[1:13])}|\d{{1,2}}(?::\d{{2}})?|noon|midnight)"
    r"(?: o'clock| in the (?:morning|afternoon|evening))?",
    r"(?:as soon as possible|right away|right now|noon|midnight)",
)
_MOMENT = rf"(?:{'|'.join(_PARTS)})"
DATE = re.compile(
    rf"\b(?P<cue>by the|by|before|until|till|no later than|to|for|on|in|at|from|due)?\s*\b"
    rf"(?P<date>{_MOMENT}(?:,? (?:at|on|in)? ?{_MOMENT})*)",
    re.I,
)
DEADLINE_CUES = ("by", "by the", "before", "until", "till", "no later than", "due")


def words(text: str) -> list[str]:
    """Lower-case words; apostrophes stay inside."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("\u2019", "'"))


def stem(word: str) -> str:
    """The same for `rescheduling`, `reschedules`, `rescheduled`; good enough for matching."""
    if word in _GROUPS:
        return _GROUPS[word]
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            short = word[: -len(ending)]
            return next((_GROUPS[w] for w in (short, short + "e") if w in _GROUPS), short)
    return word


def split_name(name: str) -> list[str]:
    """The words of snake_case, kebab-case and camelCase."""
    return words(re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).replace("_", " ").replace("-", " "))


def alike(one: str, other: str) -> bool:
    """The same word, or one that a recogniser could take for it."""
    if one == other:
        return True
    if min(len(one), len(other)) < 5:
        return False
    return SequenceMatcher(None, one, other).ratio() >= 0.84


def is_yes(text: str) -> bool:
    """Whether agreement comes before any refusal."""
    return _first(text) == "yes"


def is_no(text: str) -> bool:
    return _first(text) == "no"


def _first(text: str) -> str | None:
    for word in words(text):
        if word in YES:
            return "yes"
        if word in NO:
            return "no"
    if re.search(r"\b(that's it|go ahead|do it|do that|sounds good|it is)\b", text, re.I):
        return "yes"
    return None


def find_number(text: str) -> float | None:
    """The first number, in digits or in words up to ninety-nine."""
    if digits := re.search(r"-?\d+(?:\.\d+)?", text.replace(",", "")):
        return float(digits[0])
    total: float | None = None
    for word in words(text):
        value = _COUNTS.index(word) if word in _COUNTS else _TENS.get(word)
        if value is None:
            if total is not None:
                break
            continue
        total = (total or 0) + value
    return total
