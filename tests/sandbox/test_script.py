"""Scripts from YAML, and the place in them."""

import pytest

from relay.sandbox.script import Call, Ending, Progress, Script, ScriptError, Turn, parse_script


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


def test_time_begins_a_turn_once():
    progress = Progress(Script(turns=(Turn(after=2.0), Turn(when="text"))))

    assert progress.arm() == 2.0
    assert progress.arm() is None
    assert progress.on_user is None
    progress.take()
    assert progress.arm() is None
    assert progress.on_user == Turn(when="text")


def test_microphone_seconds_begin_a_turn_once():
    progress = Progress(Script(turns=(Turn(when="audio", after=1.0),)))

    assert [progress.audio(0.6) for _ in range(3)] == [False, True, False]


def test_a_finished_script_begins_nothing():
    progress = Progress(None)

    assert progress.arm() is None
    assert progress.audio(9.0) is False
    assert progress.on_user is None
