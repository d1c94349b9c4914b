"""An agent is lost with the user's turn unanswered: the next one is asked to answer it.

Played against a whole session with virtual time, as agents and browsers see it.
"""

from __future__ import annotations

import msgspec
import pytest

from relay.core import actions
from relay.core.admitted import Takeover
from relay.core.agent_lifecycle import State
from relay.core.events import (
    AgentClosed,
    AgentOpened,
    FromAgent,
    FromBrowser,
    FunctionReturned,
    Woken,
)
from relay.core.message_policy import ANSWER_AGAIN
from relay.core.open_turn import MOST_ASKED, MOST_TYPED, OpenTurn
from relay.core.reconnect import STABLE_SECONDS
from relay.protocol import deepgram, relay_events
from relay.protocol.relay_events import IntentStatus
from tests.relay.conftest import LIMITS, make_session

LOST = AgentClosed(1006, "")
DONE = deepgram.AgentAudioDone()
SPEAKS = deepgram.UserStartedSpeaking()


class Talk:
    """A session and what came of it: what agents were sent, what was stored, what was shown."""

    def __init__(self, session):
        self.session = session
        self.now = 1.0
        self.stored, self.shown, self.told, self.notes = [], [], [], []
        self.calls = []
        self.asked = []  # typed turns that the newest agent got

    def handle(self, event):
        self.now += 0.1
        message = getattr(event, "message", None)
        for action in self.session.handle(event, self.now):
            match action:
                case actions.Store(message=stored):
                    self.stored.append((stored.role, stored.content))
                case actions.Forward() if isinstance(event, FromAgent):
                    self.shown.append(message)
                case actions.Forward() if isinstance(message, deepgram.InjectUserMessage):
                    self.asked.append(message.content)
                case actions.SendAgent(message=deepgram.InjectUserMessage(content=text)):
                    assert self.session.state is State.OPEN
                    self.asked.append(text)
                case actions.SendSettings(settings=settings):
                    self.told = settings.flags["told"]
                    self.asked = []
                case actions.CallFunction(id=id):
                    self.calls.append(id)
                case actions.Note(what=what):
                    self.notes.append(what)

    def agent(self, *messages):
        for message in messages:
            self.handle(FromAgent(message))

    def user(self, *lines):
        self.agent(*(line("user", text) for text in lines))

    def reply(self, *sentences):
        self.agent(*(line("assistant", text) for text in sentences))

    def type(self, text):
        self.handle(FromBrowser(deepgram.InjectUserMessage(content=text)))

    def call(self):
        request = deepgram.FunctionCall(id=f"call_{len(self.calls)}", name="create_goal")
        self.agent(deepgram.FunctionCallRequest(functions=[request]))

    def take_back(self):
        request = deepgram.FunctionCall(id=f"call_{len(self.calls) - 1}", name="create_goal")
        self.agent(deepgram.FunctionCallCancelled(functions=[request]))

    def return_(self):
        shown = relay_events.RelayIntent(
            id=self.calls[-1], call_id="c", intent="GOAL", status=IntentStatus.SUBMITTED
        )
        self.handle(FunctionReturned(shown, '{"status":"submitted"}'))

    def lose(self, loss=LOST):
        """The agent is gone and another one is ready."""
        self.handle(loss)
        self.come_back()

    def come_back(self):
        if self.session.state is State.RETRYING:
            self.now = self.session.deadline
            self.handle(Woken(0))
        self.handle(AgentOpened())
        self.agent(deepgram.Welcome(request_id="next"), deepgram.SettingsApplied())
        assert self.session.state is State.OPEN

    def echo(self, text):
        """As an agent repeats a typed turn."""
        self.user(text)
        self.agent(deepgram.History(role="user", content=text), deepgram.EndOfTurn("manual"))

    @property
    def context(self):
        return [line.content for line in self.told if line.role]


def line(role, text, behaviour=None):
    return deepgram.ConversationText(role=role, content=text, conversational_behavior=behaviour)


@pytest.fixture
def talk(live):
    talk = Talk(live)
    talk.reply("Hi.")
    talk.agent(DONE)
    return talk


