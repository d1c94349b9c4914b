"""Scripts from YAML, and the place in them."""

import pytest

from relay.sandbox.script import Call, Ending, Script, ScriptError, Turn, parse_script
from relay.sandbox.turn_planner import TurnPlanner


def test_a_script_is_read_from_yaml():
    script = parse_script(
        """
        loop: true
        turns:
          - user: Hello
            say: [Hi., How are you?]
            seconds: 1.5
          - when: text
            calls: [{name: f, arguments: {a: 1}}, {name: g, arguments: "{broken"}]
          - end: {kind: error, code: INTERNAL_SERVER_ERROR, reason: boom}
        """
    )

    assert script == Script(
        loop=True,
        turns=(
            Turn(user="Hello", say=("Hi.", "How are you?"), seconds=1.5),
            Turn(when="text", calls=(Call("f", {"a": 1}), Call("g", "{broken"))),
            Turn(end=Ending("error", "INTERNAL_SERVER_ERROR", "boom")),
        ),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("turns: [{sya: [x]}]", "sya"),
        ("turns: 3", "turns"),
        ("{", "invalid|expected|mapping|YAML"),
        ("turns: [{when: x}]", "when"),
    ],
)
def test_a_mistake_in_a_script_is_named(text, words):
    with pytest.raises(ScriptError, match=words):
        parse_script(text)


@pytest.mark.parametrize("loop", [False, True])
def test_turns_are_taken_by_what_begins_them(loop):
    first, second = Turn(after=2.0), Turn(when="text")
    planner = TurnPlanner(Script(turns=(first, second), loop=loop))

    assert planner.take("audio") is None
    assert planner.take("time") is first
    assert planner.take("time") is None
    assert planner.take("text") is second
    assert planner.upcoming is (first if loop else None)
