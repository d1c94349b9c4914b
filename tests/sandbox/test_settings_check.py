"""Which field of a client message does not fit."""

import pytest

from relay.sandbox.settings_check import UNKNOWN_FORMAT, is_flux, misfit

THINK = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}}
AURA = {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}}
POLLY = {
    "type": "aws_polly",
    "voice": "Amy",
    "language": "en",
    "engine": "neural",
    "credentials": {
        "type": "iam",
        "region": "r",
        "access_key_id": "a",
        "secret_access_key": "s",
    },
}


def listen(**provider):
    return {"listen": {"provider": {"type": "deepgram", **provider}}}


def think(**more):
    return {"think": {**THINK, **more}}


def speak(**provider):
    return {"speak": {"provider": provider}}


@pytest.mark.parametrize(
    "agent",
    [
        {},
        {"language": "en", "greeting": "Hi"},
        listen(model="nova-3", language="en", keyterms=["a"], smart_format=True),
        listen(version="v2", model="flux-general-en", eot_threshold=1.0, eot_timeout_ms=500),
        listen(
            version="v2",
            model="flux-general-multi",
            language_hints=["en"],
            eager_eot_threshold=0.3,
        ),
        think(context_length="max", prompt="p", endpoint={"url": "u", "headers": {"a": "b"}}),
        think(context_length=5000),
        think(functions=[{"name": "f", "description": "d", "parameters": {"any": [1]}}]),
        think(functions=[{"name": "f", "defer_until_eot": True}]),
        {"think": [THINK, {"provider": {"type": "google", "model": "g", "version": "v1beta"}}]},
        {"think": {"provider": {"type": "aws_bedrock", "model": "m", "credentials": {}}}},
        {"speak": [AURA, AURA]},
        speak(type="deepgram", version="v2", model="flux-kit-en", expressivity=2, speed=0.9),
        {
            "think": {
                "provider": {
                    "type": "deepgram",
                    "model": "think-fast",
                    "version": "v1",
                    "reasoning_mode": "low",
                    "temperature": 2,
                    "voice_prompt_opt_out": True,
                }
            }
        },
        speak(type="cartesia", model_id="m", voice={"mode": "id", "id": "x"}, volume=1),
        speak(type="eleven_labs", model_id="m", language_code="en"),
        speak(type="open_ai", model="tts-1", voice="nova"),
        speak(**POLLY),
        {"context": {"messages": [{"type": "History", "role": "user", "content": "x"}]}},
    ],
)
def test_what_the_service_accepts_is_accepted(settings, agent):
    assert misfit(settings(**agent)) is None


@pytest.mark.parametrize(
    ("agent", "path"),
    [
        ({"tags": ["a"]}, "agent.tags"),
        ({"mip_opt_out": True}, "agent.mip_opt_out"),
        ({"greeting": None}, "agent.greeting"),
        (listen(version="v3"), "agent.listen.provider.version"),
        (listen(type="other"), "agent.listen.provider.type"),
        ({"listen": {"provider": "x"}}, "agent.listen.provider"),
        (
            listen(version="v2", model="flux-general-en", smart_format=True),
            "agent.listen.provider.smart_format",
        ),
        (listen(version="v2"), "agent.listen.provider.model"),
        (
            listen(version="v2", model="flux-general-en", eot_threshold=0.4),
            "agent.listen.provider.eot_threshold",
        ),
        (
            listen(version="v2", model="flux-general-en", eot_timeout_ms=0.5),
            "agent.listen.provider.eot_timeout_ms",
        ),
        (
            speak(type="deepgram", model="flux-kit-en", expressivity=2),
            "agent.speak.provider.expressivity",
        ),
        (think(timeout=1), "agent.think.timeout"),
        (think(context_length="min"), "agent.think.context_length"),
        ({"think": [THINK, {}]}, "agent.think[1].provider"),
        ({"think": {"provider": 1}}, "agent.think.provider"),
        ({"think": {"provider": {"type": "other"}}}, "agent.think.provider.type"),
        ({"think": {"provider": {"type": "groq"}}}, "agent.think.provider.model"),
        (
            think(functions=[{"name": "f"}, {"client_side": True}]),
            "agent.think.functions[1].client_side",
        ),
        (think(functions={}), "agent.think.functions"),
        (think(functions=[{"parameters": []}]), "agent.think.functions[0].parameters"),
        (think(endpoint={"url": "u", "headers": {"a": 1}}), "agent.think.endpoint.headers.a"),
        (think(endpoint=3), "agent.think.endpoint"),
        (speak(type="deepgram", model="aura-2", language="en"), "agent.speak.provider.language"),
        (speak(type="deepgram", model="a", version="v9"), "agent.speak.provider.version"),
        (speak(type="other", model="m"), "agent.speak.provider.type"),
        (
            {"context": {"messages": [{"type": "History", "content": "x"}]}},
            "agent.context.messages[0].role",
        ),
        (
            {"context": {"messages": [{"type": "History", "function_calls": [{"id": "x"}]}]}},
            "agent.context.messages[0].function_calls[0].name",
        ),
    ],
)
def test_the_first_misfit_is_named_by_its_path(settings, agent, path):
    assert misfit(settings(**agent)) == (
        f"Error parsing client message. Check the {path} field against the API spec."
    )


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"type": "Settings", "agent": {}}, "audio"),
        ({"type": "Settings", "audio": {}, "agent": 3}, "agent"),
        ({"type": "Settings", "audio": {"input": {}}, "agent": {}}, "audio.input.encoding"),
        (
            {"type": "Settings", "audio": {}, "agent": {}, "settings": {"flags": {}}},
            "settings",
        ),
        ({"type": "Settings", "audio": {}, "agent": {}, "experimental": 1}, "experimental"),
        ({"type": "KeepAlive", "extra": 1}, "extra"),
        ({"type": "InjectUserMessage"}, "content"),
        ({"type": "InjectAgentMessage", "message": "m", "behavior": "shout"}, "behavior"),
        ({"type": "InjectAgentMessage", "behavior": "queue"}, "message"),
        ({"type": "FunctionCallResponse", "name": "f", "content": "c"}, "id"),
        ({"type": "FunctionCallResponse", "id": "i", "name": "f", "content": {}}, "content"),
    ],
)
def test_other_messages_are_read_as_strictly(message, path):
    assert f"Check the {path} field" in misfit(message)


def test_a_message_that_the_model_is_to_word_has_no_words():
    message = {"type": "InjectAgentMessage", "is_dynamic": True, "behavior": "queue"}

    assert misfit(message) is None
    assert misfit(message | {"message": "x"}) is not None


@pytest.mark.parametrize(
    "message", [{"type": "InjectDynamicMessage"}, {"type": "Nonsense"}, {"type": 3}, {}]
)
def test_an_unknown_type_matches_no_format(message):
    assert misfit(message) == UNKNOWN_FORMAT


def test_flux_is_told_by_version_and_v1_is_what_is_left_out():
    assert is_flux({"version": "v2"})
    assert not is_flux({"model": "flux-general-en"})
    assert not is_flux({"version": "v1", "model": "flux-general-en"})
    assert not is_flux({})
