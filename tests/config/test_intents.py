"""config/intents.py: the registry, and the arguments of a call."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import config
from config.errors import ConfigError
from config.function_arguments import REASON_LENGTH, ArgumentsError
from config.intents import Intent, IntentsFile, Registry
from config.validation import load_file

SHIPPED = Path(config.__file__).parent / "intents.yaml"
NOTE = {
    "name": "NOTE",
    "title": "Note",
    "function": "write_note",
    "description": "Write a note.",
    "parameters": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 1, "description": "what to write"},
            "day": {"type": "string", "format": "date"},
            "pages": {"type": ["integer", "null"], "maximum": 9},
            "color": {"enum": ["red", "blue"]},
            "place": {
                "type": "object",
                "properties": {"town": {"type": "string"}, "street": {"type": "string"}},
                "required": ["town", "street"],
            },
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["text"],
    },
    "path": "/notes",
}


def note(**changes):
    return copy.deepcopy(NOTE) | changes


def with_parameters(**changes):
    return note(parameters=copy.deepcopy(NOTE["parameters"]) | changes)


@pytest.fixture
def written(tmp_path):
    def write(*intents):
        path = tmp_path / "intents.yaml"
        path.write_text(yaml.safe_dump({"intents": list(intents)}))
        return path

    return write


def load_intents(path):
    return Registry(load_file(IntentsFile, path).intents)


def problems_in(path):
    with pytest.raises(ConfigError) as caught:
        load_intents(path)
    return caught.value.problems


def reason_for(registry, arguments):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    with pytest.raises(ArgumentsError) as caught:
        registry.check_arguments(registry.intents[0], text)
    return str(caught.value)


@pytest.fixture
def notes(written):
    return load_intents(written(NOTE))


def test_the_shipped_intents_have_their_functions_and_paths():
    registry = load_intents(SHIPPED)

    assert [(i.name, i.function, i.path) for i in registry.intents] == [
        ("GOAL", "create_goal", "/goals"),
        ("NEW_TASK", "create_task", "/tasks"),
        ("RESCHEDULE_TASK", "reschedule_task", "/tasks/reschedule"),
    ]
    assert [i.parameters["required"] for i in registry.intents] == [
        ["title", "deadline"],
        ["title"],
        ["task", "when"],
    ]
    assert repr(registry) == "<Registry GOAL NEW_TASK RESCHEDULE_TASK>"


def test_a_goal_without_a_deadline_says_none():
    registry = load_intents(SHIPPED)
    goal = registry.by_function("create_goal")
    arguments = {"title": "Run a marathon", "deadline": "none"}

    assert registry.check_arguments(goal, json.dumps(arguments)) == arguments


def test_an_intent_added_to_the_file_works_without_code(tmp_path):
    path = tmp_path / "intents.yaml"
    path.write_text(
        SHIPPED.read_text()
        + """
  - name: NOTE
    title: Note
    function: write_note
    description: Write a note.
    parameters:
      type: object
      properties:
        text: {type: string}
      required: [text]
    path: /notes
    timeout: 3
    say:
