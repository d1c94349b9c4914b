"""Every message of Deepgram's published schema, made up at random, comes through unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from relay.protocol import deepgram

SCHEMA = Path(__file__).parents[2] / "sandbox" / "data" / "asyncapi.agent.yml"
DOCUMENT = yaml.safe_load(SCHEMA.read_text("utf-8"))
# NUL and halves of pairs are mended on purpose.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


def resolved(node):
    while "$ref" in node:
        _, room, kind, name = node["$ref"].split("/", 3)  # some names have a slash
        node = DOCUMENT[room][kind][name]
    return node


def values(node):
    """What fits this schema and has no field beside those that it describes."""
    match node:
        case {"$ref": _}:
            return st.deferred(lambda: values(resolved(node)))
        case {"oneOf": branches}:
            return st.one_of(*map(values, branches))
        case {"enum": words}:
            return st.sampled_from(words)
        case {"type": "object", "properties": fields}:
            required = node.get("required", [])
            made = {name: values(field) for name, field in fields.items()}
            return st.fixed_dictionaries(
                {name: each for name, each in made.items() if name in required},
                optional={name: each for name, each in made.items() if name not in required},
            )
        case {"type": "object", "additionalProperties": dict(inner)}:
            return st.dictionaries(TEXTS, values(inner), max_size=3)
        case {"type": "object"}:
            return st.dictionaries(TEXTS, ANYTHING, max_size=3)
        case {"type": "array", "items": items}:
            return st.lists(values(items), max_size=3)
        case {"type": "string"}:
            return TEXTS
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "integer"}:
            return st.integers(-(2**63), 2**63 - 1)
        case {"type": "number"}:
            return NUMBERS
    assert node.keys() <= {"description", "title"}, f"a keyword that is not read here: {node}"
    return ANYTHING


def messages():
    """Side, name and schema of all that is JSON."""
    channel = DOCUMENT["channels"]["/v1/agent/converse"]
    for operation, decode in (
        ("publish", deepgram.decode_server),
        ("subscribe", deepgram.decode_client),
    ):
        for message in map(resolved, channel[operation]["message"]["oneOf"]):
            schema = resolved(message["payload"])
            if schema.get("format") != "binary":
                yield pytest.param(decode, schema, id=f"{operation}-{message['name']}")


ALL = list(messages())


def test_the_published_schema_has_messages_of_both_sides():
    assert {each.id.partition("-")[0] for each in ALL} == {"publish", "subscribe"}
    assert len(ALL) > 20


@pytest.mark.parametrize(("decode", "schema"), ALL)
@given(st.data())
@hypothesis_settings(deadline=None, max_examples=50)
def test_a_published_message_comes_through_unchanged(decode, schema, data):
    message = data.draw(values(schema))

    decoded = decode(json.dumps(message).encode())

    assert type(decoded).__name__ == message["type"]
    assert json.loads(deepgram.encode(decoded)) == message
