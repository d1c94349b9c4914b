"""Plain values against the structs that describe them, with every mistake found.

`msgspec.convert` stops at the first mistake; people who write configuration want them all. So the
values are held against the JSON Schema that msgspec makes of a struct, and converted when they are
right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from config.env_types import Secret
from config.errors import ConfigError, did_you_mean, listed, shown
from config.yaml_loader import read_document

T = TypeVar("T")

NOT_EMPTY = r"\S"
PATH = r"^/[^\s?#]*$"  # of a URL
_REFERENCE = re.compile(r"\$(?:\$|\{([^}]*)\})")
_NOUNS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "nothing",
    "number": "a number",
    "object": "a mapping",
    "string": "a text",
}


Mistake = tuple[str, str, object]
"""`.path` inside a mapping, what was expected, what was got."""


class Part(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False
):
    """A mapping in a file."""

    def mistakes(self) -> Iterator[Mistake]:
        """Against the rules between its fields; asked once the fields themselves are right."""
        yield from ()


def load_file(
    shape: type[T], path: Path, environ: Mapping[str, str] | None = None, *, empty: object = None
) -> T:
    """The struct in a YAML file; raises `ConfigError` with every mistake.

    With `environ`, `${NAME}` inside a text stands for that variable (`$$` for a dollar sign).
    `empty` is what a file without values stands for.
    """
    values, problems = read_document(path)
    values = empty if values is None else values
    unset: dict[str, str] = {}
    filled = values if environ is None else _filled(values, environ, "$", unset)
    mistakes = list(unset.items())
    mistakes += [one for one in _mistakes(shape, filled, values) if one[0] not in unset]
    problems += [f"{path.name}: {where}: {text}" for where, text in dict.fromkeys(mistakes)]
    if problems:
        raise ConfigError(problems)
    return msgspec.convert(filled, shape, dec_hook=_as_secret)


def check(shape: Any, value: object) -> Any:
    """The value, if it is of that type; else raises `ValueError("expected ..., got ...")`."""
    for _, text in _mistakes(shape, value, value):
        raise ValueError(text)
    return msgspec.convert(value, shape)


@cache
def json_schema(shape: Any) -> dict[str, Any]:
    """As editors know it, too."""
    secret = {"type": "string", "pattern": NOT_EMPTY, "writeOnly": True}
    return msgspec.json.schema(shape, schema_hook=lambda _: secret)


def _as_secret(_: type, text: str) -> Secret:
    return Secret(text)


def _filled(value: object, environ: Mapping[str, str], path: str, unset: dict[str, str]) -> object:
    """The value with its references to the environment replaced; `unset` gets what is not there."""

    def replace(reference: re.Match[str]) -> str:
        name = reference[1]
        if name is not None and not environ.get(name):
            wanted = f"expected the environment variable {name} to be set"
            unset[path] = f"{wanted}, got nothing; set it or remove ${{{name}}}"
        return "$" if name is None else environ.get(name, "")

    match value:
        case dict():
            return {k: _filled(v, environ, f"{path}.{k}", unset) for k, v in value.items()}
        case list():
            return [_filled(v, environ, f"{path}[{i}]", unset) for i, v in enumerate(value)]
        case str():
            return _REFERENCE.sub(replace, value)
    return value


# --- keywords of JSON Schema that name one mistake each ------------------------------------------


def _required(
    validator: Any, names: list[str], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    """What is missing is taken for null, so that it is said what it should be."""
    for name in names if isinstance(instance, dict) else ():
        if name not in instance:
            yield from validator.descend(None, schema["properties"][name], path=name)


def _any_of(
    validator: Any, branches: list[Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    """The mistakes within the branch that is meant, by its tag or by the kind of the value."""
    tags = schema.get("discriminator")
    if tags and isinstance(instance, dict):
        name, known = tags["propertyName"], tags["mapping"]
        tag = instance.get(name)
        if isinstance(tag, str) and tag in known:
            yield from validator.descend(instance, {"$ref": known[tag]})
        else:
            yield from validator.descend(tag, {"enum": list(known)}, path=name)
        return
    found = [list(validator.descend(instance, branch)) for branch in branches]
    if all(found):
        meant = [errors for errors in found if not any(map(_is_of_another_kind, errors))]
        yield from meant[0] if meant else [ValidationError("none of them")]


def _is_of_another_kind(error: ValidationError) -> bool:
    return not error.relative_path and error.validator in ("type", "enum", "anyOf")


def _rules(validator: Any, title: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """A struct has its name as title; its rules are asked if its fields are right."""
    shape = next((part for part in Part.__subclasses__() if part.__name__ == title), None)
    fields = {key: schema[key] for key in ("type", "properties", "required") if key in schema}
    if shape is not None and validator.evolve(schema=fields).is_valid(instance):
        known = {name: instance[name] for name in instance if name in schema["properties"]}
        for where, wanted, got in msgspec.convert(known, shape, dec_hook=_as_secret).mistakes():
            yield ValidationError(f"expected {wanted}, got {got}", instance=where)


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {"required": _required, "anyOf": _any_of, "title": _rules},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


# --- mistakes, for people -------------------------------------------------------------------------


def _mistakes(shape: Any, filled: object, values: object) -> Iterator[tuple[str, str]]:
    """Where, and what is wrong there; of the environment only what `values` show of it."""
    for error in _Validator(json_schema(shape)).iter_errors(filled):
        schema: Any = error.schema
        got: Any = error.instance
        where = error.json_path
        if error.validator == "title":
            yield f"{where}{got}", error.message
        elif error.validator == "additionalProperties":
            for name in got:
                if name not in schema["properties"]:
                    hint = did_you_mean(name, schema["properties"])
                    hint = hint or f"; the keys here are {listed(schema['properties'])}"
                    yield where, f"expected a known key, got {shown(name)}{hint}"
        else:
            if isinstance(got, str) and isinstance(_at(error, values), str):
                got = _at(error, values)
            yield where, f"expected {_wanted(schema)}, got {_got(schema, got)}"


def _at(error: ValidationError, values: Any) -> Any:
    return reduce(getitem, error.absolute_path, values)


def _got(schema: Any, got: Any) -> str:
    if schema.get("type") == "string" and isinstance(got, bool | int | float):
        # a credential that looks like a number stays unsaid
        return f"{'***' if 'writeOnly' in schema else shown(got)}; put it in quotes"
    if "enum" in schema:
        why = f" ({schema['description']})" if "description" in schema else ""
        return shown(got) + why + did_you_mean(str(got), map(str, schema["enum"]))
    return shown(got)


def _wanted(schema: Any) -> str:
    """What is expected there, in words."""
    match schema:
        case {"anyOf": branches}:
            return " or ".join(dict.fromkeys(map(_wanted, branches)))
        case {"enum": values}:
            return ("one of " if len(values) > 1 else "") + listed(values)
        case {"$ref": _}:
            return _NOUNS["object"]
        case {"pattern": pattern}:
            return "a text that is not empty" if pattern == NOT_EMPTY else f"a text like {pattern}"
        case {"minItems": _}:
            return "a list with at least one item"
    bounds = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to"}
    said = [f"{word} {schema[bound]}" for bound, word in bounds.items() if bound in schema]
    return " ".join([_NOUNS[schema["type"]], *said])
