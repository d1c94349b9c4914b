"""Plain values against the structs that describe them, with every mistake found.

`msgspec.convert` stops at the first mistake; people who write configuration want them all. A
struct may have a method `mistakes()` that yields (path inside the struct, text) for rules between
its fields; it is asked once the fields themselves are right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import msgspec
from msgspec import inspect

from config.env_types import Secret
from config.errors import did_you_mean, listed, shown

_WRONG = object()  # stands for a value that has at least one mistake
_REFERENCE = re.compile(r"\$(?:\$|\{([^}]*)\})")

T = TypeVar("T", bound=msgspec.Struct)


@runtime_checkable
class Ruled(Protocol):
    """A struct with rules between its fields."""

    def mistakes(self) -> Iterator[tuple[str, str]]: ...


def build(
    shape: type[T], values: object, environ: Mapping[str, str] | None = None
) -> tuple[T | None, list[str]]:
    """The struct and the mistakes in `values`, each "$.path: expected ..., got ...".

    With `environ`, `${NAME}` inside a text stands for that variable (`$$` for a dollar sign). The
    struct is None if it cannot be built at all; a wrong optional part is left at its default, so
    that rules across parts can still be tried.
    """
    walk = _Walk(environ)
    info = cast(inspect.StructType, inspect.type_info(shape))
    built, _ = walk.fields(info, values, "$")
    return cast("T | None", None if built is _WRONG else built), walk.problems


def check(kind: Any, value: object) -> Any:
    """The value, if it is of that type; else raises `ValueError("expected ..., got ...")`."""
    walk = _Walk(None)
    checked = walk.value(inspect.type_info(kind), value, "")
    if walk.problems:
        raise ValueError(walk.problems[0].removeprefix(": "))
    return checked


class _Walk:
    """One pass over the values; `problems` grows."""

    def __init__(self, environ: Mapping[str, str] | None) -> None:
        self.environ = environ
        self.problems: list[str] = []

    def expected(self, path: str, wanted: str, got: object) -> object:
        self.problems.append(f"{path}: expected {wanted}, got {shown(got)}")
        return _WRONG

    def value(self, kind: inspect.Type, value: object, path: str) -> object:
        match kind:
            case inspect.Metadata():
                return self.value(kind.type, value, path)
            case inspect.UnionType():
                return self.union(kind, value, path)
            case inspect.StructType():
                built, whole = self.fields(kind, value, path)
                return built if whole else _WRONG
            case inspect.ListType() | inspect.VarTupleType():
                return self.items(kind, value, path)
            case inspect.DictType():
                return self.mapping(kind, value, path)
            case inspect.LiteralType():
                return self.literal(kind, value, path)
            case inspect.StrType() | inspect.CustomType():
                return self.text(kind, value, path)
            case inspect.IntType() | inspect.FloatType():
                return self.number(kind, value, path)
            case inspect.BoolType() if not isinstance(value, bool):
                return self.expected(path, "true or false", value)
            case _:
                return value

    def fields(self, kind: inspect.StructType, value: object, path: str) -> tuple[object, bool]:
        """The struct, and whether all of it was right."""
        if not isinstance(value, dict):
            return self.expected(path, "a mapping", value), False
        before = len(self.problems)
        known = {field.encode_name: field for field in kind.fields}
        tag = {kind.tag_field} if kind.tag_field else set()
        for name in value:
            if name not in known and name not in tag:
                hint = did_you_mean(str(name), [*tag, *known])
                hint = hint or f"; the keys here are {listed([*tag, *known])}"
                self.problems.append(f"{path}: expected a known key, got {shown(name)}{hint}")
        parts = {
            field.name: self.part(field, value, f"{path}.{name}")
            for name, field in known.items()
            if name in value or field.required
        }
        buildable = all(parts.get(f.name) is not _WRONG for f in kind.fields if f.required)
        right = {name: part for name, part in parts.items() if part is not _WRONG}
        built = kind.cls(**right) if buildable else _WRONG
        if len(self.problems) == before and isinstance(built, Ruled):
            self.problems += [f"{path}{inner}: {text}" for inner, text in built.mistakes()]
        return built, len(self.problems) == before

    def part(self, field: inspect.Field, values: dict[str, Any], path: str) -> object:
        value = values.get(field.encode_name)
        if value is None and not _fits(field.type, None):
            or_none = "" if field.required else " (or no such line)"
            return self.expected(path, f"{_wanted(field.type)}{or_none}", None)
        return self.value(field.type, value, path)

    def union(self, kind: inspect.UnionType, value: object, path: str) -> object:
        fitting = [member for member in kind.types if _fits(member, value)]
        tagged = [m for m in fitting if isinstance(m, inspect.StructType) and m.tag_field]
        if len(tagged) > 1 and isinstance(value, dict):
            return self.tagged(tagged, value, path)
        if not fitting:
            return self.expected(path, _wanted(kind), value)
        return self.value(fitting[0], value, path)

    def tagged(self, members: list[inspect.StructType], value: dict[str, Any], path: str) -> object:
        tag_field = str(members[0].tag_field)
        by_tag = {str(member.tag): member for member in members}
        tag = value.get(tag_field)
        if not isinstance(tag, str) or tag not in by_tag:
            return self.choice(f"{path}.{tag_field}", list(by_tag), tag)
        return self.value(by_tag[tag], value, path)

    def choice(self, path: str, allowed: Sequence[object], got: object) -> object:
        wanted = f"one of {listed(allowed)}" if len(allowed) > 1 else shown(allowed[0])
        self.expected(path, wanted, got)
        if isinstance(got, str):
            self.problems[-1] += did_you_mean(got, [str(each) for each in allowed])
        return _WRONG

    def items(
        self, kind: inspect.ListType | inspect.VarTupleType, value: object, path: str
    ) -> object:
        if not isinstance(value, list) or len(value) < (kind.min_length or 0):
            return self.expected(path, _wanted(kind), value)
        built = [self.value(kind.item_type, v, f"{path}[{i}]") for i, v in enumerate(value)]
        if any(item is _WRONG for item in built):
            return _WRONG
        return built if isinstance(kind, inspect.ListType) else tuple(built)

    def mapping(self, kind: inspect.DictType, value: object, path: str) -> object:
        if not isinstance(value, dict):
            return self.expected(path, "a mapping", value)
        built = {k: self.value(kind.value_type, v, f"{path}.{k}") for k, v in value.items()}
        return _WRONG if any(item is _WRONG for item in built.values()) else built

    def literal(self, kind: inspect.LiteralType, value: object, path: str) -> object:
        text = self.resolved(value, path) if isinstance(value, str) else value
        if text is _WRONG or text in kind.values:
            return text
        return self.choice(path, kind.values, value)

    def text(self, kind: inspect.StrType | inspect.CustomType, value: object, path: str) -> object:
        secret = isinstance(kind, inspect.CustomType)
        if not isinstance(value, str):
            quotes = " (put it in quotes)" if isinstance(value, bool | int | float) else ""
            # a credential that looks like a number stays unsaid
            got = Secret("") if secret and quotes else value
            return self.expected(path, f"a text{quotes}", got)
        text = self.resolved(value, path)
        if not isinstance(text, str):
            return text
        if not text.strip() and (secret or cast(inspect.StrType, kind).min_length):
            return self.expected(path, "a text that is not empty", value)
        if isinstance(kind, inspect.CustomType):
            return Secret(text)
        if kind.pattern and not re.search(kind.pattern, text):
            return self.expected(path, f"a text like {kind.pattern}", value)
        return text

    def resolved(self, text: str, path: str) -> object:
        """`text` with its references to the environment replaced."""
        if self.environ is None:
            return text
        for match in _REFERENCE.finditer(text):
            name = match[1]
            if name is not None and not self.environ.get(name):
                problem = f"{path}: expected the environment variable {name} to be set"
                self.problems.append(f"{problem}, got nothing; set it or remove ${{{name}}}")
                return _WRONG
        environ = self.environ
        return _REFERENCE.sub(lambda m: "$" if m[1] is None else environ[m[1]], text)

    def number(self, kind: inspect.IntType | inspect.FloatType, value: object, path: str) -> object:
        whole = isinstance(kind, inspect.IntType)
        is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if isinstance(value, bool) or not is_number or (whole and not isinstance(value, int)):
            return self.expected(path, _wanted(kind), value)
        number = cast(float, value)
        low, high = kind.ge, kind.le
        too_low = low is not None and number < low
        too_low = too_low or (kind.gt is not None and number <= kind.gt)
        if too_low or (high is not None and number > high):
            return self.expected(path, _wanted(kind), value)
        return number if whole else float(number)


def _fits(kind: inspect.Type, value: object) -> bool:
    """Is this the member of a union that somebody who wrote `value` meant?"""
    match kind:
        case inspect.Metadata():
            return _fits(kind.type, value)
        case inspect.UnionType():
            return any(_fits(member, value) for member in kind.types)
        case inspect.NoneType():
            return value is None
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, dict)
        case inspect.ListType() | inspect.VarTupleType():
            return isinstance(value, list)
        case inspect.LiteralType() | inspect.StrType():
            return isinstance(value, str)
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def _wanted(kind: inspect.Type) -> str:
    """What is expected there, in words."""
    match kind:
        case inspect.Metadata():
            return _wanted(kind.type)
        case inspect.UnionType():
            return " or ".join(dict.fromkeys(_wanted(member) for member in kind.types))
        case inspect.LiteralType():
            return ("one of " if len(kind.values) > 1 else "") + listed(list(kind.values))
        case inspect.IntType() | inspect.FloatType():
            return _wanted_number(kind)
        case inspect.ListType() | inspect.VarTupleType():
            return "a list with at least one item" if kind.min_length else "a list"
        case inspect.StructType() | inspect.DictType():
            return "a mapping"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "nothing"
        case _:
            return "a text"


def _wanted_number(kind: inspect.IntType | inspect.FloatType) -> str:
    noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    bounds = [
        f"above {kind.gt}" if kind.gt is not None else "",
        f"from {kind.ge}" if kind.ge is not None else "",
        f"to {kind.le}" if kind.le is not None else "",
    ]
    return " ".join([noun, *filter(None, bounds)])
