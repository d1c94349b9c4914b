"""What is logged of an exception: where and of which kind, not what it may quote."""

from __future__ import annotations

import asyncpg

from control.logging import describe_error, format_error

SECRET = "what somebody said"


def caught(error, cause=None):
    try:
        raise error from cause
    except Exception as found:
        return found


def test_the_text_of_an_exception_is_left_out_and_its_place_and_kind_are_not():
    text = format_error(caught(ValueError(SECRET), caught(KeyError(SECRET))))

    assert SECRET not in text
    assert text.index("KeyError") < text.index("then:") < text.index("ValueError")
    assert text.count("test_logging.py") == 2


def test_those_in_a_group_are_told_each():
    text = format_error(ExceptionGroup("x", [caught(ValueError(SECRET)), caught(KeyError())]))

    assert SECRET not in text
    assert "ValueError" in text
    assert "KeyError" in text


def test_of_a_databases_error_the_state_is_told_and_no_value():
    wrong = asyncpg.InvalidTextRepresentationError(f'invalid input syntax: "{SECRET}"')

    assert describe_error(wrong) == "InvalidTextRepresentationError 22P02"
