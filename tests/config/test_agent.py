"""config/agent.py: agent.yaml, and the `agent` object that Deepgram gets of it."""

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

import config
from config.agent import (
    Agent,
    Audio,
    AudioInput,
    AudioOutput,
    Events,
    audio_mistakes,
)
from config.env_types import Secret
from config.errors import ConfigError
from config.intents import Registry
from config.loader import Configuration
from config.prompt import Prompt
from config.validation import load_file

SHIPPED = Path(config.__file__).parent / "agent.yaml"
NOVA = {"type": "deepgram", "version": "v1", "model": "nova-3"}
FLUX = {"type": "deepgram", "version": "v2", "model": "flux-general-en"}
MINI = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}}
AURA = {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}}
FLUX_VOICE = {"provider": {"type": "deepgram", "version": "v2", "model": "flux-alexis-en"}}
ELSEWHERE = {"url": "https://voice.example.com", "headers": {"xi-api-key": "${VOICE_KEY}"}}
KEYS = {"VOICE_KEY": "hush-voice", "AWS_KEY": "hush-aws"}
AWS = {
    "type": "iam",
    "region": "eu-central-1",
    "access_key_id": "${AWS_KEY}",
    "secret_access_key": "${AWS_KEY}",
}


def load_agent(path, environ=KEYS):
    return load_file(Agent, path, environ)


@pytest.fixture
def written(tmp_path):
    """Writes agent.yaml: the least that is needed, and what the test says."""

    def write(text=None, **fields):
        least = {"listen": {"provider": NOVA}, "think": MINI, "speak": AURA}
        path = tmp_path / "agent.yaml"
        path.write_text(text if text is not None else yaml.safe_dump(least | fields))
        return path

    return write


def problems_in(path, environ=KEYS):
    with pytest.raises(ConfigError) as caught:
        load_agent(path, environ)
    return caught.value.problems


def section_of(agent, **options):
    return made(agent, **options)["agent"]


def made(agent, audio=None, **options):
    configuration = Configuration(agent, Registry([]), Prompt("be brief"))
    return configuration.make_settings(date(2026, 3, 5), audio=audio, **options)


def no_nulls(value):
    if isinstance(value, dict):
        return all(no_nulls(inner) for inner in value.values())
    if isinstance(value, list):
        return all(no_nulls(inner) for inner in value)
    return value is not None


def test_the_shipped_file_becomes_settings_without_null():
    agent = load_agent(SHIPPED)
    section = section_of(agent)

    assert section["listen"]["provider"]["model"] == "flux-general-en"
    assert [think["provider"]["type"] for think in section["think"]] == ["open_ai", "google"]
    assert all(think["prompt"] == "be brief" for think in section["think"])
    assert all(think["functions"] == [] for think in section["think"])
    assert section["speak"]["provider"] == {"type": "deepgram", "model": "aura-2-thalia-en"}
    assert section["greeting"]
    assert made(agent) == {
        "agent": section,
        "audio": {
            "input": {"encoding": "linear16", "sample_rate": 16000},
            "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
        },
        "flags": {"history": True},
        "tags": ["voice-relay"],
        "mip_opt_out": False,
    }
    assert no_nulls(section)
    assert json.loads(json.dumps(section)) == section


def test_what_is_not_set_is_not_sent(written):
    agent = load_agent(written(f"listen: {{provider: {json.dumps(NOVA)}}}\nthink: {MINI}"))

    assert section_of(agent) == {
        "listen": {"provider": NOVA},
        "think": MINI | {"functions": [], "prompt": "be brief"},
    }
    assert set(made(agent)) == {"agent", "audio", "flags"}
    assert agent.audio == Audio()
    assert agent.speakers == []