"""
    )

    registry = load_intents(path)
    intent = registry.by_function("write_note")
    assert intent == registry.intents[3]
    assert (intent.timeout, intent.retry, intent.say, intent.say_after) == (3.0, False, None, 1.5)
    assert registry.check_arguments(intent, '{"text": "milk"}') == {"text": "milk"}
    assert registry.functions()[3]["name"] == "write_note"


def test_deepgram_gets_four_keys_for_each_function_and_no_more(notes):
    assert notes.functions() == [
        {
            "name": "write_note",
            "description": "Write a note.",
            "parameters": NOTE["parameters"],
            "defer_until_eot": True,
        }
    ]


def test_a_function_that_only_reads_may_be_called_before_the_user_has_finished(written):
    (function,) = load_intents(written(note(defer=False))).functions()

    assert "defer_until_eot" not in function


def test_what_ships_waits_for_the_end_of_the_turn():
    functions = load_intents(SHIPPED).functions()

    assert [function.get("defer_until_eot") for function in functions] == [True, True, True]


def test_an_unknown_function_has_no_intent(notes):
    assert notes.by_function("read_note") is None


# --- the file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (note(name="two words"), '$.intents[0].name: expected a text like ^[A-Za-z], got "two'),
        (note(function="write note"), "$.intents[0].function: expected a text like"),
        (note(path="notes"), '$.intents[0].path: expected a text like ^/[^\\s?#]*$, got "notes"'),
        (note(timeout=0), "$.intents[0].timeout: expected a number above 0 to 300, got 0"),
        (note(timeout=301), "got 301"),
        (note(timeout=None), "expected a number above 0 to 300, got nothing"),
        (note(retry="yes"), '$.intents[0].retry: expected true or false, got "yes"'),
        (note(defer="no"), '$.intents[0].defer: expected true or false, got "no"'),
        (note(say=5), "$.intents[0].say: expected a text or nothing, got 5"),
        (note(say_after=-1), "$.intents[0].say_after: expected a number from 0 to 60, got -1"),
        (note(tittle="x"), 'expected a known key, got "tittle"; did you mean "title"'),
        (note(parameters=[]), "$.intents[0].parameters: expected a mapping, got an empty list"),
        ("NOTE", '$.intents[0]: expected a mapping, got "NOTE"'),
        (with_parameters(type="array"), '$.intents[0].parameters.type: expected "object", got'),
        (
            with_parameters(required="text"),
            "$.intents[0].parameters.required: expected JSON Schema, got 'text' is not of type",
        ),
        (
            with_parameters(properties={"a": {"type": "text"}}, required=[]),
            "$.intents[0].parameters.properties.a.type: expected JSON Schema, got 'text' is not",
        ),
        (
            with_parameters(properties={"text": {"pattern": "("}}),
            "$.intents[0].parameters.properties.text.pattern: expected JSON Schema, got '('",
        ),
        (
            with_parameters(required=["txt"]),
            'required: expected names out of properties, got "txt"; did you mean "text"?',
        ),
        (
            with_parameters(anyOf=[{"required": ["day"]}, {"properties": {}, "required": ["x"]}]),
            "parameters.anyOf[0].required: expected names out of properties",
        ),
        (
            with_parameters(properties={"text": {"$ref": "https://example.com/schema"}}),
            "$.intents[0].parameters.properties.text.$ref: expected the schema itself",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_an_intent_is_explained(written, entry, said):
    problems = problems_in(written(entry))

    said = said.replace("^[A-Za-z],", "^[A-Za-z][A-Za-z0-9_-]{0,63}$,")
    assert all(problem.startswith("intents.yaml: $.intents[0]") for problem in problems)
    assert said in problems[0]


def test_names_inside_data_are_not_taken_for_schemas(written):
    data = {"default": {"$ref": "x"}, "examples": [{"required": ["y"]}], "const": {"$ref": "z"}}

    load_intents(written(with_parameters(properties={"text": data, "$ref": {"type": "string"}})))


def test_every_mistake_of_the_file_is_reported_at_once(written):
    problems = problems_in(
        written(note(), note(path="x", timeout="fast"), with_parameters(type="string"), 7)
    )

    assert problems == [
        'intents.yaml: $.intents[1].path: expected a text like ^/[^\\s?#]*$, got "x"',
        'intents.yaml: $.intents[1].timeout: expected a number above 0 to 300, got "fast"',
        'intents.yaml: $.intents[2].parameters.type: expected "object", got "string"',
        "intents.yaml: $.intents[3]: expected a mapping, got 7",
    ]


def test_names_and_functions_are_used_once(written):
    assert problems_in(written(note(), note(path="/x"), note(name="TASK"))) == [
        'intents.yaml: $.intents: expected every name once, got "NOTE" 2 times; rename one',
        'intents.yaml: $.intents: expected every function once, got "write_note" 3 times'
        "; rename one",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "intents.yaml: $: expected a mapping, got nothing"),
        ("intents: []", "$.intents: expected a list with at least one item, got an empty list"),
        ("intents: {}", "$.intents: expected a list with at least one item, got a mapping"),
        ("intent: []", 'did you mean "intents"?'),
    ],
)
def test_a_file_without_a_list_of_intents_is_refused(tmp_path, text, said):
    path = tmp_path / "intents.yaml"
    path.write_text(text)

    assert said in "".join(problems_in(path))


# --- the arguments ------------------------------------------------------------------------------


def test_right_arguments_come_back_decoded(notes):
    arguments = {
        "text": "Grüße \\u0000",
        "day": "2026-04-30",
        "pages": None,
        "color": "red",
        "place": {"town": "Ulm", "street": "A"},
        "tags": ["a"],
    }

    assert notes.check_arguments(notes.intents[0], json.dumps(arguments)) == arguments


def test_no_arguments_may_be_an_empty_text(written):
    registry = load_intents(written(note(parameters={"type": "object"})))

    assert registry.check_arguments(registry.intents[0], "") == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "write_note was not called: text: is missing (what to write)"),
        ({"text": ""}, "text: '' should be non-empty"),
        ({"text": 5}, "text: expected string, got 5"),
        ({"text": "a", "pages": "x"}, 'pages: expected integer or null, got "x"'),
        ({"text": "a", "pages": 10}, "pages: 10 is greater than the maximum of 9"),
        ({"text": "a", "color": "pink"}, 'color: expected one of "red", "blue", got "pink"'),
        ({"text": "a", "day": "Friday"}, 'day: expected a date, got "Friday"'),
        ({"text": "a", "place": {"street": "A"}}, "place.town: is missing"),
        ({"text": "a", "tags": ["a", 1]}, "tags[1]: expected string, got 1"),
        ({"text": "a", "txt": "b"}, '"txt" is not an argument, these are: "color", "day"'),
        ("{'text': 'a'}", "expected the arguments as a JSON object, got JSON is malformed"),
        ('["text"]', 'expected the arguments as a JSON object, got ["text"]'),
        ('{"text": NaN}', "expected the arguments as a JSON object"),
        ("[" * 100_000, "expected the arguments as a JSON object"),
        ('{"text": "a\\u0000b"}', "without the character U+0000"),
    ],
)
def test_wrong_arguments_get_an_answer_that_the_model_can_act_on(notes, arguments, said):
    assert said in reason_for(notes, arguments)


def test_all_mistakes_in_the_arguments_are_listed(notes):
    reason = reason_for(notes, {"day": 1, "color": "pink", "more": 1})

    for said in ("text: is missing", "day: expected", "color: expected", '"more" is not an'):
        assert said in reason


def test_the_answer_to_the_model_stays_short(notes):
    many = reason_for(notes, {"text": "a", "tags": list(range(500))})
    long = reason_for(notes, {"text": "a" * 100_000, "pages": 5, "color": "b" * 100_000})

    assert len(many) <= REASON_LENGTH
    assert many.endswith(" more")
    assert len(long) <= REASON_LENGTH


def test_a_schema_may_allow_more_arguments(written):
    further = load_intents(written(with_parameters(additionalProperties={"type": "integer"})))
    closed = load_intents(written(with_parameters(additionalProperties=False)))

    intent = further.intents[0]
    assert further.check_arguments(intent, '{"text": "a", "x": 1}') == {"text": "a", "x": 1}
    assert "x: expected integer" in reason_for(further, {"text": "a", "x": "y"})
    assert '"x" is not an argument' in reason_for(closed, {"text": "a", "x": 1})


def test_arguments_that_a_branch_of_the_schema_names_are_known(written):
    branch = {"anyOf": [{"properties": {"page": {"type": "integer"}}, "required": ["page"]}]}
    registry = load_intents(written(with_parameters(**branch)))

    arguments = {"text": "a", "page": 1}
    assert registry.check_arguments(registry.intents[0], json.dumps(arguments)) == arguments
    reason = reason_for(registry, arguments | {"pge": 2})
    assert "'pge' was unexpected" in reason


def test_a_long_list_of_choices_is_cut(written):
    choices = {"properties": {"text": {"enum": [f"choice {n}" for n in range(500)]}}}
    registry = load_intents(written(with_parameters(**choices)))

    reason = reason_for(registry, {"text": "x"})
    assert 'text: expected one of "choice 0"' in reason
    assert len(reason) < 300


def test_a_property_may_be_a_bare_true(written):
    registry = load_intents(written(with_parameters(properties={"text": True})))

    assert "text: is missing" in reason_for(registry, {})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.text() | st.dictionaries(st.sampled_from([*NOTE["parameters"]["properties"], "x"]), _JSON)
       .map(json.dumps))  # fmt: skip
def test_any_text_is_either_arguments_or_a_bounded_reason(text):
    registry = Registry([Intent(**NOTE)])
    try:
        outcome = registry.check_arguments(registry.intents[0], text)
    except ArgumentsError as error:
        outcome = str(error)

    assert isinstance(outcome, dict) or 0 < len(outcome) <= REASON_LENGTH
