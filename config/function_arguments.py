"""The arguments of a function call, as a language model wrote them: bounded, decoded, checked.

What is wrong with them is said in words that let the model mend it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
import regex
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from config.errors import listed, shown
from config.nesting import is_deeper

MAX_LENGTH = 32_000  # characters of the JSON text
MAX_DEPTH = 32  # objects and arrays inside one another
REASON_LENGTH = 1000  # characters of an answer to the model; it has to stay cheap to read
PATTERN_SECONDS = 0.01  # for one text; some patterns take years for a text of 40 letters
MAX_MISTAKES = 100  # that are looked for: the model is told fewer
# The two that are left out take the square of a text's length: seconds for 2,000 letters.
_SLOW = {"iri", "iri-reference"}
FORMATS = frozenset(Draft202012Validator.FORMAT_CHECKER.checkers) - _SLOW

_MAX_SHOWN = 4_000  # characters of arguments that are not JSON, as a person sees them
# Keywords that let a schema name arguments elsewhere than in its own `properties`.
_BRANCHES = {"allOf", "anyOf", "oneOf", "if", "dependentSchemas", "patternProperties"}
_LIKE = {
    "date": "2026-04-30",
    "date-time": "2026-04-30T15:00:00Z, with a time zone",
    "time": "15:00:00Z, with a time zone",
    "duration": "P1DT2H",
    "email": "ann@example.com",
    "uri": "https://example.com/page",
    "uuid": "0192d3c4-0000-7000-8000-000000000001",
}
# Half of a surrogate pair, written as an escape; the group is what is not one.
_HALF = re.compile(
    r"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_HALF_LETTER = re.compile("[\ud800-\udfff]")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


_FORMAT_CHECKER = FormatChecker(())
_FORMAT_CHECKER.checkers = {
    name: check
    for name, check in Draft202012Validator.FORMAT_CHECKER.checkers.items()
    if name in FORMATS
}


class ArgumentsError(Exception):
    """The arguments of a call are wrong; the text is for the model, it says what to mend."""


def decode(text: str) -> Any:
    """The value that the text stands for; raises `ArgumentsError`.

    The empty text is taken as no arguments. Half of a surrogate pair becomes U+FFFD: a model cuts
    an emoji in two, and nobody can store that.
    """
    if len(text) > MAX_LENGTH:
        raise ArgumentsError(
            f"expected the arguments as a JSON object of at most {MAX_LENGTH} characters, "
            f"got {len(text)}; shorten it"
        )
    if _NUL.search(text):
        raise ArgumentsError("expected arguments without the character U+0000, got one")
    whole = _HALF_LETTER.sub("\ufffd", _HALF.sub(lambda found: found[1] or "\ufffd", text)).encode()
    if is_deeper(whole, MAX_DEPTH):
        raise ArgumentsError(
            f"expected the arguments as a JSON object with at most {MAX_DEPTH} objects and arrays "
            "inside one another, got more; make it simpler"
        )
    try:
        return msgspec.json.decode(whole or b"{}")
    except msgspec.DecodeError as error:
        raise ArgumentsError(f"expected the arguments as a JSON object, got {error}") from None


def show(text: str) -> Any:
    """What a person is shown: the value, or the beginning of a text that is none."""
    try:
        return decode(text)
    except ArgumentsError:
        return text[:_MAX_SHOWN]


class Checker:
    """Checks arguments against the schema of one function.

    An argument that the schema does not name is a mistake too, unless the schema says
    `additionalProperties`.
    """

    def __init__(self, function: str, schema: dict[str, Any]) -> None:
        if "additionalProperties" not in schema:
            schema = {"unevaluatedProperties": False, **schema}
        self._function = function
        self._validator = _Validator(schema, format_checker=_FORMAT_CHECKER)

    def check(self, text: str) -> dict[str, Any]:
        """The arguments, decoded and valid; raises `ArgumentsError` with all mistakes."""
        arguments = decode(text)
        if not isinstance(arguments, dict):
            got = shorten(json.dumps(arguments, ensure_ascii=False))
            raise ArgumentsError(f"expected the arguments as a JSON object, got {got}")
        if mistakes := self._mistakes(arguments):
            raise ArgumentsError(_bounded(f"{self._function} was not called", mistakes))
        return arguments

    def _mistakes(self, arguments: dict[str, Any]) -> list[str]:
        try:
            errors = islice(self._validator.iter_errors(arguments), MAX_MISTAKES)
            lines = [shorten(line) for error in errors for line in _for_model(error)]
        except TimeoutError:
            lines = ["comparing a text with its pattern takes too long"]
        except Exception as error:
            # The edge to a library that computes with what a model wrote, such as a number of 400
            # digits: what it raises is about these arguments and nobody else's.
            why = f"the arguments cannot be checked ({type(error).__name__})"
            lines = [f"{why}; use shorter numbers and simpler values"]
        return list(dict.fromkeys(lines))


# --- keywords that take longer than they should ---------------------------------------------------


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, part in patterns.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _matches(pattern: str, text: str) -> bool:
    return regex.search(pattern, text, timeout=PATTERN_SECONDS) is not None


def _unique_items(
    validator: Any, wanted: bool, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    # jsonschema compares each object with each other one.
    is_list = wanted and isinstance(instance, list)
    if is_list and len({_frozen(item) for item in instance}) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _frozen(value: Any) -> Any:
    """Equal for what JSON Schema calls equal: 1 and 1.0, but not 1 and true."""
    match value:
        case dict():
            return frozenset((name, _frozen(part)) for name, part in value.items())
        case list():
            return tuple(map(_frozen, value))
        case bool():
            return bool, value
    return value


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "uniqueItems": _unique_items,
    },
)


# --- mistakes, for the model ----------------------------------------------------------------------


def _for_model(error: ValidationError) -> Iterator[str]:
    """The mistake in words that let the model mend it: where, what was expected, what came."""
    where = error.json_path.removeprefix("$").removeprefix(".")
    prefix = f"{where}: " if where else ""
    rule: Any = error.validator_value
    instance: Any = error.instance
    schema: Any = error.schema
    match error.validator:
        case "required":
            properties = schema.get("properties", {})
            for name in rule:
                if name not in instance:
                    about = properties.get(name, {})
                    words = about.get("description") if isinstance(about, dict) else None
                    field = f"{where}.{name}" if where else name
                    yield f"{field}: is missing" + (f" ({shorten(words)})" if words else "")
        case "additionalProperties" | "unevaluatedProperties" if not schema.keys() & _BRANCHES:
            properties = schema.get("properties", {})
            known = listed(properties)
            for name in instance:
                if name not in properties:
                    yield f"{prefix}{shown(name)} is not an argument, these are: {known}"
        case "type":
            wanted = " or ".join(rule) if isinstance(rule, list) else rule
            yield f"{prefix}expected {wanted}, got {shown(instance)}"
        case "enum":
            yield f"{prefix}expected one of {listed(rule)}, got {shown(instance)}"
        case "format":
            example = f"; write it like {_LIKE[rule]}" if rule in _LIKE else ""
            yield f"{prefix}expected a {rule}, got {shown(instance)}{example}"
        case _:
            yield prefix + shorten(error.message)


def _bounded(head: str, mistakes: list[str]) -> str:
    """All mistakes, or as many as fit and how many more there are."""
    room = REASON_LENGTH - len(head) - 40
    kept: list[str] = []
    for mistake in mistakes:
        room -= len(mistake) + 2
        if room < 0:
            break
        kept.append(mistake)
    rest = len(mistakes) - len(kept)
    return f"{head}: " + "; ".join(kept) + (f"; and {rest} more" if rest else "")


def shorten(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