LISTENERS = [
    NOVA | {"language": "multi", "smart_format": True, "keyterms": ["Flux"]},
    {"type": "deepgram", "version": "v1"},
    FLUX | {"model": "flux-general-multi", "language_hints": ["en", "de"], "keyterms": ["Flux"]},
    FLUX | {"eot_threshold": 0.9, "eager_eot_threshold": 0.8, "eot_timeout_ms": 500},
]
THINKERS = [
    {"type": "open_ai", "model": "m", "version": "v1", "temperature": 2.0},
    {"type": "open_ai", "model": "m", "reasoning_mode": "none"},
    {"type": "anthropic", "model": "m", "version": "v1", "temperature": 1.0},
    {"type": "google", "model": "m", "version": "ai-studio-v1beta", "temperature": 0.5},
    {"type": "groq", "model": "m", "version": "v1", "reasoning_mode": "high"},
    {"type": "nvidia", "model": "m", "temperature": 0.5},
    {
        "type": "deepgram",
        "model": "think-fast",
        "version": "v1",
        "temperature": 2.0,
        "reasoning_mode": "low",
        "voice_prompt_opt_out": True,
    },
    {"type": "aws_bedrock", "model": "m", "temperature": 0.5, "credentials": AWS},
    {
        "type": "aws_bedrock",
        "model": "m",
        "credentials": AWS | {"type": "sts", "session_token": "${AWS_KEY}"},
    },
]
SPEAKERS = [
    AURA,
    {"provider": {"type": "deepgram", "version": "v1", "model": "aura-2-thalia-en", "speed": 1.1}},
    FLUX_VOICE,
    {"provider": FLUX_VOICE["provider"] | {"expressivity": -2, "speed": 1.15}},
    {"provider": {"type": "cartesia", "model_id": "m", "voice": {"mode": "id", "id": "x"}}},
    {
        "provider": {"type": "eleven_labs", "model_id": "m", "version": "v1", "language": "en-US"},
        "endpoint": ELSEWHERE | {"url": "wss://voice.example.com/stream?speed=1"},
    },
    {
        "provider": {
            "type": "cartesia",
            "model_id": "sonic-2",
            "version": "2025-03-17",
            "voice": {"mode": "id", "id": "x"},
            "language": "en",
            "volume": 1.5,
        },
        "endpoint": ELSEWHERE,
    },
    {
        "provider": {"type": "open_ai", "model": "tts-1", "voice": "alloy", "version": "v1"},
        "endpoint": ELSEWHERE,
    },
    {
        "provider": {
            "type": "aws_polly",
            "voice": "Joanna",
            "language": "en-US",
            "engine": "neural",
            "credentials": AWS,
        },
        "endpoint": ELSEWHERE,
    },
]


def bedrock(credentials):
    return {
        "think": {"provider": THINKERS[-1] | {"credentials": credentials}, "endpoint": ELSEWHERE}
    }


def filled_in(value):
    text = json.dumps(value)
    for name, secret in KEYS.items():
        text = text.replace(f"${{{name}}}", secret)
    return json.loads(text)


@pytest.mark.parametrize("provider", LISTENERS, ids=lambda p: p["version"])
def test_every_listen_field_reaches_deepgram(written, provider):
    agent = load_agent(written(listen={"provider": provider}), KEYS)

    assert section_of(agent)["listen"] == {"provider": provider}


@pytest.mark.parametrize("provider", THINKERS, ids=lambda p: p["type"])
def test_every_think_field_reaches_deepgram(written, provider):
    think = {"provider": provider, "endpoint": ELSEWHERE, "context_length": 9000}
    agent = load_agent(written(think=[think, MINI]), KEYS)

    first, second = section_of(agent)["think"]
    assert {**first, **filled_in(think)} == first
    assert second["provider"] == MINI["provider"]


@pytest.mark.parametrize("speak", SPEAKERS, ids=lambda s: s["provider"]["type"])
def test_every_speak_field_reaches_deepgram(written, speak):
    one = load_agent(written(speak=speak), KEYS)
    two = load_agent(written(speak=[speak, AURA]), KEYS)

    assert section_of(one)["speak"] == filled_in(speak)
    assert section_of(two)["speak"] == [filled_in(speak), AURA]


def test_the_rest_of_settings_can_be_set(written):
    rest = {"tags": ["a"], "experimental": True, "mip_opt_out": True}
    live = {"type": "deepgram", "version": "v1", "presence_check_interval_ms": 1000}
    think_live = {"provider": live | {"restricted_terms": ["bank"]}}
    agent = load_agent(written(language="en", greeting="Hi", think_live=think_live, **rest))

    section = section_of(agent)
    assert section["think_live"] == think_live
    assert section["language"] == "en"
    assert section["greeting"] == "Hi"
    beside = made(agent)
    del beside["audio"], beside["agent"]
    assert beside == rest | {"flags": {"history": True}}  # the context may depend on it


def test_a_context_length_may_be_max(written):
    agent = load_agent(written(think=MINI | {"endpoint": ELSEWHERE, "context_length": "max"}), KEYS)

    assert section_of(agent)["think"]["context_length"] == "max"


