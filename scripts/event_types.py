"""Makes the TypeScript types of what passes between a browser and the relay: `make docs`.

They come from docs/relay.asyncapi.yml.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
ASYNCAPI = ROOT / "docs" / "relay.asyncapi.yml"
FILE = ROOT / "relay" / "client" / "events.ts"
CHANNEL = "/api/v1/voice/session/{session_id}/ws"
WIDTH = 100
PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}
PLAIN["null"] = "null"

Schema = dict[str, Any]


def made(description: Schema) -> str:
    """The text of the file."""
    channel = description["channels"][CHANNEL]
    said = list(_messages(description, channel["publish"]))
    heard = list(_messages(description, channel["subscribe"]))
    blocks = [
        "// What passes between a browser and the relay.\n"
        "// Made from docs/relay.asyncapi.yml by `make docs`: do not change it here.\n",
        *(_interface(name, summary, schema) for name, summary, schema in said + heard),
        "/** What a browser gets as text. */\n"
        f"{_union('export type SessionEvent = ', [name for name, *_ in heard])};\n",
        "/** What a browser may send as text. */\n"
        f"{_union('export type BrowserMessage = ', [name for name, *_ in said])};\n",
    ]
    return "\n".join(blocks)


def _messages(description: Schema, operation: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Name, summary and schema of those that are objects of ours."""
    components = description["components"]
    for one in operation["message"]["oneOf"]:
        name = one["$ref"].rsplit("/", 1)[1]
        if name in components["schemas"]:
            yield name, components["messages"][name]["summary"], components["schemas"][name]


def _interface(name: str, summary: str, schema: Schema) -> str:
    # What else is in an event of Deepgram is described by Deepgram.
    more = () if name != "DeepgramEvent" else ("  [field: string]: any;\n",)
    return f"{_comment(summary)}export interface {name} {_object(schema, more=more)}\n"


def _object(schema: Schema, inside: str = "", more: Iterable[str] = ()) -> str:
    inner = inside + "  "
    fields = []
    for name, field in schema["properties"].items():
        told = _comment(field["description"], inner) if "description" in field else ""
        mark = "" if name in schema.get("required", ()) else "?"
        fields.append(f"{told}{_field(f'{name}{mark}: ', field, inner)};\n")
    return f"{{\n{''.join([*fields, *more])}{inside}}}"


def _field(head: str, schema: Schema, inside: str) -> str:
    """Raises KeyError for what no schema of ours has had yet."""
    if "const" in schema:
        return f"{inside}{head}{json.dumps(schema['const'])}"
    if "enum" in schema:
        return _union(head, [json.dumps(value) for value in schema["enum"]], inside)
    if "anyOf" in schema:  # with any other text among them the types would tell nothing apart
        return _field(head, schema["anyOf"][0], inside)
    if "type" not in schema:
        return f"{inside}{head}any"
    if schema["type"] == "array":
        return f"{inside}{head}{_object(schema['items'], inside)}[]"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return f"{inside}{head}{' | '.join(PLAIN[kind] for kind in kinds)}"


def _union(head: str, names: list[str], inside: str = "") -> str:
    line = f"{inside}{head}{' | '.join(names)}"
    if len(line) < WIDTH:
        return line
    below = textwrap.wrap(" | ".join(names), WIDTH - len(inside) - 6)
    lines = [part.removesuffix(" |").removeprefix("| ") for part in below]
    return f"{inside}{head.rstrip()}" + "".join(f"\n{inside}  | {part}" for part in lines)


def _comment(text: str, inside: str = "") -> str:
    if len(inside) + len(text) + 7 < WIDTH:
        return f"{inside}/** {text} */\n"
    lines = textwrap.wrap(text, WIDTH - len(inside) - 3)
    return f"{inside}/**\n" + "".join(f"{inside} * {line}\n" for line in lines) + f"{inside} */\n"


if __name__ == "__main__":
    FILE.write_text(made(yaml.safe_load(ASYNCAPI.read_text("utf-8"))), "utf-8")
