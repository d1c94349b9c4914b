"""intents.yaml: what a conversation may lead to, and the functions that the agent has for it.

An intent is what we call it, a function is how the model knows it. Adding one takes an entry in
the file and no code: its arguments are checked against the JSON Schema that stands there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from msgspec import Meta

from config.errors import did_you_mean, listed, shown
from config.function_arguments import FORMATS, Checker, shorten
from config.validation import NOT_EMPTY, PATH, Mistake, Part

_NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
_FUNCTION = r"^[a-zA-Z0-9_-]{1,64}$"
_Path = Annotated[str, Meta(pattern=PATH)]
_TIMEOUT = "seconds that the model waits for the outcome, retries included"
_DEFER = "call only when the user has finished; false for what only reads"
_CANCEL = "where the Orchestrator undoes a call that is taken back too late"
_CONFIRM = "card: the user is asked on the screen, and it is not done before a tap"
_CONFIRM_SECONDS = "that the card waits for a tap"
_CONFIRM_TIMEOUT = "what becomes of it without one"


class Intent(Part, frozen=True, kw_only=True):
    """One entry of the file. `say` is what the agent says if the call takes `say_after` seconds."""

    name: Annotated[str, Meta(pattern=_NAME, description="ours: in the API, the database, logs")]
    title: Annotated[str, Meta(pattern=NOT_EMPTY, description="its name for people")]
    function: Annotated[str, Meta(pattern=_FUNCTION, description="the model's name: create_goal")]
    description: Annotated[str, Meta(pattern=NOT_EMPTY, description="tells the model when to call")]
    parameters: Annotated[dict[str, Any], Meta(description="JSON Schema of type object (2020-12)")]
    path: Annotated[str, Meta(pattern=PATH, description="put behind ORCHESTRATOR_URL")]
    cancel_path: Annotated[_Path | None, Meta(description=_CANCEL)] = None
    timeout: Annotated[float, Meta(gt=0, le=300, description=_TIMEOUT)] = 10.0
    retry: Annotated[bool, Meta(description="may it be sent again if it may have arrived?")] = False
    defer: Annotated[bool, Meta(description=_DEFER)] = True
    confirm: Annotated[Literal["none", "card"], Meta(description=_CONFIRM)] = "none"
    confirm_seconds: Annotated[float, Meta(ge=1, le=600, description=_CONFIRM_SECONDS)] = 60.0
    confirm_timeout: Annotated[Literal["submit", "cancel"], Meta(description=_CONFIRM_TIMEOUT)] = (
        "cancel"
    )
    say: Annotated[str | None, Meta(description="what the agent says when it is slow")] = None
    say_after: Annotated[float, Meta(ge=0, le=60, description="seconds until then")] = 1.5

    def mistakes(self) -> Iterator[Mistake]:
        for where, wanted, got in _schema_mistakes(self.parameters):
            yield f".parameters{where}", wanted, got


class IntentsFile(Part, frozen=True):
    """intents.yaml"""

    intents: Annotated[tuple[Intent, ...], Meta(min_length=1)]

    def mistakes(self) -> Iterator[Mistake]:
        for key in ("name", "function"):
            for word, times in Counter(getattr(intent, key) for intent in self.intents).items():
                if times > 1:
                    yield (
                        ".intents",
                        f"every {key} once",
                        f"{shown(word)} {times} times; rename one",
                    )


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
        """For Settings. Deepgram refuses any further key, and without endpoint we are called.

        It calls while the user may still go on, and calls again if so: `defer_until_eot` holds a
        call back until the end of the turn (docs/protocol.md, Functions).
        """
        return [
            {"name": i.function, "description": i.description, "parameters": i.parameters}
            | ({"defer_until_eot": True} if i.defer else {})
            for i in self.intents
        ]

    def check_arguments(self, intent: Intent, text: str) -> dict[str, Any]:
        """The arguments of a call, decoded and valid; raises `ArgumentsError`."""
        return self._checkers[intent.name].check(text)


# --- the schema of an intent --------------------------------------------------------------------


def _schema_mistakes(schema: dict[str, Any]) -> Iterator[Mistake]:
    if schema.get("type") != "object":
        yield ".type", '"object"', shown(schema.get("type"))
    meta = Draft202012Validator(
        Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    broken = False
    for error in meta.iter_errors(schema):
        broken = True
        yield error.json_path[1:], "JSON Schema", shorten(error.message)
    if not broken:
        yield from _part_mistakes(schema, "")


def _part_mistakes(schema: Any, path: str) -> Iterator[Mistake]:
    """What JSON Schema allows and models or we do not, in this schema and those inside it."""
    if isinstance(schema, list):
        for index, part in enumerate(schema):
            yield from _part_mistakes(part, f"{path}[{index}]")
    if not isinstance(schema, dict):
        return
    for key in ("$ref", "$dynamicRef"):
        if key in schema:
            wanted = "the schema itself (not every model follows references)"
            yield f"{path}.{key}", wanted, "a reference"
    format = schema.get("format")
    if isinstance(format, str) and format not in FORMATS:
        wanted = f"one of {listed(sorted(FORMATS))}"
        yield f"{path}.format", wanted, shown(format) + did_you_mean(format, FORMATS)
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in properties:
            hint = did_you_mean(name, properties) or "; add it to properties"
            yield f"{path}.required", "names out of properties", f"{shown(name)}{hint}"
    for key, part in schema.items():
        if key == "properties":
            for name, inner in part.items():
                yield from _part_mistakes(inner, f"{path}.properties.{name}")
        elif key not in ("const", "default", "enum", "examples", "required"):
            yield from _part_mistakes(part, f"{path}.{key}")