# --- what the next agent is told and asked ----------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        LOST,
        AgentClosed(1011, "oops"),
        FromAgent(deepgram.Error(code="FAILED_TO_THINK", description="no reply")),
    ],
)
def test_the_words_that_no_agent_answered_are_left_out_and_asked(talk, loss):
    talk.user("How are you?")

    talk.lose(loss)

    assert talk.context == ["Hi."]
    assert talk.asked == ["How are you?"]
    assert talk.notes == ["agent_redialled", "turn_asked_again"]


def test_its_echo_is_neither_stored_nor_shown(talk):
    talk.user("How are you?")
    talk.lose()
    shown = len(talk.shown)

    talk.echo("How  are you? ")
    talk.reply("Well.")

    assert talk.stored == [("assistant", "Hi."), ("user", "How are you?"), ("assistant", "Well.")]
    assert talk.shown[shown:] == [deepgram.EndOfTurn("manual"), line("assistant", "Well.")]


def test_an_echo_is_known_once_and_the_same_words_later_are_said_again(talk):
    talk.user("Yes")
    talk.lose()
    talk.echo("Yes")
    talk.reply("Fine.")
    talk.agent(DONE)

    talk.user("Yes")

    assert talk.stored.count(("user", "Yes")) == 2


def test_an_echo_that_never_comes_hides_nothing_later(talk):
    talk.user("Yes")
    talk.lose()
    talk.reply("Fine.")
    talk.agent(DONE)

    talk.echo("Yes")

    assert talk.stored.count(("user", "Yes")) == 2
    assert not talk.session.knows(deepgram.History(role="user", content="Yes"))


def test_a_reply_that_was_begun_is_given_from_the_start_and_stored_once(talk):
    talk.user("How are you?")
    talk.reply("Well.")

    talk.lose()
    talk.echo("How are you?")
    talk.reply("Well.", "And you?")
    talk.agent(DONE)

    assert talk.context == ["Hi."]
    assert talk.asked == ["How are you?"]
    assert [text for _, text in talk.stored] == ["Hi.", "How are you?", "Well.", "And you?"]
    talk.lose()
    assert talk.context == ["Hi.", "How are you?", "Well.", "And you?"]
    assert talk.asked == []


def test_a_reply_that_is_the_same_again_answers_the_turn(talk):
    talk.user("How are you?")
    talk.reply("Well.")
    talk.lose()
    talk.echo("How are you?")
    talk.reply("Well.")
    talk.agent(DONE)

    talk.lose()

    assert talk.asked == []


def test_all_lines_of_a_turn_are_the_turn(talk):
    talk.user("I want to run", "a marathon.")
    talk.agent(line("assistant", "Mhm.", "backchannel"))

    talk.lose()

    assert talk.context == ["Hi."]
    assert talk.asked == ["I want to run a marathon."]
    talk.echo("I want to run a marathon.")
    assert len(talk.stored) == 4


def test_what_is_said_by_the_way_is_no_turn(talk):
    talk.agent(line("user", "Mhm.", "backchannel"))

    talk.lose()

    assert talk.context == ["Hi.", "Mhm."]
    assert talk.asked == []


def test_white_space_is_not_asked(talk):
    talk.user(" ")

    talk.lose()

    assert talk.asked == []


def test_a_turn_that_was_answered_is_told_and_not_asked(talk):
    talk.user("How are you?")
    talk.reply("Well.")
    talk.agent(DONE)

    talk.lose()

    assert talk.context == ["Hi.", "How are you?", "Well."]
    assert talk.asked == []


@pytest.mark.parametrize("signs", [[SPEAKS], [SPEAKS, DONE]])
def test_a_reply_that_the_user_interrupted_is_not_wanted_any_more(talk, signs):
    talk.user("How are you?")
    talk.reply("Well.")
    talk.agent(*signs)

    talk.lose()

    assert talk.asked == []


def test_after_an_interruption_only_the_new_words_are_asked(talk):
    talk.user("How are you?")
    talk.reply("Well.")
    talk.user("And the weather?")

    talk.lose()

    assert talk.context == ["Hi.", "How are you?", "Well."]
    assert talk.asked == ["And the weather?"]


