"""config/loader.py: the folder as a whole."""

import datetime
import json
import shutil
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

import config
from config.errors import ConfigError
from config.loader import json_schemas, load, write_json_schemas

ROOM = Path(config.__file__).parent


@pytest.fixture
def folder(tmp_path):
    for name in ("agent.yaml", "intents.yaml", "system_prompt.md"):
        shutil.copy(ROOM / name, tmp_path / name)
    return tmp_path


def test_what_we_ship_loads_and_prints_nothing(capfd):
    configuration = load(ROOM, {})

    assert configuration.registry.by_function("create_goal").name == "GOAL"
    assert configuration.agent.greeting
    assert "{today}" in configuration.prompt.text
    assert capfd.readouterr() == ("", "")


def test_the_mistakes_of_all_three_files_come_in_one_error(folder):
    (folder / "agent.yaml").write_text("listen: {provider: {}}\nthink: [}\n")
    (folder / "intents.yaml").unlink()
    (folder / "system_prompt.md").write_text("{now} and {where}")

    with pytest.raises(ConfigError) as caught:
        load(folder, {})

    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "agent.yaml",
        "intents.yaml",
        "system_prompt.md",
        "system_prompt.md",
    ]
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_the_environment_fills_the_references(folder):
    (folder / "agent.yaml").write_text(
        (folder / "agent.yaml").read_text().replace("greeting: Hi!", "greeting: Hi ${WHO}!")
    )

    assert load(folder, {"WHO": "there"}).agent.greeting.startswith("Hi there! ")
    with pytest.raises(ConfigError, match="environment variable WHO"):
        load(folder, {})


def test_a_prompt_that_deepgram_would_cut_is_refused_unless_the_model_is_our_own(folder):
    (folder / "system_prompt.md").write_text("{intents}{context}" + "x" * 20_900)

    with pytest.raises(ConfigError, match="expected at most 23000 characters"):
        load(folder, {})
    document = yaml.safe_load((folder / "agent.yaml").read_text())
    own = {"url": "https://llm.example.com"}
    document["think"] = [think | {"endpoint": own} for think in document["think"]]
    (folder / "agent.yaml").write_text(yaml.safe_dump(document))
    load(folder, {})


def test_a_prompt_that_tells_nothing_of_what_is_asked_for_is_refused(folder):
    (folder / "system_prompt.md").write_text("{intents} {{context}}")

    with pytest.raises(ConfigError) as caught:
        load(folder, {})
    assert caught.value.problems == [
        "system_prompt.md: expected {context} somewhere, because agent.yaml asks for it (context),"
        " got none; add it"
    ]

    document = yaml.safe_load((folder / "agent.yaml").read_text())
    del document["context"]
    (folder / "agent.yaml").write_text(yaml.safe_dump(document))
    load(folder, {})


def test_what_is_asked_of_the_orchestrator_is_no_part_of_settings():
    configuration = load(ROOM, {})

    assert configuration.agent.context.path == "/voice-context"
    made = configuration.make_settings(datetime.date(2026, 3, 5), context="a fact")
    assert not {"context", "events", "redial_sound"} & set(made["agent"])
    assert "a fact" in made["agent"]["think"][0]["prompt"]


@pytest.mark.parametrize("name", ["agent", "intents"])
def test_the_json_schemas_beside_the_files_are_current(name, tmp_path):
    write_json_schemas(tmp_path)
    schema = json_schemas()[f"{name}.schema.json"]

    Draft202012Validator.check_schema(schema)
    assert json.loads((tmp_path / f"{name}.schema.json").read_text()) == schema
    assert (tmp_path / f"{name}.schema.json").read_text() == (
        ROOM / f"{name}.schema.json"
    ).read_text(), "run write_json_schemas() of config/loader.py"
    text = (ROOM / f"{name}.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema={name}.schema.json\n")
    assert list(Draft202012Validator(schema).iter_errors(yaml.safe_load(text))) == []


def test_an_editor_sees_an_unknown_key():
    schema = json_schemas()["agent.schema.json"]
    document = yaml.safe_load((ROOM / "agent.yaml").read_text()) | {"greting": "Hi"}

    (error,) = Draft202012Validator(schema).iter_errors(document)
    assert "greting" in error.message
