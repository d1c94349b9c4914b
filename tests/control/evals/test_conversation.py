"""What is said next in an attempt, against a small relay of our own; its lines are typed."""

import asyncio

import msgspec
import pytest

from config.scenario import Scenario
from control.evals.conversation import attempt
from control.evals.orchestrator import Orchestrator
from control.evals.stage import Stage
from control.evals.voice import Words
from tests.control.talk.test_cli import DONE, TENTH, Relay, intent, text


class NoVoice:
    rate = 22_050


async def held(relay, *, timeout=5.0, **fields):
    """The attempt at a scenario with these fields."""
    scenario = msgspec.convert({"about": "x", "expect": {}} | fields, Scenario)
    words = Words(NoVoice(), scenario.voice, None)
    async with relay.running(), asyncio.timeout(20):
        stage = Stage(relay.url, NoVoice(), Orchestrator(), "s" * 32)
        return await attempt("one", 1, scenario, words, stage, timeout)


def typed(*lines):
    return [{"type": line} for line in lines]


def said(made):
    return [entry.text for entry in made.transcript if entry.who == "said"]


class Asking(Relay):
    """Replies to each words of the user with the next of these."""

    def __init__(self, *replies, **options):
        super().__init__(**options)
        self.replies = list(replies)
        self.reply = self.ask

    async def ask(self, browser, words):
        reply = self.replies.pop(0)
        events = reply if isinstance(reply, list) else [text("assistant", reply), TENTH, DONE]
        await self.say(browser, text("user", words), *events)


async def test_what_is_asked_is_answered_before_the_next_line():
    made = await held(
        Asking("By when?", "Right?", "Done.", "Bye."),
        lines=typed("a goal", "thanks"),
        answers=[
            {"when": "by WHEN", "type": "never"},
            {"when": "right", "type": "yes"},
        ],
    )

    assert made.failures == []
    assert said(made) == ["a goal", "never", "yes", "thanks"]
    assert made.words == ["By when?", "Right?", "Done.", "Bye."]
    assert len(made.first_audio) == 4


async def test_the_greeting_asks_for_nothing_and_counts_for_no_words():
    made = await held(
        Asking("Fine."),
        lines=typed("hi"),
        answers=[{"when": "hello", "type": "what"}],
        expect={"not_said": ["hello"]},
    )

    assert made.failures == []
    assert said(made) == ["hi"]


async def test_a_question_that_comes_too_often_gets_no_answer():
    made = await held(
        Asking("When?", "When?", "When?"),
        lines=typed("hi"),
        answers=[{"when": "when", "type": "now", "times": 2}],
    )

    assert said(made) == ["hi", "now", "now"]


async def test_after_so_many_turns_the_user_hangs_up_and_it_failed():
    made = await held(
        Asking("When?", "When?"),
        lines=typed("hi"),
        answers=[{"when": "when", "type": "now", "times": 9}],
        expect={"turns": 2},
    )

    assert said(made) == ["hi", "now"]
    assert "at most 2 turns" in made.failures[0]


async def test_who_interrupts_does_not_wait_for_the_end_and_answers_nothing_first():
    endless = [text("assistant", "When? And another thing"), TENTH]  # its end never comes
    made = await held(
        Asking(endless, "Yes?"),
        lines=[{"type": "hi"}, {"type": "stop", "interrupt": 0.05}],
        answers=[{"when": "when", "type": "now"}],
    )

    assert made.failures == []
    assert said(made) == ["hi", "stop"]


async def test_silence_comes_before_an_answer():
    made = await held(
        Asking("When?", "Fine."),
        lines=[{"type": "hi"}, {"silence": 0.1}],
        answers=[{"when": "when", "type": "now"}],
    )

    assert said(made) == ["hi", "(nothing for 0.1 s)", "now"]


async def test_calls_are_known_as_they_stand_at_the_end_with_their_arguments():
    calls = [
        intent("submitting", arguments={"title": "run"}),
        intent("submitted", result={"id": 1}),
        text("assistant", "Done."),
        TENTH,
        DONE,
    ]
    made = await held(
        Asking(calls),
        lines=typed("a goal"),
        expect={"intents": [{"intent": "GOAL", "arguments": {"title": {"exact": "run"}}}]},
    )

    assert made.failures == []
    assert made.seconds > 0


@pytest.mark.parametrize(
    ("relay", "why"),
    [
        (Relay(status=503), "refused the session: 503"),
        (Asking([]), "waited 0.5 s for a reply of the agent: none came"),
        (
            Asking([{"type": "Error", "code": "X", "description": "y"}, TENTH]),
            "waited 0.5 s for a reply of the agent: none came",
        ),
    ],
)
async def test_a_session_that_does_not_work_is_a_failed_attempt(relay, why):
    made = await held(relay, lines=typed("hi"), timeout=0.5)

    assert why in made.failures[0]
