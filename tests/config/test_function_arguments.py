"""config/function_arguments.py: bounds, and keywords that take longer elsewhere."""

from __future__ import annotations

import json

import pytest

from config.function_arguments import (
    FORMATS,
    MAX_DEPTH,
    MAX_LENGTH,
    ArgumentsError,
    Checker,
    decode,
    show,
)


def reason(text, **rule):
    with pytest.raises(ArgumentsError) as refused:
        Checker("f", {"type": "object", "properties": {"a": rule}}).check(text)
    return str(refused.value)


def is_valid(value, **rule):
    try:
        Checker("f", {"type": "object", "properties": {"a": rule}}).check(json.dumps({"a": value}))
    except ArgumentsError:
        return False
    return True


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([], True),
        ([1, 2], True),
        ([1, 1.0], False),
        ([1, True, 0, False], True),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1.0}], False),
        ([[1, [2]], [1, [2]]], False),
        ([[], {}, "", None], True),
        (["a", "a"], False),
    ],
)
def test_unique_items_are_those_of_json_schema(items, unique):
    assert is_valid(items, uniqueItems=True) is unique
    assert is_valid(items, uniqueItems=False)
    assert is_valid("aa", uniqueItems=True)


def test_patterns_are_searched_for_in_texts_alone():
    assert is_valid("xay", pattern="a")
    assert not is_valid("xy", pattern="a")
    assert is_valid(5, pattern="a")
    assert is_valid({"ab": 1, "c": "d"}, patternProperties={"^a": {"type": "integer"}})
    assert not is_valid({"ab": "1"}, patternProperties={"^a": {"type": "integer"}})
    assert is_valid(5, patternProperties={"^a": {"type": "integer"}})


def test_a_pattern_that_takes_too_long_is_given_up():
    text = json.dumps({"a": "n" * 100 + "!"})

    assert "takes too long" in reason(text, pattern="^(n|nn)+$")


@pytest.mark.parametrize("rule", [{"multipleOf": 0.1}, {"multipleOf": 1e-300}])
def test_what_the_validator_cannot_compute_is_a_reason(rule):
    assert "cannot be checked" in reason('{"a": 1' + "0" * 400 + "}", **rule)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x" * (MAX_LENGTH + 1), "at most 32000 characters"),
        ('{"a":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "at most 32 objects"),
        ('{"a": NaN}', "got JSON is malformed"),
    ],
)
def test_bounds_are_told_to_the_model(text, said):
    assert said in reason(text)
    assert show(text) == text[:4_000]


def test_half_of_a_surrogate_pair_becomes_a_replacement_character():
    assert decode(r'["\ud83d", "\\ud83d", "\ud83d\ude00"]') == ["\ufffd", "\\ud83d", "\U0001f600"]
    assert decode('["\ud83d"]') == ["\ufffd"]


@pytest.mark.parametrize(
    ("format", "value", "said"),
    [
        ("date", "next Friday", "write it like 2026-04-30"),
        ("date-time", "2026-04-30T15:00:00", "with a time zone"),
        ("time", "3 pm", "15:00:00Z"),
        ("duration", "two hours", "P1DT2H"),
        ("email", "ann", "ann@example.com"),
        ("uri", "example", "https://example.com/page"),
        ("uuid", "5", "expected a uuid"),
        ("hostname", "-", "expected a hostname"),
    ],
)
def test_a_format_is_checked_and_shown(format, value, said):
    assert said in reason(json.dumps({"a": value}), format=format)


def test_formats_that_take_the_square_of_a_text_are_not_offered():
    assert {"date", "date-time", "time", "duration", "uri", "uuid"} <= FORMATS
    assert not {"iri", "iri-reference"} & FORMATS
