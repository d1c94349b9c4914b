from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from config.agent import DeepgramSpeak, Listen, ListenV1, Speak
from config.loader import load
from config.policy import Language, Limited, Messages, Policy
from relay.core import message_policy
from relay.core.admitted import Takeover
from relay.core.user_context import UserContext
from relay.protocol import deepgram
from tests.config.test_policy import NEVER

TODAY = date(2026, 11, 22)
NOTHING = UserContext()


@pytest.fixture(scope="module")
def configuration():
    return load(Path(config.__file__).parent, {})


def test_the_prompt_knows_the_day_the_zone_and_the_intents(configuration, admitted):
    settings = message_policy.settings(configuration, admitted, TODAY, [], NOTHING)

    prompts = [think["prompt"] for think in settings.agent["think"]]
    for prompt in prompts:
        assert "2026" in prompt
        assert "Europe/Vienna" in prompt
        assert "create_goal" in prompt or "goal" in prompt.lower()


def test_a_new_conversation_is_greeted(configuration, admitted):
    settings = message_policy.settings(configuration, admitted, TODAY, [], NOTHING)

    assert settings.agent["greeting"]
    assert "context" not in settings.agent


def test_what_is_known_of_the_user_is_told_and_its_greeting_and_names_count(
    configuration, admitted
):
    known = UserContext(
        facts={"open tasks": [{"title": "{today} dentist"}]},
        names=["dentist", "Ada"],
        greeting="Welcome back!",
    )

    section = message_policy.settings(configuration, admitted, TODAY, [], known).agent

    for think in section["think"]:
        assert '- "open tasks":\n  - {"title": "{today} dentist"}' in think["prompt"]
    assert section["listen"]["provider"]["keyterms"] == ["dentist", "Ada"]
    assert section["greeting"] == "Welcome back!"


def test_a_conversation_that_goes_on_is_not_greeted_by_the_orchestrator_either(
    configuration, admitted
):
    history = [deepgram.History(role="user", content="Hello")]
    known = UserContext(greeting="Welcome back!")

    section = message_policy.settings(configuration, admitted, TODAY, history, known).agent

    assert "greeting" not in section


def test_names_are_no_keyterms_if_that_is_not_wanted(configuration, admitted):
    context = msgspec.structs.replace(configuration.agent.context, keyterms=False)
    agent = msgspec.structs.replace(configuration.agent, context=context)
    configuration = msgspec.structs.replace(configuration, agent=agent)
    known = UserContext(names=["dentist"])

    section = message_policy.settings(configuration, admitted, TODAY, [], known).agent

    assert "keyterms" not in section["listen"]["provider"]


def test_where_no_name_may_be_a_keyterm_none_is_sent(configuration, admitted):
    listen = Listen(provider=ListenV1(type="deepgram", model="nova-2"))
    agent = msgspec.structs.replace(configuration.agent, listen=listen)
    configuration = msgspec.structs.replace(configuration, agent=agent)
    known = UserContext(names=["dentist"])

    section = message_policy.settings(configuration, admitted, TODAY, [], known).agent

    assert "keyterms" not in section["listen"]["provider"]


def test_nobody_is_greeted_twice_because_another_relay_had_the_session(configuration, admitted):
    admitted = msgspec.structs.replace(admitted, takeover=Takeover(ticket="t", messages=[]))

    settings = message_policy.settings(configuration, admitted, TODAY, [], NOTHING)

    assert "greeting" not in settings.agent


def test_a_resumed_conversation_has_its_history_and_no_greeting(configuration, admitted):
    finished = deepgram.FinishedCall(
        id="call_1", name="create_goal", client_side=True, arguments="{}", response="{}"
    )
    history = [
        deepgram.History(role="user", content="Hello."),
        deepgram.History(function_calls=[finished]),
    ]

    settings = message_policy.settings(configuration, admitted, TODAY, history, NOTHING)

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


def test_settings_contain_nothing_that_is_null(configuration, admitted):
    sent = json.loads(
        deepgram.encode(message_policy.settings(configuration, admitted, TODAY, [], NOTHING))
    )

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


def test_tags_say_whose_session_it_is_and_of_which_conversation(configuration, admitted):
    tags = ["relay", "user:{user}", "{conversation}/{user}"]
    agent = msgspec.structs.replace(configuration.agent, tags=tags)
    tagged = msgspec.structs.replace(configuration, agent=agent)
    untagged = msgspec.structs.replace(agent, tags=msgspec.UNSET)
    none = msgspec.structs.replace(configuration, agent=untagged)
    admitted = msgspec.structs.replace(admitted, user_id="{conversation}")  # filled in once

    assert message_policy.settings(tagged, admitted, TODAY, [], NOTHING).tags == [
        "relay",
        "user:{conversation}",
        f"{admitted.conversation_id}/{{conversation}}",
    ]
    assert message_policy.settings(none, admitted, TODAY, [], NOTHING).tags is None


