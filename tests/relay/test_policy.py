from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import msgspec
import pytest

import config
from config.check import load
from relay import deepgram, policy
from relay.opening import Takeover

TODAY = date(2026, 11, 22)


@pytest.fixture(scope="module")
def configuration():
    return load(Path(config.__file__).parent, {})


def test_the_prompt_knows_the_day_the_zone_and_the_intents(configuration, opening):
    settings = policy.settings(configuration, opening, TODAY, [])

    prompts = [think["prompt"] for think in settings.agent["think"]]
    for prompt in prompts:
        assert "2026" in prompt
        assert "Europe/Vienna" in prompt
        assert "create_goal" in prompt or "goal" in prompt.lower()


def test_a_new_conversation_is_greeted(configuration, opening):
    settings = policy.settings(configuration, opening, TODAY, [])

    assert settings.agent["greeting"]
    assert "context" not in settings.agent


def test_nobody_is_greeted_twice_because_another_relay_had_the_session(configuration, opening):
    opening = msgspec.structs.replace(opening, takeover=Takeover(ticket="t", messages=[]))

    settings = policy.settings(configuration, opening, TODAY, [])

    assert "greeting" not in settings.agent


def test_a_resumed_conversation_has_its_history_and_no_greeting(configuration, opening):
    finished = deepgram.FinishedCall(
        id="call_1", name="create_goal", client_side=True, arguments="{}", response="{}"
    )
    history = [
        deepgram.History(role="user", content="Hello."),
        deepgram.History(function_calls=[finished]),
    ]

    settings = policy.settings(configuration, opening, TODAY, history)

    assert "greeting" not in settings.agent
    assert settings.agent["context"] == {
        "messages": [
            {"type": "History", "role": "user", "content": "Hello."},
            {
                "type": "History",
                "function_calls": [
                    {
                        "id": "call_1",
                        "name": "create_goal",
                        "client_side": True,
                        "arguments": "{}",
                        "response": "{}",
                    }
                ],
            },
        ]
    }


def test_settings_contain_nothing_that_is_null(configuration, opening):
    sent = json.loads(deepgram.encode(policy.settings(configuration, opening, TODAY, [])))

    def nulls(value, path="$"):
        if value is None:
            yield path
        elif isinstance(value, dict):
            for name, inner in value.items():
                yield from nulls(inner, f"{path}.{name}")
        elif isinstance(value, list):
            for at, inner in enumerate(value):
                yield from nulls(inner, f"{path}[{at}]")

    assert list(nulls(sent)) == []
    assert sent["type"] == "Settings"


def test_a_long_unknown_type_is_not_echoed_whole():
    refusal = policy.refusal(deepgram.Unknown(type="x" * 10_000))

    assert len(refusal.detail) < 200


@pytest.mark.parametrize("code", ["CLIENT_MESSAGE_TIMEOUT", "SOMETHING_NEW"])
def test_a_problem_keeps_its_code_and_loses_its_description(code):
    told = policy.told(deepgram.Error(code=code, description="the prompt is: be nice"))

    assert told.code == code
    assert told.description
    assert "nice" not in told.description
