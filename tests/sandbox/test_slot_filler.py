"""The slot filler, with the shipped kind of registry and with one nobody here has thought of."""

import json

import pytest

from relay.functions.submission import AWAITING, saved
from relay.protocol import deepgram
from relay.sandbox.slot_filler import SlotFiller, Stage
from relay.sandbox.slots import read_function

OTHER = [
    {
        "name": "get_weather",
        "description": "Get current weather information for a location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The location"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
    {
        "name": "bookTable",
        "description": "Book a table in a restaurant",
        "parameters": {
            "type": "object",
            "properties": {
                "party_size": {"type": "integer", "minimum": 1, "maximum": 12},
                "when": {"type": "string"},
                "outdoor": {"type": "boolean"},
                "cuisine": {"type": "string"},
            },
            "required": ["party_size", "when", "outdoor", "cuisine"],
        },
    },
    {
        "name": "set_lights",
        "description": "Turn the lights on or off",
        "parameters": {"properties": {"state": {"enum": ["on", "off"]}}, "required": ["state"]},
    },
    {"name": "ping"},
]


class Talk:
    def __init__(self, functions):
        self.slot_filler = SlotFiller([read_function(function) for function in functions])
        self.call = None

    def say(self, *lines):
        for line in lines:
            turn = self.slot_filler.hear(line)
        self.call = turn.calls[0] if turn.calls else self.call
        return " ".join(turn.say)

    def result(self, content):
        text = content if isinstance(content, str) else json.dumps(content)
        return " ".join(self.slot_filler.answered(text).say)


@pytest.fixture
def talk(registry):
    return Talk(registry)


@pytest.fixture
def other():
    return Talk(OTHER)


# --- the talk that the demo has ----------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        "I want to run a marathon in April.",
        "I want to run a marathon in April",
        "I want to run the marathon in April!",
        "I wanna want to run a marathon in April.",
    ],
)
def test_a_goal_is_asked_for_its_deadline_and_confirmed(talk, first):
    assert "deadline" in talk.say(first)
    assert "Is that right?" in talk.say("There is no deadline.")

    talk.say("Yes, that is right.")

    assert talk.call.name == "create_goal"
    assert talk.call.arguments["deadline"] == "none"
    assert "marathon in April" in talk.call.arguments["title"]


@pytest.mark.parametrize(
    "first",
    [
        "Add a task to buy running shoes tomorrow.",
        "and a task to buy running shoes tomorrow",
        "Remind me to buy running shoes tomorrow",
        "Create a new task: buy running shoes tomorrow",
        '"Task" buy running shoes tomorrow',
    ],
)
@pytest.mark.parametrize(
    "yes", ["Yes, that is right.", "Yes, that's it right.", "Yes, now did riot.", "Go ahead."]
)
def test_a_task_is_confirmed_and_called(talk, first, yes):
    assert "Is that right?" in talk.say(first)

    talk.say(yes)

    assert talk.call.name == "create_task"
    assert talk.call.arguments == {"title": "buy running shoes", "due": "tomorrow"}


def test_a_reschedule_keeps_the_words_of_the_user(talk):
    assert "Is that right?" in talk.say("Please move my dentist appointment to Friday.")

    talk.say("Yes")

    assert talk.call.name == "reschedule_task"
    assert talk.call.arguments == {"task": "dentist appointment", "when": "Friday"}


# --- results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"status": "submitted", "result": {"id": "1"}}, "Done."),
        ({"status": "submitted", "result": {"message": "It is saved"}}, "Done. It is saved."),
        ({"status": "rejected", "error": "no such task"}, "I could not do that: no such task."),
        (json.loads(saved("busy")), "I have noted that, and it will be passed on later."),
        (json.loads(AWAITING), "Please look at your screen: it asks whether that is right."),
        ({"type": "about:blank", "status": 404, "detail": "No such task."}, "No such task."),
        ({"error": {"message": "too late"}}, "too late"),
        ({"ok": False}, "it did not work"),
        ({"success": True, "result": "It rains"}, "Done. It rains."),
        ("Error: the table is taken", "I could not do that: Error: the table is taken."),
        ("All fine", "Done. All fine."),
        ('"failed to reach"', "I could not do that"),
        ("[1, 2]", "Done."),
        ("x" * 200 + " " + "y" * 200, "Done."),
    ],
)
def test_the_result_is_said_in_words(talk, content, words):
    talk.say("Please move my dentist appointment to Friday.", "Yes")

    assert words in talk.result(content)
    assert talk.slot_filler.stage is Stage.FREE


