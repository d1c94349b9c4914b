"""What is wrong with the configuration, all of it at once, and the words to say it with."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable


class Explained(Exception):
    """Its text says what to do: a command prints that and no traceback."""


class ConfigError(Explained):
    """`problems` holds one line for each mistake: where, what was expected, what was got."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a problem, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def listed(values: Iterable[object]) -> str:
    """The choices, as they are written in a file."""
    return ", ".join(shown(value) for value in values)


def shown(value: object) -> str:
    """A value as it is written in a file, shortened; never the inside of a secret."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list" if value else "an empty list"
        case bool() | int() | float() | str():
            text = json.dumps(value, ensure_ascii=False)
            return text if len(text) <= 60 else text[:57] + "..."
        case _:
            return str(value)
