"""A YAML file, read with fewer surprises than YAML 1.1 has.

Only `true` and `false` are booleans (`no` and `on` stay words), only `1.2`-style numbers are
numbers (no octal, no sexagesimal), dates stay text, and a key that is written twice is a mistake.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from config.errors import ConfigError, shown


class _Loader(yaml.SafeLoader):
    """Safe, with the scalars of YAML 1.2 and a list of the keys that came twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[tuple[int, str]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    self.repeated.append((key.start_mark.line + 1, key.value))
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first)
    )


def _integer(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value, 16 if node.value.lower().startswith("0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_text(path: Path) -> str:
    """The file as text; `ConfigError` says why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"expected text in UTF-8, got byte 0x{error.object[error.start]:02x}"
        raise ConfigError([f"{path.name}: {problem} at position {error.start}"]) from None
    except OSError as error:
        got = (error.strerror or type(error).__name__).lower()
        raise ConfigError([f"{path.name}: expected a file at {path}, got {got!r}"]) from None


def read_document(path: Path) -> tuple[Any, list[str]]:
    """The values of a YAML file and the keys that were written twice, as problems.

    Raises `ConfigError` if there is no such file or if it is not YAML.
    """
    text = read_text(path)
    try:
        loader = _Loader(text)
        values = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([f"{path.name}: {_syntax_problem(error)}"]) from None
    except (yaml.YAMLError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise ConfigError([f"{path.name}: expected YAML, got {what}"]) from None
    try:  # through JSON: what is not JSON is found out, and keys become texts
        values = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"expected texts, numbers, lists and mappings, got something else ({error})"
        raise ConfigError([f"{path.name}: {problem}"]) from None
    problems = [
        f"{path.name}: line {line}: expected every key once, got {shown(key)} twice; delete one"
        for line, key in dict.fromkeys(loader.repeated)
    ]
    return values, problems


def _syntax_problem(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
    context = f" ({error.context})" if error.context else ""
    return f"{where}: expected YAML, got: {error.problem}{context}"