def test_words_before_any_reply_came_stay_a_part_of_the_turn(talk):
    talk.user("How are you?")
    talk.agent(SPEAKS, DONE)
    talk.user("And your cat?")

    talk.lose()

    assert talk.asked == ["How are you? And your cat?"]


def test_agents_that_die_of_it_are_not_asked_for_ever(talk):
    talk.user("How are you?")

    for _ in range(MOST_ASKED):
        talk.now += 2 * STABLE_SECONDS
        talk.lose()
        assert talk.asked == ["How are you?"]
        talk.echo("How are you?")
    talk.now += 2 * STABLE_SECONDS
    talk.lose()

    assert talk.asked == []
    assert talk.context == ["Hi.", "How are you?"]
    talk.user("Hello?")
    talk.reply("Yes.")
    talk.user("Well?")
    talk.lose()
    assert talk.asked == ["Well?"], "another turn is asked again"


def test_while_an_answer_is_due_there_is_no_roll_over(talk):
    talk.user("How are you?")
    talk.now = LIMITS.roll_over_seconds
    talk.lose()
    talk.now += LIMITS.roll_over_seconds

    talk.handle(Woken(0))

    assert talk.session.state is State.OPEN


# --- turns with functions ---------------------------------------------------------------------


def test_a_turn_with_a_call_is_told_as_it_was_and_the_answer_is_asked_for(talk):
    talk.user("I want to swim.")
    talk.call()

    talk.lose()

    assert talk.context == ["Hi.", "I want to swim."]
    assert talk.told[-1].function_calls
    assert talk.asked == [ANSWER_AGAIN]
    talk.echo(ANSWER_AGAIN)
    assert len(talk.stored) == 2
    assert len(talk.calls) == 1


def test_what_was_said_before_a_call_is_not_the_answer(talk):
    talk.user("I want to swim.")
    talk.reply("One moment.")
    talk.agent(DONE)
    talk.call()

    talk.lose()

    assert talk.asked == [ANSWER_AGAIN]


def test_what_bridges_a_call_is_not_the_answer(talk):
    talk.user("I want to swim.")
    talk.call()
    talk.reply("One moment.")
    talk.agent(DONE)
    talk.return_()
    talk.agent(DONE)

    talk.lose()

    assert talk.asked == [ANSWER_AGAIN]


def test_an_answer_after_the_call_is_the_answer(talk):
    talk.user("I want to swim.")
    talk.call()
    talk.return_()
    talk.reply("It is noted.")
    talk.agent(DONE)

    talk.lose()

    assert talk.asked == []


def test_words_that_come_after_their_call_are_not_said_again(talk):
    talk.user("Hello.")
    talk.reply("Hello.")
    talk.agent(DONE)
    talk.call()
    talk.user("I want to swim.")

    talk.lose()

    assert talk.context[-1] == "I want to swim."
    assert talk.asked == [ANSWER_AGAIN]


def test_a_call_that_was_taken_back_leaves_nothing_to_answer(talk):
    talk.user("Hello.")
    talk.reply("Hello.")
    talk.agent(DONE)
    talk.call()
    talk.take_back()

    talk.lose()

    assert talk.asked == []


def test_after_a_call_of_an_earlier_turn_words_are_asked_again(talk):
    talk.user("I want to swim.")
    talk.call()
    talk.return_()
    talk.reply("It is noted.")
    talk.agent(DONE)
    talk.user("Thanks.")

    talk.lose()

    assert talk.asked == ["Thanks."]
    assert talk.context == ["Hi.", "I want to swim.", "It is noted."]


# --- typed turns ------------------------------------------------------------------------------


def test_a_typed_turn_without_an_echo_is_typed_again_and_stored_once(talk):
    talk.type("How are you?")
    assert talk.asked == ["How are you?"]

    talk.lose()

    assert talk.asked == ["How are you?"]
    talk.echo("How are you?")
    assert talk.stored == [("assistant", "Hi."), ("user", "How are you?")]


