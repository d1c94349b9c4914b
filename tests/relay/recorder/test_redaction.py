"""What is kept of a text, and what stands in for it."""

from __future__ import annotations

import pytest

from relay.recorder.redaction import Redactor, find_stand_ins, restore, stand_in

KEY = b"of this file"


@pytest.fixture
def redactor():
    return Redactor(KEY, keeps_content=False)


def test_a_field_that_nobody_thought_of_is_redacted(redactor):
    shown = redactor.redact(
        {"type": "Newest", "about": "Anna", "count": 3, "deep": [{"x": "Anna"}]}
    )

    assert (shown["type"], shown["count"]) == ("Newest", 3)
    assert shown["about"] == shown["deep"][0]["x"]
    assert shown["about"].startswith("redacted:4:")


@pytest.mark.parametrize("value", [{"title": 1}, ["a"], "a", 7, True])
def test_of_arguments_not_even_the_shape_is_kept(redactor, value):
    shown = redactor.redact({"arguments": value})["arguments"]

    assert "redacted:" in str(shown)
    assert "title" not in str(shown)
    assert type(shown) is (type(value) if isinstance(value, dict | list) else str)


@pytest.mark.parametrize("value", [None, "", {}, [], " \n"])
def test_where_nothing_is_nothing_is_hidden(redactor, value):
    assert redactor.redact({"arguments": value}) == {"arguments": value}


def test_secrets_are_never_kept():
    redactor = Redactor(KEY, keeps_content=True)
    value = {"resume_ticket": "t", "headers": {"authorization": "t"}, "content": "kept"}

    shown = redactor.redact(value)

    assert shown["content"] == "kept"
    assert '"t"' not in str(shown).replace("'", '"')
    assert shown["headers"].keys() == {"redacted"}


def test_a_stand_in_is_as_long_and_equal_for_equal_texts(redactor):
    texts = ["y", "yes", "a long line of words that goes on", "한국어"]
    marks = [redactor.mark(text) for text in texts]

    assert [len(stand_in(mark)) for mark in marks] == [len(text) for text in texts]
    assert len({stand_in(mark) for mark in marks}) == len(texts)
    assert redactor.mark("yes") == marks[1]
    assert Redactor(b"another", keeps_content=False).mark("yes") != marks[1]
    assert restore({"a": [marks[1], 1]}) == {"a": [stand_in(marks[1]), 1]}
    assert stand_in("not redacted") == "not redacted"
    assert find_stand_ins(" ".join(marks).encode()) == {stand_in(mark) for mark in marks}


def test_half_of_a_character_is_no_obstacle(redactor):
    assert redactor.mark("\ud83d").startswith("redacted:1:")