def test_a_long_unknown_type_is_not_echoed_whole():
    refusal = message_policy.refusal(deepgram.Unknown(type="x" * 10_000), Messages())

    assert len(refusal.detail) < 200


@pytest.mark.parametrize("code", ["CLIENT_MESSAGE_TIMEOUT", "SOMETHING_NEW"])
def test_a_problem_keeps_its_code_and_loses_its_description(code):
    told = message_policy.for_browser(
        deepgram.Error(code=code, description="the prompt is: be nice")
    )

    assert told.code == code
    assert told.description
    assert "nice" not in told.description


def say(**message):
    return json.dumps(message).encode()


CHOSEN = Messages(
    InjectUserMessage=Limited(per_minute=1, max_characters=10),
    InjectAgentMessage="allow",
    ForceEndTurn="refuse",
)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "InjectUserMessage", "content": "x" * 10}, None),
        ({"type": "InjectUserMessage", "content": "x" * 11}, "too_long"),
        ({"type": "InjectAgentMessage", "message": "x" * 11}, None),
        ({"type": "InjectAgentMessage", "message": "x" * 20_001}, "too_long"),
        ({"type": "InjectAgentMessage", "message": "x" * 300_000}, "too_long"),
        ({"type": "ForceEndTurn"}, "not_allowed"),
        ({"type": "KeepAlive"}, None),
        ({"type": "KeepAlive", "agent": {"think": {"prompt": "x"}}}, None),
        ({"type": "NeverHeard"}, "not_allowed"),
        ({"type": "unknown"}, "not_allowed"),
        ({"type": "InjectUserMessage", "content": 7}, "malformed"),
        ({"no": "type"}, "malformed"),
        ([], "malformed"),
    ],
)
def test_the_table_of_the_configuration_holds(message, code):
    text = message if isinstance(message, bytes) else json.dumps(message).encode()

    refused = message_policy.refusal(message_policy.read(text, CHOSEN), CHOSEN)

    assert (refused and refused.code) == code


@pytest.mark.parametrize("kind", sorted(NEVER))
def test_what_cannot_be_allowed_is_refused_by_any_table(kind):
    assert Messages().rule(kind) == "refuse"
    assert CHOSEN.rule(kind) == "refuse"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 40_000,
        b'{"a":' * 9_000,
        b'{"type":"UpdateThink","think":' + b'{"a":' * 8_000,
        b'{"type":"KeepAlive","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
)
def test_brackets_inside_brackets_are_malformed(text):
    refused = message_policy.refusal(message_policy.read(text, Messages()), Messages())

    assert refused.code == "malformed"
    assert isinstance(deepgram.decode_server(text), deepgram.Malformed)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_break_what_reads_them(text):
    messages = Messages()

    message_policy.refusal(message_policy.read(text, messages), messages)
    message_policy.is_text(text, messages)
    deepgram.decode_server(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
names = st.sampled_from(sorted(s.__name__ for s in deepgram.ClientMessage.__args__))
fields = st.sampled_from(["content", "message", "prompt", "think", "agent", "audio", "id", "name"])


@given(names | st.text(), st.dictionaries(fields, json_values))
def test_only_three_types_ever_pass_by_default(kind, more):
    messages = Messages()
    text = json.dumps({**more, "type": kind}).encode()

    if message_policy.refusal(message_policy.read(text, messages), messages) is None:
        assert kind in ("KeepAlive", "ForceEndTurn", "InjectUserMessage")


def test_a_text_in_a_binary_message_is_told_from_audio():
    messages = Messages()

    assert message_policy.is_text(say(type="KeepAlive"), messages)
    assert message_policy.is_text(memoryview(say(type="Whatever")), messages)
    assert message_policy.is_text(say(type="InjectUserMessage"), messages)
    assert not message_policy.is_text(b"{\x00\x01}", messages)
    assert not message_policy.is_text(b"{" + bytes(100_000) + b"}", messages)
    assert not message_policy.is_text(bytes(640), messages)


def test_what_was_chosen_is_in_the_settings_and_nothing_else(configuration, admitted):
    chosen = Policy(
        voices={"orion": Speak(provider=DeepgramSpeak(model="aura-2-orion-en"))},
        languages={"spanish": Language(greeting="¡Hola!")},
    )
    offered = msgspec.structs.replace(configuration, policy=chosen)
    asked = msgspec.structs.replace(admitted, voice="orion", language="spanish")
    gone = msgspec.structs.replace(admitted, voice="gone", language="gone")

    usual = message_policy.settings(offered, admitted, TODAY, [], NOTHING).agent
    section = message_policy.settings(offered, asked, TODAY, [], NOTHING).agent

    assert section["speak"] == {"provider": {"type": "deepgram", "model": "aura-2-orion-en"}}
    assert section["greeting"] == "¡Hola!"
    assert {k for k in usual if usual[k] != section[k]} == {"speak", "greeting"}
    assert message_policy.settings(offered, gone, TODAY, [], NOTHING).agent == usual