def test_credentials_are_masked_for_people_and_whole_for_deepgram(written):
    bedrock = {"provider": THINKERS[-1], "endpoint": ELSEWHERE}
    agent = load_agent(written(think=bedrock), KEYS)

    assert "hush" not in repr(agent)
    assert "hush" not in json.dumps(section_of(agent, masked=True))
    shown = section_of(agent, masked=True)["think"]
    assert shown["endpoint"]["headers"] == {"xi-api-key": "***"}
    assert section_of(agent)["think"]["endpoint"]["headers"] == {"xi-api-key": "hush-voice"}
    assert agent.thinkers[0].endpoint.headers == {"xi-api-key": Secret("hush-voice")}


def test_references_are_filled_in_anywhere_and_a_double_dollar_is_one(written):
    agent = load_agent(written(greeting="Hi ${WHO}, that is $5 or $${WHO}"), {"WHO": "you"})

    assert agent.greeting == "Hi you, that is $5 or ${WHO}"


def test_a_reference_to_a_variable_that_is_not_set_is_a_mistake(written):
    endpoint = {"url": "https://x.example", "headers": {"a": "Bearer ${LLM_KEY}"}}

    assert problems_in(written(think=MINI | {"endpoint": endpoint}, greeting="${ALSO}")) == [
        "agent.yaml: $.greeting: expected the environment variable ALSO"
        " to be set, got nothing; set it or remove ${ALSO}",
        "agent.yaml: $.think.endpoint.headers.a: expected the environment variable LLM_KEY"
        " to be set, got nothing; set it or remove ${LLM_KEY}",
    ]
    assert len(problems_in(written(think=MINI | {"endpoint": endpoint}), {"LLM_KEY": ""})) == 1


