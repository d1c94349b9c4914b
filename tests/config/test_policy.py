from __future__ import annotations

import pytest

from config.errors import ConfigError
from config.loader import load
from config.policy import Limited, Messages, Policy, choose
from config.settings import CONFIG_DIR
from config.validation import json_schema, load_file

FIELDS = json_schema(Messages)["$defs"]["Messages"]["properties"]
NEVER = {name: field["description"] for name, field in FIELDS.items() if "description" in field}


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "policy.yaml"

    def write_text(text):
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def load_policy(path):
    return load_file(Policy, path, {}, empty={})


def mistakes(path):
    with pytest.raises(ConfigError) as error:
        load_policy(path)
    return error.value.problems


def test_the_file_that_ships_says_what_the_defaults_are():
    assert load_policy(CONFIG_DIR / "policy.yaml") == Policy()


def test_an_empty_file_is_the_defaults(write):
    assert load_policy(write("# nothing\n")) == Policy()


def test_types_may_be_allowed_refused_and_limited(write):
    path = write(
        "messages:\n"
        "  ForceEndTurn: refuse\n"
        "  InjectAgentMessage: {per_minute: 5, max_characters: 200}\n"
        "  InjectUserMessage: allow\n"
    )

    messages = load_policy(path).messages

    assert messages.rule("ForceEndTurn") == "refuse"
    assert messages.rule("InjectAgentMessage") == Limited(per_minute=5, max_characters=200)
    assert messages.rule("InjectUserMessage") == "allow"
    assert messages.rule("NeverHeardOf") == "refuse"
    assert messages.longest_text > 12 * 20_000


@pytest.mark.parametrize("kind", sorted(NEVER))
@pytest.mark.parametrize("wish", ["allow", "{per_minute: 1}"])
def test_what_can_never_be_allowed_is_a_mistake_with_its_reason(write, kind, wish):
    (problem,) = mistakes(write(f"messages:\n  {kind}: {wish}\n"))

    assert problem.startswith(f"policy.yaml: $.messages.{kind}: expected ")
    assert NEVER[kind] in problem


def test_every_mistake_is_found(write):
    found = mistakes(
        write(
            "messages:\n"
            "  KeepAlive: maybe\n"
            "  InjectUserMesage: allow\n"
            "  InjectUserMessage: {per_minute: 0}\n"
            "abuse: {refusals: 0, seconds: soon}\n"
            "voices: {orion: {provider: {type: deepgram}}}\n"
        )
    )

    assert any("$.messages.KeepAlive" in one and "allow" in one for one in found)
    assert any('did you mean "InjectUserMessage"' in one for one in found)
    for path in ("InjectUserMessage.per_minute", "abuse.refusals", "abuse.seconds", "voices.orion"):
        assert any(path in one for one in found), path


def test_a_choice_has_a_name_that_can_be_sent(write):
    (problem,) = mistakes(
        write("voices: {'a b': {provider: {type: deepgram, model: aura-2-orion-en}}}\n")
    )

    assert "$.voices" in problem


def test_a_voice_that_was_chosen_goes_before_the_one_of_the_language(write):
    policy = load_policy(
        write(
            "voices:\n"
            "  orion: {provider: {type: deepgram, model: aura-2-orion-en}}\n"
            "languages:\n"
            "  spanish:\n"
            "    speak: {provider: {type: deepgram, model: aura-2-celeste-es}}\n"
            "    greeting: Hola\n"
        )
    )
    agent = load(CONFIG_DIR, {}).agent

    spanish = choose(agent, policy, None, "spanish")
    both = choose(agent, policy, "orion", "spanish")

    assert (spanish.greeting, spanish.speak.provider.model) == ("Hola", "aura-2-celeste-es")
    assert (both.greeting, both.speak.provider.model) == ("Hola", "aura-2-orion-en")
    assert spanish.listen == agent.listen
    assert choose(agent, policy, "nobody", "klingon") == agent


def test_a_choice_has_to_go_with_the_agent(tmp_path):
    for name in ("agent.yaml", "intents.yaml", "system_prompt.md"):
        (tmp_path / name).write_bytes((CONFIG_DIR / name).read_bytes())
    (tmp_path / "policy.yaml").write_text("languages: {german: {language: de}}\n")

    with pytest.raises(ConfigError) as error:
        load(tmp_path, {})

    (problem,) = error.value.problems
    assert problem.startswith("policy.yaml: $.languages.german: ")
    assert "no language with flux" in problem


def test_every_type_of_the_wire_has_its_line():
    from relay.protocol import deepgram, relay_events

    names = {message.__name__ for message in deepgram.ClientMessage.__args__}
    names |= {message.__name__ for message in relay_events.Own.__args__}

    assert set(Messages.__struct_fields__) == names | {"unknown"}
    assert len(NEVER) == 6