def test_words_during_a_call_are_put_off(talk):
    talk.say("Please move my dentist appointment to Friday.", "Yes")

    assert "working" in talk.say("Hello?")


# --- corrections -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        (["No, on Saturday."], {"title": "buy milk", "due": "Saturday"}),
        (["Change the title to buy bread"], {"title": "buy bread", "due": "tomorrow"}),
        (["No", "the title is buy bread"], {"title": "buy bread", "due": "tomorrow"}),
        (["No", "buy oat milk"], {"title": "buy oat milk", "due": "tomorrow"}),
        (["Well", "the due date is next Monday"], {"title": "buy milk", "due": "next Monday"}),
    ],
)
def test_a_correction_is_taken_and_confirmed_again(talk, said, arguments):
    talk.say("Add a task to buy milk tomorrow")

    talk.say(*said)
    talk.say("Yes")

    assert talk.call.arguments == arguments


@pytest.mark.parametrize("words", ["Never mind.", "Cancel that", "Forget it", "Stop."])
def test_a_form_can_be_dropped(talk, words):
    talk.say("I want to run a marathon")

    assert "leave" in talk.say(words)
    assert talk.slot_filler.stage is Stage.FREE


def test_another_wish_replaces_the_one_to_be_confirmed(talk):
    talk.say("Add a task to buy milk tomorrow")

    said = talk.say("Reschedule the team meeting to Monday")

    assert "Reschedule a task: team meeting, when Monday." in said


def test_a_refusal_drops_a_form_that_has_nothing_to_change(other):
    assert "leave" in other.say("turn off the lights", "no")


# --- asking ------------------------------------------------------------------------------------


def test_a_deadline_in_the_first_sentence_is_not_asked_for(talk):
    said = talk.say("I'd like to learn Spanish by the end of the year.")

    assert "learn Spanish" in said
    assert "end of the year" in said
    assert "Is that right?" in said


def test_a_bare_wish_is_asked_for_everything(talk):
    assert "title" in talk.say("Create a goal")
    assert "deadline" in talk.say("write a book")
    assert "Is that right?" in talk.say("by Christmas")
    talk.say("yes")

    assert talk.call.arguments == {"title": "write a book", "deadline": "Christmas"}


def test_a_date_that_is_none_is_asked_for_again_and_then_believed(talk):
    talk.say("Create a goal", "write a book")

    assert "did not get" in talk.say("when I am thirty")
    assert "Is that right?" in talk.say("when I am thirty")


def test_any_registry_is_filled_by_its_types(other):
    assert "Outdoor: yes or no?" in other.say("Book a table for four people tomorrow evening")
    assert "did not get" in other.say("perhaps")
    assert "cuisine" in other.say("yes please")
    assert "Is that right?" in other.say("Italian")
    other.say("right")

    assert other.call.arguments == {
        "party_size": 4,
        "when": "tomorrow evening",
        "outdoor": True,
        "cuisine": "Italian",
    }


def test_a_number_outside_its_bounds_is_not_taken(other):
    assert "party size" in other.say("I need a table")
    assert "did not get" in other.say("fifty")
    assert "When" in other.say("five")


def test_three_answers_that_do_not_fit_end_the_form(other):
    other.say("I need a table", "what", "what")

    assert "sorry" in other.say("what")
    assert other.slot_filler.stage is Stage.FREE


def test_places_and_choices_are_found_in_the_sentence(other):
    other.say("What's the weather like in New York in celsius?", "yes")

    assert other.call.arguments == {"location": "New York", "unit": "celsius"}