def test_a_typed_turn_with_its_echo_is_a_turn_like_any(talk):
    talk.type("How are you?")
    talk.echo("How are you?")

    talk.lose()

    assert talk.context == ["Hi."]
    assert talk.asked == ["How are you?"]
    talk.echo("How are you?")
    assert talk.stored == [("assistant", "Hi."), ("user", "How are you?")]


def test_an_echo_in_other_words_is_taken_for_it(talk):
    talk.type("how are you")
    talk.user("How are you?")
    talk.reply("Well.")
    talk.agent(DONE)

    talk.lose()

    assert talk.asked == []


def test_what_is_typed_while_there_is_no_agent_waits_for_it(talk):
    talk.user("How are you?")
    talk.handle(LOST)
    talk.asked.clear()
    talk.type("And your cat?")
    assert talk.asked == []

    talk.come_back()

    assert talk.asked == ["How are you?", "And your cat?"]
    talk.echo("How are you?")
    talk.echo("And your cat?")
    assert [text for role, text in talk.stored if role == "user"] == talk.asked


def test_texts_without_an_echo_are_bounded():
    turn = OpenTurn()
    for number in range(MOST_TYPED + 1):
        turn.type(f"text {number}")

    asked = [action.message.content for action in turn.ask()]

    assert asked == [f"text {number}" for number in range(1, MOST_TYPED + 1)]


def test_it_describes_itself_without_words(talk):
    turn = OpenTurn()
    assert "answered" in repr(turn)

    turn.add(line("user", "secret"))

    assert "open" in repr(turn)
    assert "secret" not in repr(turn)


def test_a_giant_turn_is_asked_cut_and_its_empty_lines_are_not(talk):
    talk.user("word " * 150_000, " ", "please")

    talk.lose()

    (question,) = talk.asked
    assert question.startswith("word word")
    assert len(question) < 10_000
    talk.echo(question)
    assert len([text for role, text in talk.stored if role == "user"]) == 3


# --- another relay had the session ------------------------------------------------------------


HELLO = [
    deepgram.History(role="user", content="Hello."),
    deepgram.History(role="assistant", content="Hi."),
]
QUESTION = deepgram.History(role="user", content="What is the time?")
CALLED = deepgram.History(
    function_calls=[
        deepgram.FinishedCall(
            id="call_1", name="create_goal", client_side=True, arguments="{}", response="{}"
        )
    ]
)
ONE_MOMENT = deepgram.History(role="assistant", content="One moment.")


@pytest.mark.parametrize(
    ("history", "asked"),
    [
        ([*HELLO, QUESTION], [QUESTION.content]),
        ([*HELLO, QUESTION, CALLED], [ANSWER_AGAIN]),
        ([*HELLO, QUESTION, ONE_MOMENT, CALLED], [ANSWER_AGAIN]),
        ([*HELLO, QUESTION, CALLED, ONE_MOMENT], []),
        ([*HELLO], []),
        ([], []),
    ],
)
def test_what_another_relay_left_unanswered_is_asked_again(admitted, settings, history, asked):
    takeover = Takeover(ticket="theirs", messages=[])
    taken = msgspec.structs.replace(admitted, history=history, takeover=takeover)
    talk = Talk(make_session(taken, settings))

    talk.handle(AgentOpened())
    talk.agent(deepgram.Welcome(request_id="r"), deepgram.SettingsApplied())

    assert talk.asked == asked
    is_left_out = asked == [QUESTION.content]
    assert talk.told == (HELLO if is_left_out else history)
    talk.user(*asked)
    talk.reply("It is noon.")
    assert [text for role, text in talk.stored] == ["It is noon."]


def test_a_conversation_that_is_resumed_later_begins_with_the_user(admitted, settings):
    talk = Talk(make_session(msgspec.structs.replace(admitted, history=[QUESTION]), settings))

    talk.handle(AgentOpened())
    talk.agent(deepgram.Welcome(request_id="r"), deepgram.SettingsApplied())

    assert talk.asked == []


def test_a_line_of_the_history_that_says_nothing_changes_nothing():
    turn = OpenTurn()
    said = deepgram.History(role="user", content="hello")

    turn.take_up([said, deepgram.History()])

    assert repr(turn) == "<OpenTurn open texts=1 typed=0>"
