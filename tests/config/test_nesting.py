"""config/nesting.py: how deep JSON text is nested."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.nesting import flatten, is_deeper

VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
)


def depth(value):
    match value:
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
    return 0


@given(VALUES, st.integers(0, 6))
def test_a_text_is_as_deep_as_its_value(value, most):
    text = json.dumps(value).encode()

    assert is_deeper(text, most) == (depth(value) > most)
    assert depth(json.loads(flatten(text, most))) == min(depth(value), most)


@given(st.binary())
def test_any_bytes_have_an_answer(text):
    assert flatten(text, len(text)) == text


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 9 + b"]" * 99])
def test_brackets_without_an_end_are_found(text):
    assert is_deeper(text, 8)


def test_brackets_in_strings_do_not_count():
    assert not is_deeper(rb'["[[[[", "\"[[[[", "[[[[', 1)
