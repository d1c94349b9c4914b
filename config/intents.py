"""intents.yaml: what a conversation may lead to, and the functions that the agent has for it.

An intent is what we call it, a function is how the model knows it. Adding one takes an entry in
the file and no code: its arguments are checked against the JSON Schema that stands there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from jsonschema import Draft202012Validator
from msgspec import Meta

from config.errors import did_you_mean, listed, shown
from config.function_arguments import FORMATS, Checker, shorten
from config.validation import NOT_EMPTY, Part


class Intent(Part, frozen=True, kw_only=True):
    """One entry of the file. `say` is what the agent says if the call takes `say_after` seconds."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$",
            description="our name for it, e.g. GOAL: in the API, in the database, in the logs",
        ),
    ]
    title: Annotated[str, Meta(pattern=NOT_EMPTY, description="its name for people")]
    function: Annotated[
        str,
        Meta(
            pattern=r"^[a-zA-Z0-9_-]{1,64}$",
            description="the function's name for the model, a verb helps: create_goal",
        ),
    ]
    description: Annotated[
        str, Meta(pattern=NOT_EMPTY, description="for the model: when to call the function")
    ]
    parameters: Annotated[
        dict[str, Any],
        Meta(description="JSON Schema (draft 2020-12) of the arguments; type: object"),
    ]
    path: Annotated[
        str,
        Meta(pattern=r"^/[^\s?#]*$", description="put behind ORCHESTRATOR_URL; begins with /"),
    ]
    timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=300,
            description="seconds that the model waits for the outcome, retries included",
        ),
    ] = 10.0
    retry: Annotated[
        bool, Meta(description="may the request be sent again when it is unknown if it arrived?")
    ] = False
    say: Annotated[str | None, Meta(description="what the agent says while a slow call runs")] = (
        None
    )
    say_after: Annotated[float, Meta(ge=0, le=60, description="seconds until then")] = 1.5

    def mistakes(self) -> Iterator[tuple[str, str]]:
        for where, text in _schema_mistakes(self.parameters):
            yield f".parameters{where}", text


class IntentsFile(Part, frozen=True):
    """intents.yaml"""

    intents: Annotated[tuple[Intent, ...], Meta(min_length=1)]

    def mistakes(self) -> Iterator[tuple[str, str]]:
        for key in ("name", "function"):
            for word, times in Counter(getattr(intent, key) for intent in self.intents).items():
                if times > 1:
                    wanted = f"expected every {key} once"
                    yield ".intents", f"{wanted}, got {shown(word)} {times} times; rename one"


class Registry:
    """The intents of one deployment; immutable."""

    def __init__(self, intents: Iterable[Intent]) -> None:
        self.intents = tuple(intents)
        self._by_function = {intent.function: intent for intent in self.intents}
        self._checkers = {i.name: Checker(i.function, i.parameters) for i in self.intents}

    def __repr__(self) -> str:
        return f"<Registry {' '.join(intent.name for intent in self.intents)}>"

    def by_function(self, name: str) -> Intent | None:
        return self._by_function.get(name)

    def functions(self) -> list[dict[str, Any]]:
        """For Settings. Deepgram refuses any further key, and without endpoint we are called."""
        return [
            {"name": i.function, "description": i.description, "parameters": i.parameters}
            for i in self.intents
        ]

    def check_arguments(self, intent: Intent, text: str) -> dict[str, Any]:
        """The arguments of a call, decoded and valid; raises `ArgumentsError`."""
        return self._checkers[intent.name].check(text)


# --- the schema of an intent --------------------------------------------------------------------


def _schema_mistakes(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if schema.get("type") != "object":
        yield ".type", f'expected "object", got {shown(schema.get("type"))}'
    meta = Draft202012Validator(
        Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    broken = False
    for error in meta.iter_errors(schema):
        broken = True
        yield error.json_path[1:], f"expected JSON Schema, got {shorten(error.message)}"
    if not broken:
        yield from _part_mistakes(schema, "")


def _part_mistakes(schema: Any, path: str) -> Iterator[tuple[str, str]]:
    """What JSON Schema allows and models or we do not, in this schema and those inside it."""
    if isinstance(schema, list):
        for index, part in enumerate(schema):
            yield from _part_mistakes(part, f"{path}[{index}]")
    if not isinstance(schema, dict):
        return
    for key in ("$ref", "$dynamicRef"):
        if key in schema:
            yield (
                f"{path}.{key}",
                "expected the schema itself (not every model follows references), got a reference",
            )
    format = schema.get("format")
    if isinstance(format, str) and format not in FORMATS:
        known = listed(sorted(FORMATS))
        hint = did_you_mean(format, FORMATS)
        yield f"{path}.format", f"expected one of {known}, got {shown(format)}{hint}"
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in properties:
            hint = did_you_mean(name, properties) or "; add it to properties"
            yield f"{path}.required", f"expected names out of properties, got {shown(name)}{hint}"
    for key, part in schema.items():
        if key == "properties":
            for name, inner in part.items():
                yield from _part_mistakes(inner, f"{path}.properties.{name}")
        elif key not in ("const", "default", "enum", "examples", "required"):
            yield from _part_mistakes(part, f"{path}.{key}")