def test_a_choice_is_asked_for_with_its_words(other):
    assert "on or off" in other.say("set the lights")
    other.say("off please", "yes")

    assert other.call.arguments == {"state": "off"}


def test_a_function_without_parameters_is_only_confirmed(other):
    assert other.say("ping") == "Ping. Is that right?"
    other.say("yes")

    assert other.call.arguments == {}


# --- other talk --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Hello, can you hear me?", "I can hear you"),
        ("Good morning", "I can create a goal, create a task or reschedule a task."),
        ("Wait, stop. One moment please.", "listening"),
        ("How tall is the Eiffel tower?", "cannot help"),
        ("No, that's all, thanks.", "welcome"),
        ("Nothing else", "All right"),
        ("Goodbye", "Goodbye"),
    ],
)
def test_unrelated_talk_is_answered_politely(talk, said, words):
    assert words in talk.say(said)


def test_without_functions_it_says_so():
    assert "no functions" in Talk([]).say("Hello")


# --- history -----------------------------------------------------------------------------------

GOAL = [
    deepgram.History(role="assistant", content="Hi!"),
    deepgram.History(role="user", content="I want to run a marathon in April."),
    deepgram.History(role="assistant", content="What is the deadline?"),
    deepgram.History(role="user", content="There is no deadline."),
    deepgram.History(role="assistant", content="Is that right?"),
]
DONE = deepgram.History(
    function_calls=[
        deepgram.FinishedCall(
            id="c", name="create_goal", client_side=True, arguments="{}", response='{"ok":true}'
        )
    ]
)


def test_a_conversation_goes_on_where_it_was_left(talk):
    talk.slot_filler.remember(GOAL)

    talk.say("Yes")

    assert talk.call.arguments == {"title": "run a marathon in April", "deadline": "none"}


def test_what_was_done_before_is_not_done_again(talk):
    talk.slot_filler.remember([*GOAL, deepgram.History(role="user", content="Yes"), DONE])

    talk.say("Yes")

    assert talk.call is None


def test_a_call_that_never_came_back_is_confirmed_again(talk):
    talk.slot_filler.remember([*GOAL, deepgram.History(role="user", content="Yes")])

    talk.say("Yes")

    assert talk.call.name == "create_goal"


def test_a_result_for_nothing_known_is_still_said(talk):
    said = talk.slot_filler.answered('{"ok":true}').say

    assert said[0] == "Done."
    assert "FREE" in repr(talk.slot_filler)


def test_a_hasty_one_calls_without_asking_and_takes_no_deadline_for_none(registry):
    hasty = SlotFiller([read_function(function) for function in registry], hasty=True)

    (call,) = hasty.hear("I want to run a marathon in April.").calls

    assert call.name == "create_goal"
    assert call.arguments == {"title": "run a marathon in April", "deadline": "none"}


@pytest.mark.parametrize("hasty", [False, True])
def test_one_that_forgets_deadlines_neither_asks_for_one_nor_takes_it(registry, hasty):
    functions = [read_function(function) for function in registry]
    forgetful = SlotFiller(functions, hasty=hasty, forgets_deadlines=True)

    turn = forgetful.hear("I'd like to learn Spanish by the end of the year.")
    (call,) = turn.calls or forgetful.hear("Yes.").calls

    assert "end of the year" not in " ".join(turn.say)
    assert call.arguments == {"title": "learn Spanish", "deadline": "none"}


def test_a_hasty_one_still_asks_for_what_it_cannot_guess(registry):
    hasty = SlotFiller([read_function(function) for function in registry], hasty=True)

    asked = hasty.hear("Please move my dentist appointment.")
    (call,) = hasty.hear("To Friday.").calls

    assert asked.calls == ()
    assert call.arguments == {"task": "dentist appointment", "when": "Friday"}


@pytest.mark.parametrize("again", ["Please give it again.", "Pardon?", "Say that again"])
def test_what_was_not_heard_is_said_again_and_nothing_is_done_twice(talk, again):
    talk.slot_filler.remember([*GOAL, deepgram.History(role="user", content="Yes"), DONE])

    assert talk.say(again).startswith("Done.")
    assert talk.call is None
