"""Words for the slot filler: what counts as yes and no, a date, a number, the same thing. Pure.

Everything is English and forgiving: the words come from a small speech recogniser.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher


def words(text: str) -> list[str]:
    """Lower-case words; apostrophes stay inside."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("\u2019", "'"))


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


YES = word_set(
    "yes yeah yep yup yea sure correct right exactly ok okay absolutely certainly "
    "definitely fine confirm confirmed indeed perfect great good agreed please"
)
NO = word_set("no nope nah not wrong incorrect don't dont never neither")
AGREED = re.compile(r"\b(that's it|go ahead|do it|do that|sounds good|it is)\b", re.I)
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

_COUNTS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: number for number, word in enumerate(_COUNTS)}
_NUMBERS |= {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100}

_MONTH = "(?:january|february|march|april|may|june|july|august|september|october|november|december)"
_DAY = "(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_PERIOD = "(?:week|month|year|weekend|spring|summer|autumn|fall|winter|christmas|easter)"
_HOURS = "(?:morning|noon|afternoon|evening|night)"
_COUNT = rf"(?:\d+|a|an|{'|'.join(_COUNTS)})"
_ORDINAL = (
    r"(?:\d{1,2}(?:st|nd|rd|th)?|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)"
)
_WHICH = r"(?:(?:the|next|this|last|coming|early|late|mid|(?:the )?(?:end|beginning) of) )*"
_PARTS = (
    r"\d{4}-\d{2}-\d{2}(?:[ t]\d{2}:\d{2})?",
    rf"(?:the )?{_ORDINAL}(?: of)? {_MONTH}(?:,? \d{{4}})?",
    rf"{_WHICH}{_MONTH}(?:(?: the)? {_ORDINAL}\b)?(?:,? \d{{4}})?",
    r"(?:the )?day after tomorrow",
    rf"{_WHICH}(?:today|tonight|tomorrow|{_DAY}|{_PERIOD}\b)(?: {_HOURS}| next week)?",
    rf"(?:in )?{_COUNT} (?:minute|hour|day|week|month|year)s?(?: from now)?",
    r"(?:at )?\d{1,2}(?::\d{2})? ?(?:o'clock|am|pm|a\.m\.|p\.m\.)",
    rf"at (?:{'|'.join(_COUNTS[1:13])}|\d{{1,2}}(?::\d{{2}})?)"
    rf"(?: o'clock| in the {_HOURS})?",
    r"(?:at )?(?:as soon as possible|right away|right now|noon|midnight)",
)
_MOMENT = rf"(?:{'|'.join(_PARTS)})"
DATE = re.compile(
    r"\b(?:(?P<deadline>by the|by|before|until|till|no later than|due)|to|for|on|in|at|from)?\s*\b"
    rf"(?P<date>{_MOMENT}(?:,? (?:at|on|in)? ?{_MOMENT})*)",
    re.I,
)
"""`deadline` is there if the words say that it is one."""


def sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:].rstrip(".") + "."


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
    is_long = min(len(one), len(other)) >= 5
    return one == other or (is_long and SequenceMatcher(None, one, other).ratio() >= 0.84)


def mentions(text: str, name: str) -> bool:
    """Whether all words of a name are in the text, as in "change the title"."""
    spoken, named = [stem(word) for word in words(text)], split_name(name)
    return bool(named) and all(any(alike(stem(own), word) for word in spoken) for own in named)


def consent(text: str) -> bool | None:
    """Whether agreement or refusal comes first; None if there is neither."""
    for word in words(text):
        if word in YES or word in NO:
            return word in YES
    return True if AGREED.search(text) else None


def find_number(text: str) -> float | None:
    """The first number, in digits or in words up to ninety-nine."""
    if digits := re.search(r"-?\d+(?:\.\d+)?", text.replace(",", "")):
        return float(digits[0])
    total: float | None = None
    for word in words(text):
        if word in _NUMBERS:
            total = (total or 0) + _NUMBERS[word]
        elif total is not None:
            break
    return total
