"""What is held against an attempt."""

import msgspec
import pytest

from config.scenario import Expectations
from control.evals.attempt import Attempt, Call
from control.evals.verdict import judge

GOAL = Call("GOAL", "submitted", {"title": "run a marathon", "deadline": "none", "hours": 3})
TASK = Call("NEW_TASK", "submitted", {"title": "buy milk"})


def verdict(expect, **attempt):
    return judge(msgspec.convert(expect, Expectations), Attempt(number=1, **attempt))


def goal(**arguments):
    return {"intents": [{"intent": "GOAL", "arguments": arguments}]}


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ({"title": {"exact": "run a marathon"}}, ""),
        ({"title": {"exact": "run"}}, 'GOAL.title: expected "run", got "run a marathon"'),
        ({"title": {"pattern": "MARATHON$"}}, ""),
        ({"title": {"pattern": "^marathon"}}, "GOAL.title: expected a text like ^marathon"),
        ({"hours": {"pattern": "3"}}, "GOAL.hours: expected a text like 3, got 3"),
        ({"hours": {"schema": {"minimum": 3}}}, ""),
        ({"hours": {"schema": {"minimum": 4}}}, "GOAL.hours: 3 is less than the minimum of 4"),
        ({"due": {"absent": True}}, ""),
        ({"title": {"absent": True}}, "GOAL.title: expected none"),
        ({"due": {"pattern": "x"}}, "GOAL.due: expected a value, got none"),
    ],
)
def test_an_argument_is_exact_like_a_pattern_of_a_schema_or_absent(argument, wrong):
    found = verdict(goal(**argument), calls=[GOAL])

    assert len(found) == (1 if wrong else 0)
    assert wrong in "".join(found)


def test_an_intent_that_did_not_come_is_named_with_what_came():
    assert verdict(goal()) == ["expected the intent GOAL, got none"]
    (line,) = verdict(goal(), calls=[TASK])
    assert line.startswith("expected the intent GOAL, got NEW_TASK submitted")


def test_an_intent_has_to_end_as_it_is_expected_to():
    refused = Call("GOAL", "rejected", {})

    assert verdict(goal(), calls=[refused]) == ["GOAL: expected it to be submitted, got rejected"]
    assert verdict({"intents": [{"intent": "GOAL", "status": "rejected"}]}, calls=[refused]) == []


def test_each_expected_intent_takes_a_call_of_its_own_the_best_there_is():
    milk, eggs = ({"title": {"pattern": each}} for each in ("milk", "eggs"))
    expect = {
        "intents": [{"intent": "NEW_TASK", "arguments": each} for each in (eggs, milk)],
        "forbidden": [{"intent": "any"}],
    }
    both = [TASK, Call("NEW_TASK", "submitted", {"title": "buy eggs"})]

    assert verdict(expect, calls=both) == []
    assert len(verdict(expect, calls=[TASK])) == 2  # the milk is no eggs, and then there is none
    assert len(verdict(expect, calls=[*both, GOAL])) == 1


def test_a_forbidden_intent_is_one_beside_the_expected_ones():
    expect = {**goal(), "forbidden": [{"intent": "GOAL"}]}

    assert verdict(expect, calls=[GOAL]) == []
    (line,) = verdict(expect, calls=[GOAL, GOAL])
    assert line.startswith("expected no such intent, got GOAL")


def test_an_intent_may_be_forbidden_with_these_arguments_only():
    expect = {"forbidden": [{"intent": "NEW_TASK", "arguments": {"title": {"pattern": "milk"}}}]}

    assert len(verdict(expect, calls=[TASK])) == 1
    assert verdict(expect, calls=[Call("NEW_TASK", "submitted", {"title": "eggs"})]) == []


def test_a_call_that_the_model_took_back_at_once_is_none():
    assert verdict({"forbidden": [{"intent": "any"}]}, calls=[Call("GOAL", "cancelled", {})]) == []


def test_words_have_to_be_said_or_not():
    expect = {"said": ["deadline"], "not_said": ["d.ne"]}

    assert verdict(expect, words=["What is the Deadline?"]) == []
    assert verdict(expect, words=["Done."]) == [
        "expected the agent to say deadline, and it did not",
        'expected the agent not to say d.ne, got "Done"',
    ]


def test_a_turn_too_many_a_slow_voice_and_a_lost_session_are_told():
    found = verdict(
        {"turns": 3, "first_audio": 2}, unasked="Yes.", first_audio=[1.0, 2.5], trouble="it broke"
    )

    assert found == [
        "it broke",
        'expected at most 3 turns of the user; "Yes." would be one more',
        "expected the agent's voice within 2 s, got 2.5 s",
    ]
    assert verdict({"first_audio": 2}, first_audio=[2.0]) == []
