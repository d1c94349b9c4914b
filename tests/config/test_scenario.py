"""Scenarios of evaluations: what is wrong with a file is said, and those that ship are right."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from config.errors import ConfigError
from config.loader import json_schemas, load
from config.scenario import ScenarioLine, load_scenarios
from config.settings import CONFIG_DIR

EVALS = sorted((Path(__file__).parents[2] / "evals").glob("*.yaml"))
INTENTS = ("GOAL", "NEW_TASK")
LEAST = {"about": "x", "lines": ["Hello."], "expect": {}}


@pytest.fixture
def scenario(tmp_path):
    """`scenario(**fields)`: that file, read."""

    def read(name="one", **fields):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(LEAST | fields))
        return load_scenarios([path], INTENTS)[path]

    return read


def test_the_scenarios_that_ship_are_right_and_name_their_schema():
    names = [intent.name for intent in load(CONFIG_DIR, {}).registry.intents]

    found = load_scenarios(EVALS, names)

    assert len(found) >= 20
    for path in found:
        head = "# yaml-language-server: $schema=../config/scenario.schema.json\n"
        assert path.read_text().startswith(head)
    assert {i.intent for s in found.values() for i in s.expect.intents} == set(names)


def test_the_json_schema_is_current_and_holds_for_the_files():
    schema = json.loads(json.dumps(json_schemas()["scenario.schema.json"]))

    assert json.loads((CONFIG_DIR / "scenario.schema.json").read_text()) == schema
    for path in EVALS:
        document = yaml.safe_load(path.read_text())
        assert list(Draft202012Validator(schema).iter_errors(document)) == []


def test_a_text_alone_is_a_line_that_is_spoken(scenario):
    assert scenario().spoken == [ScenarioLine(say="Hello.")]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"lines": []}, "$.lines: expected a list with at least one item, got an empty list"),
        ({"lines": [{}]}, "$.lines[0]: expected one of say, wav, type, silence, got none"),
        (
            {"lines": [{"say": "a", "wav": "b"}]},
            "$.lines[0]: expected one of say, wav, type, silence, got say and wav",
        ),
        (
            {"answers": [{"when": "(", "say": "a"}]},
            '$.answers[0].when: expected a pattern of Python\'s re, got "("',
        ),
        ({"answers": [{"say": "a"}]}, "$.answers[0].when: expected"),
        ({"expekt": {}}, 'expected a known key, got "expekt"; did you mean "expect"?'),
        ({"expect": {"said": ["["]}}, "$.expect.said[0]: expected a pattern"),
        ({"expect": {"intents": [{"intent": "GAOL"}]}}, 'any, GOAL, NEW_TASK, got "GAOL"'),
        ({"orchestrator": [{"intent": "TASK", "status": 404}]}, 'got "TASK"'),
        (
            {"expect": {"intents": [{"intent": "GOAL", "arguments": {"title": {}}}]}},
            "$.expect.intents[0].arguments.title: expected one of exact, pattern, schema and absent"
            ", got 0 of them",
        ),
        (
            {"expect": {"forbidden": [{"intent": "GOAL", "arguments": {"x": {"pattern": "*"}}}]}},
            ".arguments.x.pattern: expected a pattern",
        ),
        (
            {
                "expect": {
                    "intents": [
                        {"intent": "GOAL", "arguments": {"x": {"schema": {"type": "text"}}}}
                    ]
                }
            },
            ".arguments.x.schema.type: expected JSON Schema",
        ),
        ({"voice": {"speed": 1000}}, "$.voice.speed: expected a whole number from 80 to 450"),
        ({"fails": {"sandbx": "x"}}, 'got "sandbx"; did you mean "sandbox"?'),
    ],
)
def test_what_is_wrong_is_said_with_its_place(scenario, fields, wrong):
    with pytest.raises(ConfigError) as caught:
        scenario(**fields)

    assert wrong in str(caught.value)


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"about": "x", "expect": {}}))

    with pytest.raises(ConfigError) as caught:
        load_scenarios([tmp_path / "a.yaml", tmp_path / "b.yaml"], INTENTS)

    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["a.yaml", "b.yaml"]


def test_two_files_of_one_name_are_a_mistake(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.yaml").write_text(yaml.safe_dump(LEAST))

    with pytest.raises(ConfigError, match="expected another name"):
        load_scenarios([tmp_path / "x/a.yaml", tmp_path / "y/a.yaml"], INTENTS)


def test_a_file_that_is_named_twice_is_one(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(LEAST))

    assert list(load_scenarios([path, path], INTENTS)) == [path]