def test_a_reference_in_a_choice_shows_the_reference_and_not_the_value(written):
    (problem,) = problems_in(written(audio={"input": {"encoding": "${VOICE_KEY}"}}))
    assert "hush" not in problem

    (problem,) = problems_in(written(audio={"input": {"encoding": "${NOT_SET}"}}))
    assert "NOT_SET" in problem


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"listen": {"provider": NOVA | {"model": "flux-general-en"}}}, 'version: expected "v2"'),
        ({"listen": {"provider": FLUX | {"model": "nova-3"}}}, '.version: expected "v1"'),
        ({"listen": {"provider": FLUX | {"language": "en"}}}, 'a known key, got "language"'),
        ({"listen": {"provider": FLUX | {"language_hints": ["en"]}}}, "flux-general-multi"),
        ({"listen": {"provider": FLUX | {"eot_threshold": 1.1}}}, "a number from 0.5 to 1, got"),
        (
            {"listen": {"provider": FLUX | {"eager_eot_threshold": 0.8}}},
            "expected at most eot_threshold (0.7), got 0.8",
        ),
        (
            {"listen": {"provider": {"type": "deepgram", "model": "nova-3"}}},
            '$.listen.provider.version: expected one of "v1", "v2", got nothing',
        ),
        (
            {"listen": {"provider": NOVA | {"type": "whisper"}}},
            '$.listen.provider.type: expected "deepgram", got "whisper"',
        ),
        ({"listen": {"provider": FLUX}, "language": "en"}, "$.language: expected no language"),
        ({"think": []}, "$.think: expected a list with at least one item, got an empty list"),
        ({"think": "gpt"}, '$.think: expected a list with at least one item or a mapping, got "g'),
        (
            {"think": {"provider": {"type": "openai", "model": "m"}}},
            '$.think.provider.type: expected one of "open_ai", "anthropic", "google", "groq",'
            ' "aws_bedrock", "nvidia", "deepgram", got "openai"; did you mean "open_ai"?',
        ),
        (
            {"think": [MINI, {"provider": {"type": "anthropic", "model": "m", "temperature": 2}}]},
            "$.think[1].provider.temperature: expected a number from 0 to 1, got 2",
        ),
        (
            {"think": {"provider": {"type": "groq", "model": "m", "temperature": True}}},
            "expected a number from 0 to 2, got true",
        ),
        ({"think": MINI | {"context_length": 5}}, "expected no context_length"),
        ({"think": MINI | {"context_length": 0, "endpoint": ELSEWHERE}}, "above 0, got 0"),
        ({"think": MINI | {"context_length": [], "endpoint": ELSEWHERE}}, '"max" or a whole'),
        ({"think": MINI | {"context_length": "all", "endpoint": ELSEWHERE}}, 'got "all"'),
        ({"think": MINI | {"endpoint": {"url": "http://a"}}}, "begins with https://"),
        ({"think": MINI | {"endpoint": "https://a"}}, '.endpoint: expected a mapping, got "'),
        (
            {"think": MINI | {"endpoint": {"url": "https://a", "headers": ["a"]}}},
            "$.think.endpoint.headers: expected a mapping, got a list",
        ),
        (
            bedrock(AWS | {"type": "sts"}),
            "$.think.provider.credentials.session_token: expected a text (sts needs it)",
        ),
        (
            bedrock(AWS | {"region": 5}),
            "credentials.region: expected a text that is not empty, got 5; put it in quotes",
        ),
        ({"speak": {"provider": FLUX_VOICE["provider"] | {"version": "v1"}}}, 'expected "v2"'),
        ({"speak": {"provider": AURA["provider"] | {"version": "v2"}}}, 'expected "v1"'),
        ({"speak": {"provider": FLUX_VOICE["provider"] | {"speed": 0.52}}}, "steps of 0.05, got"),
        ({"speak": {"provider": AURA["provider"] | {"speed": 0.65}}}, "from 0.7 to 1.5 for Aura"),
        ({"speak": {"provider": AURA["provider"] | {"speed": 1.6}}}, "from 0.5 to 1.5, got 1.6"),
        (
            {"think": {"provider": {"type": "groq", "model": "m"}}},
            "$.think.endpoint: expected a mapping with url and headers, got nothing",
        ),
        (
            {"think": {"provider": {"type": "aws_bedrock", "model": "m", "credentials": AWS}}},
            "$.think.endpoint: expected a mapping with url and headers, got nothing",
        ),
        (
            {"think": {"provider": {"type": "aws_bedrock", "model": "m"}, "endpoint": ELSEWHERE}},
            "$.think.provider.credentials: expected a mapping, got nothing",
        ),
        (
            {
                "think": [MINI, {"provider": {"type": "deepgram", "model": "think-fast"}}],
                "mip_opt_out": True,
            },
            "$.mip_opt_out: expected false with the model think-fast, got true",
        ),
        ({"listen": {"provider": FLUX | {"keyterms": ["a"] * 101}}}, "at most 100 terms, got 101"),
        (
            {"listen": {"provider": NOVA | {"keyterms": ["a b c"] * 167}}},
            "$.listen.provider.keyterms: expected at most 500 words in all, got 501",
        ),
        ({"speak": {"provider": AURA["provider"] | {"expressivity": 1}}}, "no expressivity"),
        ({"speak": {"provider": AURA["provider"] | {"language": "en"}}}, 'got "language"'),
        (
            {"speak": {"provider": SPEAKERS[7]["provider"]}},
            "$.speak.endpoint: expected a mapping with url and headers, got nothing",
        ),
        (
            {"speak": SPEAKERS[7] | {"endpoint": ELSEWHERE | {"url": "wss://a"}}},
            "$.speak.endpoint.url: expected a URL that begins with https://, got another",
        ),
        (
            {"speak": SPEAKERS[5] | {"endpoint": ELSEWHERE | {"url": "https://a?model_id=x"}}},
            "expected a URL without output_format and model_id, got model_id",
        ),
        ({"greeting": " "}, "$.greeting: expected a text that is not empty"),
        ({"greeting": None}, "$.greeting: expected a text that is not empty, got nothing"),
        ({"greeting": ["Hi"]}, "$.greeting: expected a text that is not empty, got a list"),
        ({"mip_opt_out": "on"}, '$.mip_opt_out: expected true or false, got "on"'),
        ({"mip_opt_out": None}, "expected true or false, got nothing"),
        ({"mip_optout": True}, 'got "mip_optout"; did you mean "mip_opt_out"?'),
        (
            {"think_live": {"provider": {"type": "deepgram"}}},
            '$.think_live.provider.version: expected "v1", got nothing',
        ),
        ({"zzz": 1}, 'got "zzz"; the keys here are "listen", "think"'),
        ({"tags": [1]}, "$.tags[0]: expected a text that is not empty, got 1; put it"),
        (
            {"tags": ["{user}", "{tenant} {conversation}"]},
            "$.tags[1]: expected {user} or {conversation} in braces, got {tenant}",
        ),
        ({"tags": "a"}, '$.tags: expected a list, got "a"'),
        ({"flags": {"history": False}}, 'expected a known key, got "flags"'),
        ({"listen": None}, "$.listen: expected a mapping, got nothing"),
        ({"audio": {"input": {"sample_rate": "16k"}}}, 'from 8000 to 192000, got "16k"'),
        ({"audio": {"input": {"sample_rate": 16000.5}}}, "got 16000.5"),
        ({"audio": {"input": {"encoding": "amr-nb"}}}, "expected 8000 for amr-nb, got 16000"),
        (
            {"audio": {"output": {"sample_rate": 22050}}},
            "32000 or 44100 or 48000 for linear16, got 22050",
        ),
        (
            {"audio": {"output": {"sample_rate": 44100}}, "speak": [FLUX_VOICE, AURA]},
            "$.audio.output.sample_rate: expected another than 44100 (Flux voices), got 44100",
        ),
        ({"audio": {"output": {"encoding": "mulaw"}}}, "8000 or 16000 for mulaw, got 24000"),
        ({"audio": {"output": {"bitrate": 32000}}}, "expected no bitrate"),
        ({"audio": {"output": {"container": "ogg"}}}, "ogg is for opus"),
        ({"audio": {"output": {"encoding": "mp3", "container": "wav"}}}, "wav is for linear16"),
        (
            {"audio": {"output": {"encoding": "mp3"}}, "speak": [AURA, FLUX_VOICE]},
            "$.audio.output: expected linear16, mulaw or alaw in no container for Flux, got mp3",
        ),
        (
            {"audio": {"output": {"container": "wav"}}, "speak": [SPEAKERS[7]]},
            "in no container, got linear16 in container wav",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(written, fields, said):
    (problem,) = problems_in(written(**fields))

    assert problem.startswith("agent.yaml: $")
    assert said in problem


def test_a_credential_that_yaml_takes_for_a_number_is_not_printed(written):
    endpoint = {"url": "https://a", "headers": {"key": 1234567, "more": {}, "none": " "}}

    problems = problems_in(written(think=MINI | {"endpoint": endpoint}))
    assert sorted(problem.split("headers.")[1] for problem in problems) == [
        "key: expected a text that is not empty, got ***; put it in quotes",
        "more: expected a text that is not empty, got a mapping",
        'none: expected a text that is not empty, got " "',
    ]


def test_every_mistake_of_the_file_is_reported_at_once(written):
    problems = problems_in(
        written(
            listen={"provider": FLUX | {"eot_threshold": 7}},
            think=[{"provider": {"type": "open_ai"}}, {"provider": {"type": "x"}}],
            speak=FLUX_VOICE,
            audio={"output": {"encoding": "opus", "container": "ogg"}},
            greting="Hi",
        )
    )

    assert sorted(problem.split(": ")[1] for problem in problems) == [
        "$",
        "$.listen.provider.eot_threshold",
        "$.think[0].provider.model",
        "$.think[1].provider.type",
    ]


def test_rules_across_parts_are_tried_beside_other_mistakes(written):
    audio = {"output": {"encoding": "opus", "container": "ogg"}}

    assert len(problems_in(written(audio=audio, speak=FLUX_VOICE, greting="Hi"))) == 2
    assert len(problems_in(written(audio=audio, speak={"provider": {}}))) == 1


def test_without_a_voice_deepgram_takes_flux_and_its_formats(written):
    least = {"listen": {"provider": NOVA}, "think": MINI, "audio": {"output": {"encoding": "mp3"}}}

    (problem,) = problems_in(written(yaml.safe_dump(least)))
    assert "for Flux" in problem


def test_audio_that_a_browser_asks_for_is_held_against_the_voices(written):
    aura = load_agent(written())
    flux = load_agent(written(speak=FLUX_VOICE))
    mp3 = Audio(output=AudioOutput(encoding="mp3", bitrate=48000))
    odd = Audio(
        input=AudioInput(encoding="amr-wb", sample_rate=8000),
        output=AudioOutput(sample_rate=11025),
    )

    assert audio_mistakes(aura, mp3) == []
    assert audio_mistakes(flux, Audio()) == []
    assert audio_mistakes(flux, Audio(output=AudioOutput(sample_rate=44100))) == []
    assert "for Flux, got mp3" in audio_mistakes(flux, mp3)[0]
    assert [mistake.split(": ")[0] for mistake in audio_mistakes(aura, odd)] == [
        "audio.input.sample_rate",
        "audio.output.sample_rate",
    ]
    assert made(aura, mp3)["audio"]["output"]["bitrate"] == 48000


def test_events_are_told_only_where_somebody_wants_them(written):
    assert load_agent(written()).events is None
    assert load_agent(written(events={"path": "/events"})).events == Events(path="/events")


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ({}, "$.events.path: expected a text like"),
        ({"path": "events"}, "$.events.path: expected a text like"),
        ({"path": "/events", "messages": "yes"}, "$.events.messages: expected true or false"),
        ({"path": "/events", "message": True}, "did you mean"),
    ],
)
def test_mistakes_of_events_are_explained(written, events, problem):
    (found,) = problems_in(written(events=events))

    assert problem in found
