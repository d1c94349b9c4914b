"""How much of a conversation an agent is told: words only, cut lines, the newest that fit."""

from __future__ import annotations

import json

import pytest

from relay.core import agent_history
from relay.protocol import deepgram


def line(content, role="user"):
    return deepgram.History(role=role, content=content)


def call(arguments="{}", response="{}"):
    finished = deepgram.FinishedCall(
        id="c", name="f", client_side=True, arguments=arguments, response=response
    )
    return deepgram.History(function_calls=[finished])


def test_what_is_short_is_told_as_it_is():
    lines = [line("Hello."), call(), line("Hi.", "assistant")]

    assert agent_history.fit(lines) == lines


@pytest.mark.parametrize("content", ["", " ", "\t\n", "\u00a0", "\u3000", None])
def test_a_line_without_words_is_left_out(content):
    assert agent_history.fit([line("a"), line(content), line("b")]) == [line("a"), line("b")]


def test_the_newest_lines_are_told_that_fit():
    lines = [line(f"line {number}") for number in range(10)]
    room = agent_history.size(lines[7:])

    assert agent_history.fit(lines, room) == lines[7:]
    assert agent_history.fit(lines, room - 1) == lines[8:]
    assert agent_history.fit(lines, -5) == []


@pytest.mark.parametrize("character", ["a", "ü", "\N{GRINNING FACE}", '"', "\x01"])
def test_a_long_text_is_cut_with_a_mark(character):
    (told,) = agent_history.fit([line(character * 100_000)])

    assert told.content.endswith(agent_history.MARK)
    assert set(told.content.removesuffix(agent_history.MARK)) == {character}
    written = len(json.dumps(told.content, ensure_ascii=False).encode())
    assert agent_history.LONGEST_TEXT / 2 < written <= agent_history.LONGEST_TEXT


def test_a_long_call_is_cut_and_its_arguments_are_still_json():
    (told,) = agent_history.fit([call('{"title":"' + "x" * 100_000 + '"}', "y" * 100_000)])
    (finished,) = told.function_calls or []

    assert json.loads(finished.arguments)["cut"].startswith('{"title":"xxx')
    assert finished.response.endswith(agent_history.MARK)
    assert agent_history.size([told]) < 4 * agent_history.LONGEST_TEXT
