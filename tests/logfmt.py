"""A strict reader of logfmt: a line is pairs with one blank between them, and nothing else."""

from __future__ import annotations

import json
import re

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BARE = re.compile(r"[!#-<>-\[\]-~]+")
_QUOTED = re.compile(r'"(?:[ !#-\[\]-~]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')


def read_line(line: str) -> dict[str, str]:
    """The pairs of one line, without its end. Raises ValueError with the place."""
    found: dict[str, str] = {}
    at = 0
    while True:
        name = _NAME.match(line, at)
        if name is None or line[name.end() : name.end() + 1] != "=":
            raise ValueError(f"expected a name and = at {at}: {line!r}")
        at = name.end() + 1
        value = _QUOTED.match(line, at) or _BARE.match(line, at)
        if value is None:
            raise ValueError(f"expected a value at {at}: {line!r}")
        if name[0] in found:
            raise ValueError(f"expected {name[0]} once: {line!r}")
        found[name[0]] = json.loads(value[0]) if value[0].startswith('"') else value[0]
        at = value.end()
        if at == len(line):
            return found
        if line[at] != " ":
            raise ValueError(f"expected a blank at {at}: {line!r}")
        at += 1


def read_lines(text: str) -> list[dict[str, str]]:
    """Every line of a log; each has to end with a line feed, and there is no other line end."""
    if text and not text.endswith("\n"):
        raise ValueError("expected a line feed at the end")
    return [read_line(line) for line in text.split("\n")[:-1]]
