from __future__ import annotations

import json
from datetime import timedelta
from typing import get_args
from uuid import UUID, uuid4

import msgspec
import pytest

from config.function_arguments import MAX_LENGTH
from config.policy import Policy, Shown
from config.prompt import LONGEST_NEWS
from relay.core import actions
from relay.core import session as session_module
from relay.core.admitted import Takeover
from relay.core.agent_lifecycle import KEEPALIVE_CHECK, ROLL_OVER_PATIENCE, State
from relay.core.events import (
    AgentClosed,
    AgentOpened,
    AgentUnreachable,
    Allowed,
    BrowserAttached,
    BrowserClosed,
    BrowserReturning,
    ContextLearned,
    ControlFrame,
    EndReason,
    Event,
    FromAgent,
    FromBrowser,
    FunctionReturned,
    FunctionStarted,
    GoAway,
    HangUp,
    MessageStored,
    NotAudio,
    Woken,
)
from relay.core.function_calls import MAX_OPEN_CALLS, MAX_REQUESTED, MAX_TOLD
from relay.core.late_news import HEAD
from relay.core.reconnect import FINAL_ERRORS, MAX_TRIES, STABLE_SECONDS
from relay.core.records import IntentCalled
from relay.core.session import GO_AWAY_PATIENCE
from relay.core.transcript import HISTORY_LENGTH
from relay.core.user_context import UserContext
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.relay_events import IntentStatus
from tests.relay.conftest import BEGAN, LIMITS, make_session


def test_every_event_and_every_message_of_the_agent_has_its_rule():
    assert set(session_module._RULES) == set(get_args(Event))
    known = set(session_module._AGENT_RULES)
    assert known < set(get_args(deepgram.FromServer))
    for kind in set(get_args(deepgram.FromServer)) - known:
        assert issubclass(kind, deepgram.Notice), "the browser is told what no rule is about"


def of(kind, asked):
    return [action for action in asked if isinstance(action, kind)]


def ended(asked):
    (end,) = of(actions.End, asked)
    return end.reason


def closes(asked):
    (end,) = of(actions.End, asked)
    return end.browser[0], end.agent[0]


def call(id="call_1", name="create_goal", **more):
    return deepgram.FunctionCall(id=id, name=name, **more)


def request(*calls):
    return FromAgent(deepgram.FunctionCallRequest(functions=list(calls)))


def ids_of(asked):
    """The ids, ours, of the calls that are to be run."""
    return [action.id for action in of(actions.CallFunction, asked)]


def run(session, *calls, now=2.0):
    """The model asks for one call or several: their ids."""
    return ids_of(session.handle(request(*(calls or (call(),))), now))


def shown(id, status, **more):
    return relay_events.RelayIntent(
        id=id, call_id="call_1", intent="GOAL", status=status, arguments={"title": "x"}, **more
    )


def started(id, say=None, say_after=1.0):
    return FunctionStarted(shown(id, IntentStatus.SUBMITTING), say, say_after)


def returned(id, status=IntentStatus.SUBMITTED):
    return FunctionReturned(shown(id, status, result={"id": 7}), '{"status":"submitted"}')


def said(role, content="words"):
    return FromAgent(deepgram.ConversationText(role=role, content=content))


# --- the opening ------------------------------------------------------------------------------


def test_the_browser_is_told_its_session_first(session, admitted):
    told, dial = session.begin()

    assert dial == actions.DialAgent()
    assert told.event.session_id == admitted.session_id
    assert told.event.conversation_id == admitted.conversation_id


def test_settings_are_sent_at_welcome_and_not_before(session, settings):
    assert session.handle(AgentOpened(), 0.1) == []

    asked = session.handle(FromAgent(deepgram.Welcome(request_id="r")), 0.2)

    sent = msgspec.structs.replace(settings, flags={"told": []})
    assert asked == [actions.Forward(), actions.SendSettings(sent)]


def test_what_is_held_is_released_when_settings_are_applied(session):
    session.handle(AgentOpened(), 0.1)
    session.handle(FromAgent(deepgram.Welcome(request_id="r")), 0.2)

    asked = session.handle(FromAgent(deepgram.SettingsApplied()), 0.3)

    assert asked == [actions.Forward(), actions.ReleaseHeld("r")]
    assert session.state is State.OPEN


def test_a_second_welcome_does_not_send_settings_again(live):
    asked = live.handle(FromAgent(deepgram.Welcome(request_id="again")), 2.0)

    assert not of(actions.SendSettings, asked)
    assert of(actions.Note, asked)


def test_a_second_socket_opening_does_not_set_the_session_back(live):
    live.handle(AgentOpened(), 2.0)

    assert live.state is State.OPEN


def test_settings_applied_before_settings_is_noted_and_ignored(session):
    asked = session.handle(FromAgent(deepgram.SettingsApplied()), 0.1)

    assert of(actions.Note, asked)
    assert session.state is State.DIALLING


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_set_up_that_takes_too_long_ends_in_every_state(session, steps):
    for event in [AgentOpened(), FromAgent(deepgram.Welcome(request_id="r"))][:steps]:
        session.handle(event, 1.0)
    assert session.deadline == 10.0
    assert session.handle(Woken(0), 9.9) == []

    asked = session.handle(Woken(0), 10.0)

    assert ended(asked) == EndReason.SETUP_TIMEOUT
    assert closes(asked) == (close_codes.AGENT_UNREACHABLE, close_codes.NORMAL)
    assert of(actions.SendBrowser, asked)[0].event.code == "setup_timeout"


def test_an_agent_that_will_always_refuse_is_told_without_the_reason(session):
    asked = session.handle(AgentUnreachable("HTTP 401 from 10.0.0.1", final=True), 0.5)

    assert ended(asked) == EndReason.AGENT_UNREACHABLE
    assert closes(asked) == (1014, 1000)
    assert "10.0.0.1" not in repr(of(actions.SendBrowser, asked))
    assert asked[-1].browser == (1014, "agent unreachable")
    assert asked[-1].detail == "HTTP 401 from 10.0.0.1"


def test_an_agent_that_cannot_be_reached_is_tried_again_as_long_as_the_set_up_may_take(session):
    now, dials = 0.0, 0
    while session.state is not State.CLOSED:
        asked = session.handle(AgentUnreachable("refused"), now)
        if session.state is State.RETRYING:
            assert not of(actions.SendBrowser, asked), "nobody has heard an agent yet"
            now = session.deadline
            assert session.handle(Woken(0), now) == [actions.DialAgent()]
            dials += 1

    assert dials == MAX_TRIES
    assert now < LIMITS.setup_seconds
    assert ended(asked) == EndReason.AGENT_UNREACHABLE


def test_the_tries_of_a_first_set_up_share_its_time(session):
    session.handle(AgentOpened(), 0.1)
    session.handle(AgentClosed(1006, ""), 5.0)
    session.handle(Woken(0), session.deadline)

    assert session.deadline == LIMITS.setup_seconds


def test_an_agent_lost_before_it_was_ready_is_replaced_without_a_second_welcome(session):
    welcome = FromAgent(deepgram.Welcome(request_id="r"))
    session.handle(AgentOpened(), 0.1)
    first = session.handle(welcome, 0.2)
    session.handle(AgentClosed(1006, ""), 0.3)
    session.handle(Woken(0), session.deadline)
    session.handle(AgentOpened(), 1.0)
    second = session.handle(welcome, 1.1)
    applied = session.handle(FromAgent(deepgram.SettingsApplied()), 1.2)

    assert of(actions.Forward, first)
    assert not of(actions.Forward, second)
    assert of(actions.SendSettings, second)
    assert of(actions.Forward, applied), "the browser has not heard this one yet"


# --- what is known of the user ----------------------------------------------------------------


@pytest.fixture
def asking(admitted, settings):
    """A session that asks what is known of its user."""
    return make_session(admitted, settings, asks=True)


WELCOME = FromAgent(deepgram.Welcome(request_id="r"))


def learned(*names):
    return ContextLearned(UserContext(names=list(names)))


def names_told(asked):
    (sent,) = of(actions.SendSettings, asked)
    return sent.settings.tags


def test_what_is_learned_within_the_dial_costs_no_time(asking):
    assert asking.handle(learned("dentist"), 0.1) == []
    asking.handle(AgentOpened(), 0.2)

    asked = asking.handle(WELCOME, 0.3)

    assert asked[0] == actions.Forward()
    assert names_told(asked) == ["dentist"]


@pytest.mark.parametrize(
    ("answer", "names"), [(learned("Ada"), ["Ada"]), (ContextLearned(None), [])]
)
def test_settings_wait_for_the_answer_and_the_browser_does_not(asking, answer, names):
    asking.handle(AgentOpened(), 0.1)
    assert asking.handle(WELCOME, 0.2) == [actions.Forward()]

    asked = asking.handle(answer, 0.5)

    assert names_told(asked) == names
    assert asking.handle(learned("late"), 0.6) == []
    asking.handle(FromAgent(deepgram.SettingsApplied()), 0.7)
    assert asking.state is State.OPEN


def test_an_agent_that_waits_for_an_answer_takes_no_calls_and_may_be_lost(asking):
    asking.handle(AgentOpened(), 0.1)
    asking.handle(WELCOME, 0.2)

    assert of(actions.Note, asking.handle(request(call()), 0.3))
    assert of(actions.Note, asking.handle(FromAgent(deepgram.SettingsApplied()), 0.3))
    assert asking.handle(AgentClosed(1006, ""), 0.4)[0] == actions.DropAgent()


def test_the_answer_that_never_comes_is_a_set_up_that_takes_too_long(asking):
    asking.handle(AgentOpened(), 0.1)
    asking.handle(WELCOME, 0.2)

    assert ended(asking.handle(Woken(0), asking.deadline)) == EndReason.SETUP_TIMEOUT


def open_with(asking, *names):
    asking.handle(learned(*names), 0.1)
    asking.handle(AgentOpened(), 0.1)
    asking.handle(WELCOME, 0.2)
    asking.handle(FromAgent(deepgram.SettingsApplied()), 0.3)


def lose(asking):
    asking.handle(AgentClosed(1006, ""), 5.0)
    now = asking.deadline
    assert asking.handle(Woken(0), now) == [actions.DialAgent()]
    return now


def roll_over(asking):
    now = LIMITS.roll_over_seconds + 1
    assert asking.handle(Woken(0), now)[-1:] == [actions.DialAgent()]
    return now


@pytest.mark.parametrize("replace", [lose, roll_over])
def test_for_the_next_agent_it_is_asked_again(asking, replace):
    open_with(asking, "old")
    now = replace(asking)

    asking.handle(AgentOpened(), now)
    assert asking.handle(FromAgent(deepgram.Welcome(request_id="s")), now) == []
    assert names_told(asking.handle(learned("new"), now)) == ["new"]


@pytest.mark.parametrize("replace", [lose, roll_over])
def test_without_an_answer_the_next_agent_is_told_what_was_known(asking, replace):
    open_with(asking, "old")
    now = replace(asking)

    asking.handle(ContextLearned(None), now)
    asking.handle(AgentOpened(), now)

    assert names_told(asking.handle(FromAgent(deepgram.Welcome(request_id="s")), now)) == ["old"]


# --- what is said -----------------------------------------------------------------------------


def test_messages_are_stored_in_order_and_forwarded(live):
    stored = []
    for second, (role, content) in enumerate([("assistant", "Hi."), ("user", "Hello.")], start=2):
        asked = live.handle(said(role, content), float(second))
        assert actions.Forward() in asked
        stored += [action.message for action in of(actions.Store, asked)]

    assert [(m.seq, m.role, m.content) for m in stored] == [
        (1, "assistant", "Hi."),
        (2, "user", "Hello."),
    ]
    assert stored[0].at == BEGAN + timedelta(seconds=2)
    assert stored[0].id != stored[1].id


def test_the_sentences_of_one_reply_share_a_turn(live):
    roles = ["assistant", "user", "user", "assistant", "assistant", "user"]

    turns = [of(actions.Store, live.handle(said(role), 2.0))[0].message.turn for role in roles]

    assert turns == [1, 2, 2, 3, 3, 4]


def test_a_resumed_conversation_goes_on_counting(admitted, settings):
    resumed = msgspec.structs.replace(admitted, last_seq=7, last_turn=4, last_role="assistant")
    session = make_session(resumed, settings)

    (store, *_) = session.handle(said("user"), 2.0)

    assert (store.message.seq, store.message.turn) == (8, 5)


def test_a_stored_message_is_told_to_the_browser(live):
    message = of(actions.Store, live.handle(said("user"), 2.0))[0].message

    (told,) = live.handle(MessageStored(message), 2.1)

    assert told.event == relay_events.RelayMessageSaved(seq=1, message_id=message.id, role="user")


def test_a_reply_is_measured_from_the_users_words_on(live):
    assert live.handle(said("user"), 2.0)[-1] == actions.AwaitReply()
    assert actions.AwaitReply() not in live.handle(said("assistant"), 2.5)


def test_what_the_agent_measured_is_noted_and_passes(live):
    report = FromAgent(deepgram.LatencyReport(total_latency=0.4))

    assert live.handle(report, 2.0) == [actions.Forward(kept=False), actions.Reported(0.4)]


def test_reports_of_latency_are_not_kept_for_a_browser_that_is_away(live):
    """One may come with every frame of audio."""
    report = FromAgent(deepgram.LatencyReport(stt_latency=0.2))
    assert live.handle(report, 2.0) == [actions.Forward(kept=False)]

    live.handle(BrowserClosed(1006, ""), 3.0)

    assert live.handle(report, 4.0) == []


def test_barge_in_clears_queued_audio_before_it_is_forwarded(live):
    asked = live.handle(FromAgent(deepgram.UserStartedSpeaking()), 2.0)

    assert asked == [actions.ClearAudio(), actions.Forward()]


@pytest.mark.parametrize(
    "message",
    [
        deepgram.EndOfTurn(trigger="model"),
        deepgram.AgentStartedSpeaking(),
        deepgram.AgentAudioDone(),
        deepgram.InjectionRefused(message=""),
        *(deepgram.ListenUpdated(), deepgram.ThinkUpdated(), deepgram.ThinkLiveUpdated()),
        *(deepgram.SpeakUpdated(), deepgram.FrustrationDetected()),
    ],
)
def test_everything_else_of_the_agent_is_forwarded_untouched(live, message):
    assert live.handle(FromAgent(message), 2.0) == [actions.Forward()]


def test_what_the_model_reasons_is_not_for_browsers(live):
    thought = deepgram.AgentThinking(content="The user may be lying.")
    unknown = deepgram.Unknown(type="__customFromThinkProvider" + "x" * 100)

    (shown,) = live.handle(FromAgent(thought), 2.0)
    (noted,) = live.handle(FromAgent(unknown), 2.0)

    assert deepgram.encode(shown.event) == b'{"type":"AgentThinking","content":""}'
    assert noted == actions.Note("agent_unknown", unknown.type[:40])


def test_what_the_model_reasons_is_shown_where_the_policy_says_so(admitted, settings):
    policy = Policy(shown=Shown(thinking=True, unknown=True))
    session = make_session(admitted, settings, policy=policy)

    for message in (deepgram.AgentThinking(content="Hm."), deepgram.Unknown(type="New")):
        assert session.handle(FromAgent(message), 2.0) == [actions.Forward()]


@pytest.mark.parametrize(
    "message",
    [
        deepgram.History(role="user", content="x"),
        deepgram.History(function_calls=[]),
        deepgram.FunctionCallResponse(id="c", name="f", content="{}"),
    ],
)
def test_history_and_echo_do_not_reach_the_browser(live, message):
    assert live.handle(FromAgent(message), 2.0) == []


def test_a_malformed_message_is_noted_and_passes_when_it_is_harmless(live):
    asked = live.handle(FromAgent(deepgram.Malformed("LatencyReport", "bad")), 2.0)

    assert of(actions.Note, asked)
    assert of(actions.Forward, asked)


@pytest.mark.parametrize("kind", ["FunctionCallRequest", "AgentThinking"])
def test_a_malformed_function_call_or_thought_does_not_pass(live, kind):
    asked = live.handle(FromAgent(deepgram.Malformed(kind, "bad")), 2.0)

    assert of(actions.Note, asked)
    assert not of(actions.Forward, asked)


def test_a_warning_is_told_without_its_description(live):
    message = deepgram.Warning(code="PROMPT_TOO_LONG", description="secret prompt")

    asked = live.handle(FromAgent(message), 2.0)

    (told,) = of(actions.SendBrowser, asked)
    assert told.event.code == "PROMPT_TOO_LONG"
    assert "secret" not in told.event.description
    assert live.state is State.OPEN


# --- functions --------------------------------------------------------------------------------


def test_a_function_call_is_run_beside_the_audio_and_not_shown_to_the_browser(live):
    live.handle(said("user"), 2.0)

    (asked,) = live.handle(request(call()), 2.1)

    assert (asked.call, asked.after_seq) == (call(), 1)


STARTS = FromAgent(deepgram.UserStartedSpeaking())


def lines_told(session):
    """What the next agent is told, this one being lost: words, and names of calls."""
    session.handle(AgentClosed(1006, ""), 20.0)
    (sent,) = of(actions.SendSettings, come_back(session, session.deadline))
    lines = sent.settings.flags["told"]
    return [line.content or [each.name for each in line.function_calls] for line in lines]


def test_a_call_that_comes_before_its_words_stands_after_them(live):
    live.handle(said("assistant", "Hi."), 2.0)
    live.handle(STARTS, 2.1)

    (asked,) = live.handle(request(call()), 2.2)
    live.handle(returned(asked.id), 2.3)
    (stored,) = of(actions.Store, live.handle(said("user", "Swim."), 2.4))
    live.handle(said("assistant", "Done."), 2.5)

    assert asked.after_seq == stored.message.seq == 2
    assert lines_told(live) == ["Hi.", "Swim.", ["create_goal"], "Done."]


def test_a_call_with_its_words_stands_after_them_like_one_before_them(live):
    live.handle(STARTS, 2.0)
    early = run(live, call("a"))
    live.handle(said("user", "Swim."), 2.1)
    (asked,) = live.handle(request(call("b", "create_task")), 2.2)
    for id in (*early, asked.id):
        live.handle(returned(id), 2.3)

    assert asked.after_seq == 1
    assert lines_told(live) == ["Swim.", ["create_goal"], ["create_task"]]


def test_a_call_that_was_taken_back_and_asked_again_is_told_once_after_the_words(live):
    live.handle(STARTS, 2.0)
    (early,) = run(live, call("a", arguments='{"title": "marathon"}'))
    gone = FromAgent(deepgram.FunctionCallCancelled(functions=[call("a")]))
    assert live.handle(gone, 2.1) == [actions.CancelFunction(early)]
    live.handle(STARTS, 2.1)

    (again,) = live.handle(request(call("b", arguments='{"title": "marathon in April"}')), 2.2)
    answers = live.handle(returned(again.id), 2.3)
    live.handle(said("user", "A marathon, in April."), 2.4)

    assert again.id != early
    assert again.after_seq == 1
    assert [each.message.id for each in of(actions.SendAgent, answers)] == ["b"]
    assert lines_told(live) == ["A marathon, in April.", ["create_goal"]]


def test_a_call_of_an_earlier_turn_stands_before_what_is_said_meanwhile(live):
    live.handle(said("user", "Swim."), 2.0)
    (id,) = run(live)
    live.handle(STARTS, 2.1)
    live.handle(returned(id), 2.2)
    live.handle(said("user", "Hello?"), 2.3)

    assert lines_told(live) == ["Swim.", ["create_goal"], "Hello?"]


def test_a_call_whose_words_are_lost_with_the_agent_is_told_and_stays_in_order(live):
    live.handle(said("assistant", "Hi."), 2.0)
    live.handle(STARTS, 2.1)
    (answered,) = run(live)
    live.handle(returned(answered), 2.2)
    run(live, call("b", "create_task"))

    assert lines_told(live) == ["Hi.", ["create_goal", "create_task"]]
    live.handle(said("user", "I said: swim."), 30.0)
    assert lines_told(live) == ["Hi.", "I said: swim.", ["create_goal", "create_task"]]


def test_what_the_agent_before_heard_is_not_waited_for(live):
    live.handle(said("user", "Swim."), 2.0)
    live.handle(STARTS, 2.1)
    lines_told(live)

    (asked,) = live.handle(request(call()), 30.0)

    assert asked.after_seq == 1


@pytest.mark.parametrize(
    ("meanwhile", "after_seq"),
    [
        (deepgram.ConversationText(role="assistant", content="Did you say something?"), 1),
        (
            deepgram.ConversationText(
                role="assistant", content="Hm.", conversational_behavior="filler"
            ),
            2,
        ),
    ],
)
def test_when_the_agent_goes_on_instead_no_words_are_waited_for(live, meanwhile, after_seq):
    live.handle(STARTS, 2.0)
    live.handle(FromAgent(meanwhile), 2.1)

    (asked,) = live.handle(request(call()), 2.2)

    assert asked.after_seq == after_seq


def test_each_entry_of_a_request_is_run_once(live):
    asked = live.handle(request(call("a"), call("b"), call("a")), 2.0)
    again = live.handle(request(call("b")), 2.1)

    assert [action.call.id for action in asked] == ["a", "b"]
    assert again == []


def test_a_function_of_deepgrams_side_is_left_alone(live):
    assert live.handle(request(call(client_side=False)), 2.0) == []


def test_a_returned_function_is_answered_and_told(live):
    (id,) = run(live, call(thought_signature="sig"))

    told, answer = live.handle(returned(id), 2.5)

    assert told.event.status is IntentStatus.SUBMITTED
    assert (told.event.id, told.event.call_id) == (id, "call_1")
    assert answer.message == deepgram.FunctionCallResponse(
        id="call_1",
        name="create_goal",
        content='{"status":"submitted"}',
        thought_signature="sig",
    )


def test_an_answered_call_is_not_answered_or_run_again(live):
    (id,) = run(live)
    live.handle(returned(id), 2.5)

    assert not of(actions.SendAgent, live.handle(returned(id), 2.6))


@pytest.mark.parametrize("id", ["call_0", ""])
def test_an_id_that_was_answered_may_come_again_and_is_another_call(live, id):
    (first,) = run(live, call(id))
    live.handle(returned(first), 2.5)

    (second,) = run(live, call(id))
    _, answer = live.handle(returned(second), 2.6)

    assert second != first
    assert answer.message.id == id


@pytest.mark.parametrize(
    "other", [call("call_0", "create_task"), call("call_0", arguments='{"title": "swim"}')]
)
def test_two_open_calls_of_one_id_are_two_and_each_gets_its_answer(live, other):
    first, second = run(live, call("call_0"), other)
    answers = [*live.handle(returned(second), 2.5), *live.handle(returned(first), 2.6)]

    named = [action.message.name for action in of(actions.SendAgent, answers)]
    assert named == [other.name, "create_goal"]


def test_of_two_open_calls_of_one_id_the_newest_is_taken_back(live):
    _, second = run(live, call("call_0"), call("call_0", arguments='{"title": "swim"}'))
    gone = deepgram.FunctionCallCancelled(functions=[call("call_0")])

    assert live.handle(FromAgent(gone), 2.1) == [actions.CancelFunction(second)]


def test_the_name_says_which_of_two_open_calls_of_one_id_is_taken_back(live):
    first, _ = run(live, call(""), call("", "create_task"))
    gone = deepgram.FunctionCallCancelled(functions=[call("")])

    assert live.handle(FromAgent(gone), 2.1) == [actions.CancelFunction(first)]


def test_entries_that_nobody_can_answer_are_noted_and_the_others_are_run(live):
    broken = deepgram.FunctionCallRequest(functions=[call()], unreadable=2)
    note, asked = live.handle(FromAgent(broken), 2.0)

    assert note == actions.Note("agent_malformed", "FunctionCallRequest: 2 entries without an id")
    assert asked.call == call()


def test_a_request_that_never_ends_is_answered_up_to_a_bound(live):
    asked = live.handle(request(*(call(f"call_{i}") for i in range(2 * MAX_REQUESTED))), 2.0)

    assert len(asked) == MAX_REQUESTED


def test_arguments_that_were_too_long_are_not_told_to_the_next_agent(live):
    (id,) = run(live, call(arguments="x" * (MAX_LENGTH + 1)))
    live.handle(returned(id, IntentStatus.REJECTED), 2.1)
    live.handle(AgentClosed(1006, ""), 3.0)
    live.handle(Woken(0), live.deadline)
    live.handle(AgentOpened(), 9.0)
    (sent,) = of(
        actions.SendSettings, live.handle(FromAgent(deepgram.Welcome(request_id="r")), 9.1)
    )

    (line,) = sent.settings.flags["told"]
    assert line.function_calls[0].arguments == "{}"


def test_a_started_function_is_told_as_submitting(live):
    (id,) = run(live)

    (told,) = live.handle(started(id), 2.1)

    assert told.event.status is IntentStatus.SUBMITTING


def test_a_cancelled_call_is_not_answered_but_its_outcome_is_told(live):
    (id,) = run(live)
    cancelled = deepgram.FunctionCallCancelled(functions=[call("call_1"), call("other")])

    assert live.handle(FromAgent(cancelled), 2.2) == [actions.CancelFunction(id)]
    asked = live.handle(returned(id), 2.5)

    assert of(actions.SendBrowser, asked)
    assert not of(actions.SendAgent, asked)


# --- what becomes of a call later -------------------------------------------------------------


def heard(id, status, content, **more):
    return FunctionReturned(shown(id, status, **more), content)


def news(asked):
    """What an agent is told of functions that were called before."""
    prompts = [
        action.message.prompt
        for action in of(actions.SendAgent, asked)
        if isinstance(action.message, deepgram.UpdatePrompt)
    ]
    return [json.loads(prompt.removeprefix("\n" + HEAD)) for prompt in prompts]


def responses_told(session):
    """The answers to calls that the next agent is told."""
    lines = told_lines(session)
    return [called.response for line in lines for called in line.function_calls or []]


def told_lines(session):
    session.handle(AgentClosed(1006, ""), 50.0)
    (settings,) = of(actions.SendSettings, come_back(session, session.deadline))
    return settings.settings.flags["told"]


SAVED = '{"status":"saved"}'
TAKEN_BACK = FromAgent(deepgram.FunctionCallCancelled(functions=[call("call_1")]))


def test_an_agent_that_was_told_saved_hears_the_outcome_once(live):
    (id,) = run(live)
    live.handle(heard(id, IntentStatus.SUBMITTING, SAVED), 2.1)

    asked = live.handle(heard(id, IntentStatus.SUBMITTED, "done"), 9.0)
    again = live.handle(heard(id, IntentStatus.SUBMITTED, "done"), 9.1)

    assert news(asked) == [{"function": "create_goal", "arguments": "{}", "outcome": "done"}]
    assert of(actions.SendBrowser, asked)
    assert news(again) == []
    assert responses_told(live) == ["done"]


def test_what_is_still_under_way_is_not_news_for_the_agent(live):
    (id,) = run(live)
    live.handle(heard(id, IntentStatus.AWAITING, "wait"), 2.1)

    assert news(live.handle(heard(id, IntentStatus.SUBMITTING, "confirmed"), 3.0)) == []
    assert responses_told(live) == ["wait"]


def test_news_while_there_is_no_agent_is_in_the_history_of_the_next(live):
    (id,) = run(live)
    live.handle(heard(id, IntentStatus.SUBMITTING, SAVED), 2.1)
    live.handle(AgentClosed(1006, ""), 3.0)

    asked = live.handle(heard(id, IntentStatus.SUBMITTED, "done"), 3.1)

    assert news(asked) == []
    back = come_back(live, live.deadline)
    (settings,) = of(actions.SendSettings, back)
    assert settings.settings.flags["told"][0].function_calls[0].response == "done"
    assert news(back) == []


def test_news_while_settings_are_applied_is_told_when_the_agent_listens(live):
    (id,) = run(live)
    live.handle(heard(id, IntentStatus.SUBMITTING, SAVED), 2.1)
    live.handle(AgentClosed(1006, ""), 3.0)
    now = live.deadline
    live.handle(Woken(0), now)
    live.handle(AgentOpened(), now)
    live.handle(FromAgent(deepgram.Welcome(request_id="s")), now)

    assert news(live.handle(heard(id, IntentStatus.SUBMITTED, "done"), now)) == []
    applied = live.handle(FromAgent(deepgram.SettingsApplied()), now)

    assert [told["outcome"] for told in news(applied)] == ["done"]


def test_that_the_agent_has_heard_the_news_is_not_for_the_browser(live):
    (id,) = run(live)
    live.handle(heard(id, IntentStatus.SUBMITTING, SAVED), 3.0)
    assert news(live.handle(heard(id, IntentStatus.SUBMITTED, "done"), 4.0))
    updated = FromAgent(deepgram.PromptUpdated())

    assert live.handle(updated, 5.0) == []
    assert live.handle(updated, 6.0) == [actions.Forward()]


def test_news_is_cut_and_there_is_an_end_of_it_for_one_agent(live):
    told = []
    for number in range(20):
        (id,) = run(live, call(f"call_{number}", arguments="a" * 900))
        live.handle(heard(id, IntentStatus.SUBMITTING, SAVED), 3.0)
        asked = live.handle(heard(id, IntentStatus.FAILED, "x" * 900), 3.0)
        told += [
            action.message.prompt
            for action in of(actions.SendAgent, asked)
            if isinstance(action.message, deepgram.UpdatePrompt)
        ]

    assert 2 <= len(told) < 20
    assert sum(map(len, told)) <= LONGEST_NEWS
    assert len(responses_told(live)) == 20
    (id,) = run(live, call("later"), now=60.0)
    live.handle(heard(id, IntentStatus.SUBMITTING, SAVED), 61.0)
    assert news(live.handle(heard(id, IntentStatus.SUBMITTED, "done"), 62.0)), "another agent"


def test_an_answered_call_may_be_taken_back_and_the_next_agent_is_not_told_of_it(live):
    (id,) = run(live)
    live.handle(returned(id), 2.1)

    asked = live.handle(TAKEN_BACK, 2.2)

    assert asked == [actions.CancelFunction(id)]
    assert live.handle(TAKEN_BACK, 2.3) == [], "once"
    assert news(live.handle(heard(id, IntentStatus.CANCELLED, ""), 2.4)) == []
    assert responses_told(live) == []


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_call_that_was_carried_out_although_it_was_taken_back_is_told(live, is_answered):
    (id,) = run(live)
    if is_answered:
        live.handle(returned(id), 2.1)
    live.handle(TAKEN_BACK, 2.2)

    done = heard(id, IntentStatus.SUBMITTED, "carried out", taken_back=True)
    asked = live.handle(done, 2.4)

    assert [told["outcome"] for told in news(asked)] == ["carried out"]
    assert responses_told(live) == ["carried out"]


def test_one_of_several_calls_that_were_answered_together_is_taken_back(live):
    one, other = run(live, call("call_1"), call("call_2"))
    live.handle(AgentClosed(1006, ""), 2.1)  # both are told in one line
    live.handle(returned(one), 2.2)
    come_back(live, live.deadline)
    live.handle(heard(other, IntentStatus.SUBMITTED, "late"), 8.0)

    assert live.handle(TAKEN_BACK, 8.1) == [], "this agent did not ask for it"
    assert responses_told(live) == ['{"status":"submitted"}', "late"]


def test_a_call_whose_words_are_still_to_come_may_be_taken_back_when_it_was_answered(live):
    live.handle(FromAgent(deepgram.UserStartedSpeaking()), 2.0)
    (id,) = run(live)
    live.handle(returned(id), 2.1)

    assert live.handle(TAKEN_BACK, 2.2) == [actions.CancelFunction(id)]
    live.handle(said("user"), 2.5)

    assert responses_told(live) == []


def test_calls_of_which_news_may_come_are_bounded(live):
    ids = []
    for number in range(MAX_TOLD + 1):
        ids += run(live, call(f"call_{number}"))
        live.handle(heard(ids[-1], IntentStatus.SUBMITTING, SAVED), 3.0)

    assert news(live.handle(heard(ids[0], IntentStatus.SUBMITTED, "done"), 4.0)) == []
    assert news(live.handle(heard(ids[1], IntentStatus.SUBMITTED, "done"), 4.0))


# --- the user decides -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "wanted"),
    [(relay_events.RelayConfirm, "submit"), (relay_events.RelayCancel, "cancel")],
)
def test_the_user_decides_about_a_call_that_waits_once(live, decision, wanted):
    (id,) = run(live)
    asked = live.handle(heard(id, IntentStatus.AWAITING, "wait"), 2.1)
    assert [action.message.content for action in of(actions.SendAgent, asked)] == ["wait"]

    assert live.handle(FromBrowser(decision(id=id)), 3.0) == [actions.DecideCall(id, wanted)]

    (refused,) = live.handle(FromBrowser(decision(id=id)), 3.1)
    assert refused.code == "not_waiting"


@pytest.mark.parametrize("status", [None, IntentStatus.SUBMITTING, IntentStatus.CANCELLED])
def test_a_call_that_does_not_wait_is_not_decided(live, status):
    (id,) = run(live)
    if status is not None:
        live.handle(heard(id, IntentStatus.AWAITING, "wait"), 2.1)
        live.handle(heard(id, status, "timed out"), 2.2)

    (refused,) = live.handle(FromBrowser(relay_events.RelayConfirm(id=id)), 3.0)

    assert refused.error.code == "not_waiting"


def test_when_a_reply_was_heard_is_a_figure_and_goes_no_further(live):
    told = FromBrowser(relay_events.RelayPlayout(seconds=0.18))

    assert live.handle(told, 2.0) == [actions.PlayedOut(0.18)]


def test_a_call_that_waited_before_this_session_is_decided_and_its_outcome_told(admitted, settings):
    stored = IntentCalled(
        id=UUID(int=7),
        conversation_id=admitted.conversation_id,
        session_id=UUID(int=8),
        call_id="call_1",
        after_seq=0,
        function="create_goal",
        intent="GOAL",
        arguments="{}",
        status=IntentStatus.AWAITING,
        attempts=0,
        at=BEGAN,
        response="wait",
    )
    finished = deepgram.FinishedCall(
        id="call_1", name="create_goal", client_side=True, arguments="{}", response="wait"
    )
    history = [
        deepgram.History(role="user", content="Hello."),
        deepgram.History(function_calls=[finished]),
    ]
    admitted = msgspec.structs.replace(admitted, open_calls=[stored], history=history)
    session = make_session(admitted, settings)
    for event in (AgentOpened(), WELCOME, FromAgent(deepgram.SettingsApplied())):
        session.handle(event, 0.5)

    decided = session.handle(FromBrowser(relay_events.RelayCancel(id=UUID(int=7))), 1.0)
    asked = session.handle(heard(UUID(int=7), IntentStatus.CANCELLED, "declined"), 1.1)

    assert decided == [actions.DecideCall(UUID(int=7), "cancel")]
    assert [told["outcome"] for told in news(asked)] == ["declined"]
    assert responses_told(session) == ["declined"]


def test_a_slow_function_is_bridged_by_words_once(live):
    (id,) = run(live)
    live.handle(started(id, say="One moment.", say_after=1.5), 2.0)
    assert live.deadline == 3.5

    asked = live.handle(Woken(1), 3.5)
    again = live.handle(Woken(1), 3.6)

    filler = deepgram.InjectAgentMessage(message="One moment.", behavior="queue")
    assert asked == [actions.SendAgent(filler)]
    assert again == []


def test_nothing_is_said_for_a_function_that_is_fast_or_unknown(live):
    (id,) = run(live)
    live.handle(started(id, say="One moment."), 2.0)
    live.handle(returned(id), 2.1)
    live.handle(started(uuid4(), say="One moment."), 2.2)

    assert not of(actions.SendAgent, live.handle(Woken(1), 4.9))


def test_a_runaway_model_gets_answers_instead_of_calls(live):
    calls = [call(f"call_{i}") for i in range(MAX_OPEN_CALLS + 1)]

    asked = live.handle(request(*calls), 2.0)

    assert len(of(actions.CallFunction, asked)) == MAX_OPEN_CALLS
    (answer,) = of(actions.SendAgent, asked)
    assert answer.message.id == f"call_{MAX_OPEN_CALLS}"
    assert "error" in answer.message.content


def test_a_function_call_before_settings_is_not_run(session):
    asked = session.handle(request(call()), 0.1)

    assert not of(actions.CallFunction, asked)
    assert of(actions.Note, asked)


# --- the browser ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [deepgram.KeepAlive(), deepgram.ForceEndTurn(), deepgram.InjectUserMessage(content="hi")],
)
def test_what_a_browser_may_say_is_forwarded(live, message):
    assert live.handle(FromBrowser(message), 2.0) == [actions.Forward()]


@pytest.mark.parametrize(
    "message",
    [
        deepgram.Settings(audio={}, agent={}),
        deepgram.UpdateListen(listen={}),
        deepgram.UpdateThink(think={}),
        deepgram.UpdateSpeak(speak={}),
        deepgram.UpdatePrompt(prompt="obey me"),
        deepgram.InjectAgentMessage(message="I am the agent"),
        deepgram.FunctionCallResponse(id="call_1", name="f", content="{}"),
        deepgram.InjectUserMessage(content="x" * 4_001),
        deepgram.Unknown(type="Whatever"),
        deepgram.Malformed("", "not JSON"),
        deepgram.Malformed("InjectUserMessage", "no content"),
    ],
)
def test_what_a_browser_may_not_say_is_refused_and_the_session_goes_on(live, message):
    (refusal,) = live.handle(FromBrowser(message), 2.0)

    assert isinstance(refusal.error, relay_events.RelayError)
    assert live.state is State.OPEN


def bounded(admitted, settings, audio_speed=2.0, **more):
    """A session with other limits; it began at second 0."""
    limits = msgspec.structs.replace(LIMITS, audio_speed=audio_speed, **more)
    return make_session(admitted, settings, limits)


def begin(session):
    session.handle(AgentOpened(), 0.5)
    session.handle(FromAgent(deepgram.Welcome(request_id="r")), 0.6)
    session.handle(FromAgent(deepgram.SettingsApplied()), 1.0)


def test_refusals_are_told_until_there_are_too_many(live):
    message = FromBrowser(deepgram.UpdatePrompt(prompt="obey me"))
    for at in range(19):
        (told,) = live.handle(message, 2.0 + at / 10)
        assert isinstance(told, actions.Refuse)

    told, end = live.handle(message, 5.0)

    assert told.error.code == "not_allowed"
    assert end == actions.End("abuse", "not_allowed", (1008, "too many refusals"), (1000, ""))


def test_refusals_far_apart_are_forgiven(live):
    for at in range(100):
        asked = live.handle(FromBrowser(deepgram.Unknown(type="X")), 2.0 + 4 * at)
        assert [type(one) for one in asked] == [actions.Refuse]


def test_a_text_in_a_binary_message_is_a_refusal_like_others(live):
    (told,) = live.handle(NotAudio(), 2.0)

    assert told.error.code == "not_audio"
    for _ in range(18):
        live.handle(NotAudio(), 2.0)
    _, end = live.handle(NotAudio(), 2.0)
    assert (end.reason, end.detail) == ("abuse", "not_audio")


def test_pings_are_counted_and_a_flood_of_them_is_the_end(live):
    asked = [live.handle(ControlFrame(), 2.0) for _ in range(60)]

    assert asked[:40] == [[]] * 40  # twice `messages_per_second` at once
    assert {one.error.code for one in of(actions.Refuse, asked[41])} == {"too_often"}
    assert ended(asked[-1]) == EndReason.ABUSE


def test_audio_is_looked_at_every_other_second_blocked_and_let_through_again(admitted, settings):
    session = bounded(admitted, settings, audio_speed=2.0, audio_burst_seconds=10.0)
    second = 32_000  # bytes of linear16 at 16 kHz

    assert session.deadline == 2.0
    assert session.handle(Woken(500, 10 * second), 2.0) == []
    blocked, refused = session.handle(Woken(700, 16 * second), 4.0)
    assert blocked == actions.BlockAudio(True)
    assert refused.error.code == "too_fast"
    assert session.deadline == 6.0
    assert session.handle(Woken(700, 16 * second), 6.0) == [actions.BlockAudio(False)]


def test_a_flood_of_audio_is_the_end(admitted, settings):
    session = bounded(admitted, settings)

    (end,) = session.handle(Woken(10, 1 << 30), 2.0)

    assert end == actions.End("abuse", "flood", (1008, "too many refusals"), (1000, ""))


def test_a_session_in_which_nobody_speaks_is_told_and_ends(admitted, settings):
    session = bounded(admitted, settings, audio_speed=0, idle_seconds=100.0)
    begin(session)

    assert session.deadline <= 70.0
    (notice,) = of(actions.SendBrowser, session.handle(Woken(0), 70.0))
    assert notice.event == relay_events.RelayNotice(code="idle", ends_in=30.0)
    said = deepgram.ConversationText(role="user", content="I am here.")
    session.handle(FromAgent(said), 99.0)
    assert of(actions.End, session.handle(Woken(0), 100.0)) == []
    assert of(actions.SendBrowser, session.handle(Woken(0), 169.0))
    (end,) = session.handle(Woken(0), 199.0)
    assert end == actions.End("idle", "", (1000, "idle"), (1000, ""))


def test_a_session_ends_with_the_minutes_of_the_day_as_it_hears_last(admitted, settings):
    admitted = msgspec.structs.replace(admitted, seconds=500.0)
    session = bounded(admitted, settings, audio_speed=0)
    begin(session)

    assert session.handle(Allowed(90.0), 10.0) == []
    (notice,) = of(actions.SendBrowser, session.handle(Woken(0), 70.0))
    assert notice.event == relay_events.RelayNotice(code="daily_minutes", ends_in=30.0)
    (end,) = session.handle(Woken(0), 100.0)
    words = 1000, "minutes of the day used up"
    assert end == actions.End("daily_minutes", "", words, (1000, ""))


def test_a_session_that_is_as_long_as_one_may_be_is_told_and_ends(admitted, settings):
    session = bounded(admitted, settings, audio_speed=0, session_seconds=100.0)
    begin(session)

    (notice,) = of(actions.SendBrowser, session.handle(Woken(0), 70.0))
    assert notice.event == relay_events.RelayNotice(code="longest", ends_in=30.0)
    said = deepgram.ConversationText(role="user", content="I am here.")
    session.handle(FromAgent(said), 99.0)
    asked = session.handle(Woken(0), 100.0)
    assert ended(asked) == EndReason.LONGEST


# --- time -------------------------------------------------------------------------------------


def test_a_silent_browser_is_kept_alive(live):
    assert live.deadline == 1.0 + KEEPALIVE_CHECK

    asked = live.handle(Woken(0), 1.0 + KEEPALIVE_CHECK)

    assert asked == [actions.KeepAgentAlive()]
    assert live.deadline == 1.0 + 2 * KEEPALIVE_CHECK


def test_a_speaking_browser_needs_no_keepalive(live):
    assert live.handle(Woken(200), 1.0 + KEEPALIVE_CHECK) == []


# --- the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "reason", "codes"),
    [
        (BrowserClosed(1000, "bye"), EndReason.BROWSER_LEFT, (1000, 1000)),
        (BrowserClosed(1005, ""), EndReason.BROWSER_LEFT, (1000, 1000)),
        (BrowserClosed(4001, "own"), EndReason.BROWSER_LEFT, (4001, 4001)),
        (AgentClosed(1000, "done"), EndReason.AGENT_LEFT, (1000, 1000)),
        (AgentClosed(4321, "own"), EndReason.AGENT_LEFT, (4321, 1000)),
        (HangUp(EndReason.HUNG_UP), EndReason.HUNG_UP, (1000, 1000)),
        (HangUp(EndReason.SUPERSEDED), EndReason.SUPERSEDED, (1000, 1000)),
        (HangUp(EndReason.SHUTDOWN), EndReason.SHUTDOWN, (1012, 1000)),
        (HangUp(EndReason.BROWSER_LOST), EndReason.BROWSER_LOST, (1000, 1000)),
        (HangUp(EndReason.AGENT_TOO_SLOW), EndReason.AGENT_TOO_SLOW, (1014, 1000)),
        (HangUp(EndReason.INTERNAL_ERROR), EndReason.INTERNAL_ERROR, (1011, 1000)),
    ],
)
def test_both_legs_are_closed_with_codes_that_may_be_sent(live, event, reason, codes):
    asked = live.handle(event, 2.0)

    assert ended(asked) == reason
    assert closes(asked) == codes
    assert live.state is State.CLOSED
    assert live.deadline is None


def test_a_close_reason_is_cut_to_what_a_frame_holds(live):
    asked = live.handle(AgentClosed(1000, "ä" * 100), 2.0)

    assert asked[-1].browser == (1000, "ä" * 61)


def test_an_agents_error_ends_the_session_and_its_description_stays_with_us(live):
    message = deepgram.Error(code="INVALID_SETTINGS", description="secret prompt is bad")

    asked = live.handle(FromAgent(message), 2.0)

    (told,) = of(actions.SendBrowser, asked)
    assert told.event.code == "INVALID_SETTINGS"
    assert "secret" not in told.event.description
    assert ended(asked) == EndReason.AGENT_ERROR
    assert asked[-1].browser == (1011, "INVALID_SETTINGS")


def test_a_closed_session_asks_for_nothing_more(live):
    live.handle(BrowserClosed(1000, ""), 2.0)

    for event in [said("user"), returned(uuid4()), AgentClosed(1000, ""), Woken(0)]:
        assert live.handle(event, 3.0) == []


def test_a_session_describes_itself(live):
    assert repr(live) == "<Session OPEN calls=0 last_seq=0>"


# --- the browser is lost ----------------------------------------------------------------------

GRACE = LIMITS.grace_seconds


def told_ticket(asked):
    (told,) = [a.event for a in of(actions.SendBrowser, asked) if hasattr(a.event, "resume_ticket")]
    return told.resume_ticket


@pytest.mark.parametrize(
    ("event", "reason", "codes"),
    [
        (BrowserClosed(1001, ""), EndReason.BROWSER_LEFT, (1001, 1001)),
        (BrowserClosed(1009, "too big"), EndReason.BROWSER_LEFT, (1009, 1000)),
        (BrowserClosed(1006, ""), EndReason.BROWSER_LOST, (1000, 1000)),
        (HangUp(EndReason.BROWSER_TOO_SLOW), EndReason.BROWSER_TOO_SLOW, (1008, 1000)),
    ],
)
def test_without_a_grace_time_a_browser_that_is_lost_ends_the_session(
    admitted, settings, event, reason, codes
):
    session = make_session(admitted, settings, msgspec.structs.replace(LIMITS, grace_seconds=0.0))
    (ticket,) = [told_ticket(session.begin())]

    assert not session.admits(ticket, 0)
    asked = session.handle(event, 2.0)

    assert ended(asked) == reason
    assert closes(asked) == codes


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (BrowserClosed(1001, ""), 1001),
        (BrowserClosed(1006, ""), 1000),
        (BrowserClosed(1011, "a proxy"), 1011),
        (HangUp(EndReason.BROWSER_TOO_SLOW), 1008),
    ],
)
def test_a_browser_that_is_lost_is_waited_for(live, event, code):
    asked = live.handle(event, 2.0)

    (detach,) = of(actions.DetachBrowser, asked)
    assert detach.code == code
    assert [note.what for note in of(actions.Note, asked)] == ["browser_away"]
    assert not of(actions.End, asked)


def test_a_browser_that_does_not_come_back_ends_the_session(live):
    live.handle(BrowserClosed(1006, ""), 2.0)
    now = 2.0
    while live.state is not State.CLOSED:
        assert live.deadline <= 2.0 + GRACE
        now = live.deadline
        asked = live.handle(Woken(0), now)

    assert now == 2.0 + GRACE
    assert ended(asked) == EndReason.BROWSER_LOST
    assert closes(asked) == (1000, 1000)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_browser_that_is_lost_during_the_set_up_is_waited_for_too(session, steps):
    session.begin()
    session.handle(BrowserClosed(1006, ""), 0.1)
    for event in [
        AgentOpened(),
        FromAgent(deepgram.Welcome(request_id="r")),
        FromAgent(deepgram.SettingsApplied()),
    ][:steps]:
        session.handle(event, 0.2)

    assert session.state is not State.CLOSED
    assert session.deadline <= 0.1 + GRACE


def test_the_agent_is_kept_alive_while_the_browser_is_away(live):
    live.handle(Woken(5), 5.0)
    live.handle(BrowserClosed(1006, ""), 6.0)

    asked = live.handle(Woken(5), 10.0)

    assert actions.KeepAgentAlive() in asked


def test_a_browser_that_comes_back_is_told_its_session_then_what_it_missed(live, admitted):
    live.handle(BrowserClosed(1006, ""), 2.0)
    assert live.admits("ticket-1", 5)
    live.handle(BrowserReturning(), 3.0)

    introduced, replay, _ = live.handle(BrowserAttached("ticket-1", 7, 5), 3.1)

    assert introduced.event == relay_events.RelaySession(
        session_id=admitted.session_id,
        conversation_id=admitted.conversation_id,
        resume_ticket="ticket-2",
        resume_within=GRACE,
    )
    assert replay == actions.Replay(7)
    assert live.deadline < 2.0 + GRACE
    assert not of(actions.End, live.handle(Woken(0), 2.0 + GRACE + 1)), "it is here"


def taken_over(admitted, settings):
    """A session that another relay had before."""
    messages = [
        relay_events.StoredMessage(seq=7, message_id=UUID(int=9), role="user", content="Hi.")
    ]
    return make_session(
        msgspec.structs.replace(
            admitted,
            last_seq=7,
            last_turn=4,
            epoch=2,
            resume_ticket="ours",
            takeover=Takeover(ticket="theirs", messages=messages),
        ),
        settings,
    )


def test_a_browser_from_another_relay_is_told_what_it_may_not_have(admitted, settings):
    session = taken_over(admitted, settings)

    introduced, dial = session.begin()

    assert introduced.event == relay_events.RelaySession(
        session_id=admitted.session_id,
        conversation_id=admitted.conversation_id,
        resume_ticket="ours",
        resume_within=GRACE,
        last_seq=7,
        taken_over=True,
        messages=[
            relay_events.StoredMessage(seq=7, message_id=UUID(int=9), role="user", content="Hi.")
        ],
    )
    assert dial == actions.DialAgent()


def test_an_agent_after_a_takeover_is_not_introduced_but_said_to_be_back(admitted, settings):
    session = taken_over(admitted, settings)
    asked = session.handle(AgentOpened(), 0.1)
    asked += session.handle(FromAgent(deepgram.Welcome(request_id="r")), 0.2)
    asked += session.handle(FromAgent(deepgram.SettingsApplied()), 0.3)

    assert not of(actions.Forward, asked)
    assert actions.SendBrowser(relay_events.RelayReconnected()) in asked
    store, _ = session.handle(said("assistant"), 1.0)
    assert (store.message.seq, store.message.epoch) == (8, 2)


def test_a_browser_that_did_not_get_that_comes_again_with_the_ticket_it_brought(admitted, settings):
    session = taken_over(admitted, settings)
    session.handle(BrowserClosed(1006, ""), 2.0)

    assert session.admits("theirs", 0)
    introduced, replay, _ = session.handle(BrowserAttached("theirs", 0, 0), 3.0)
    assert introduced.event.taken_over
    assert len(introduced.event.messages) == 1
    assert replay == actions.Replay(0)

    again, *_ = session.handle(BrowserAttached(introduced.event.resume_ticket, 3, 0), 4.0)
    assert not again.event.taken_over
    assert again.event.last_seq is None


def test_a_browser_that_comes_back_twice_lets_go_of_its_first_socket(live):
    asked = live.handle(BrowserReturning(), 3.0)

    assert asked == [actions.DetachBrowser(1000, "continued elsewhere")]


def test_a_browser_whose_new_socket_never_opens_is_given_up(live):
    live.handle(BrowserReturning(), 3.0)

    asked = live.handle(Woken(0), 3.0 + GRACE)

    assert ended(asked) == EndReason.BROWSER_LOST


def test_a_reply_that_nobody_hears_is_not_measured(live):
    live.handle(BrowserClosed(1006, ""), 2.0)

    asked = live.handle(said("user"), 2.1)

    assert [type(action) for action in asked] == [actions.Store, actions.Forward]


def test_the_agent_may_be_lost_and_replaced_while_the_browser_is_away(live):
    live.handle(BrowserClosed(1006, ""), 2.0)
    live.handle(AgentClosed(1006, ""), 3.0)

    asked = come_back(live, live.deadline)

    assert actions.SendBrowser(relay_events.RelayReconnected()) in asked
    assert live.state is State.OPEN


def test_a_function_is_answered_while_the_browser_is_away(live):
    (id,) = run(live, now=1.5)
    live.handle(BrowserClosed(1006, ""), 2.0)

    asked = live.handle(returned(id), 2.5)

    assert of(actions.SendAgent, asked)
    assert of(actions.SendBrowser, asked), "it is kept"


def test_nobody_is_let_into_a_session_that_is_over(live):
    live.handle(HangUp(EndReason.HUNG_UP), 2.0)

    assert not live.admits("ticket-1", 0)


def test_typing_uses_a_ticket_up_as_speaking_does(live):
    live.handle(BrowserAttached("ticket-1", 0, 5), 2.0)
    assert live.admits("ticket-1", 5)

    live.handle(FromBrowser(deepgram.KeepAlive()), 2.1)

    assert not live.admits("ticket-1", 5)


# --- the agent is lost ------------------------------------------------------------------------


def come_back(session, now):
    """The next agent is dialled, welcomes and applies; what was asked for on the way."""
    asked = session.handle(Woken(0), now)
    asked += session.handle(AgentOpened(), now + 0.1)
    asked += session.handle(FromAgent(deepgram.Welcome(request_id="r2")), now + 0.2)
    asked += session.handle(FromAgent(deepgram.SettingsApplied()), now + 0.3)
    return asked


@pytest.mark.parametrize(
    "loss",
    [
        AgentClosed(1006, ""),
        AgentClosed(1005, ""),
        AgentClosed(1011, "oops"),
        AgentClosed(1012, "restart"),
        # What it blames came from us, and never from the browser.
        *(AgentClosed(code, "oops") for code in (1002, 1003, 1007, 1008, 1009)),
        FromAgent(deepgram.Error(code="INTERNAL_SERVER_ERROR", description="oops")),
        FromAgent(deepgram.Error(code="SOMETHING_NEW", description="oops")),
    ],
)
def test_a_lost_agent_is_dialled_again_and_told_the_history(live, loss):
    live.handle(said("user", "Hello."), 2.0)
    live.handle(said("assistant", "Hi."), 3.0)
    live.handle(FromAgent(deepgram.AgentAudioDone()), 3.5)

    lost = live.handle(loss, 4.0)
    wait = live.deadline
    asked = come_back(live, wait)

    assert lost[0] == actions.DropAgent()
    assert actions.SendBrowser(relay_events.RelayReconnecting()) in lost
    assert not of(actions.End, lost)
    assert 4.0 < wait < 5.0
    assert actions.DialAgent() in asked
    (settings,) = of(actions.SendSettings, asked)
    assert [line.content for line in settings.settings.flags["told"]] == ["Hello.", "Hi."]
    assert actions.SendBrowser(relay_events.RelayReconnected()) in asked
    assert of(actions.ReleaseHeld, asked)
    assert not of(actions.Forward, asked), "no second Welcome or SettingsApplied"
    assert live.state is State.OPEN


def test_the_numbering_goes_on_with_the_next_agent(live):
    live.handle(said("assistant"), 2.0)
    live.handle(AgentClosed(1006, ""), 3.0)
    come_back(live, 4.0)

    (store, *_) = live.handle(said("user"), 5.0)

    assert (store.message.seq, store.message.turn) == (2, 2)


def test_finished_calls_are_part_of_what_the_next_agent_is_told(live):
    (id,) = run(live)
    live.handle(returned(id), 2.5)
    live.handle(AgentClosed(1006, ""), 3.0)

    (settings,) = of(actions.SendSettings, come_back(live, 4.0))

    (line,) = settings.settings.flags["told"]
    (finished,) = line.function_calls
    assert (finished.id, finished.response) == ("call_1", '{"status":"submitted"}')


@pytest.mark.parametrize("in_time", [True, False])
def test_a_call_that_was_open_is_neither_asked_again_nor_answered_to_a_stranger(live, in_time):
    (id,) = run(live)
    live.handle(AgentClosed(1006, ""), 2.5)
    asked = []
    if in_time:
        asked += live.handle(returned(id), 2.6)
    back = come_back(live, 4.0)
    if not in_time:
        asked += live.handle(returned(id), 5.0)

    told = [each.message for each in of(actions.SendAgent, asked + back)]
    assert len(told) == (not in_time)
    assert all(isinstance(each, deepgram.UpdatePrompt) for each in told), "it did not ask for it"
    assert of(actions.SendBrowser, asked), "the browser hears of it all the same"
    (settings,) = of(actions.SendSettings, back)
    (finished,) = settings.settings.flags["told"][0].function_calls
    assert finished.id == "call_1"
    assert ('"status":"submitted"' in finished.response) == in_time


def test_the_next_agent_that_asks_for_the_same_gets_the_answer_to_the_first(live):
    (id,) = run(live)
    live.handle(AgentClosed(1006, ""), 2.5)
    come_back(live, 4.0)

    assert live.handle(request(call()), 5.0) == []
    (answer,) = of(actions.SendAgent, live.handle(returned(id), 6.0))
    assert answer.message.id == "call_1"


def test_after_enough_tries_the_session_ends(live):
    now = 2.0
    asked = live.handle(AgentClosed(1006, ""), now)
    told = of(actions.SendBrowser, asked)
    while live.state is not State.CLOSED:
        now = live.deadline
        live.handle(Woken(0), now)
        asked = live.handle(AgentUnreachable("refused"), now)
        told += of(actions.SendBrowser, asked)

    assert ended(asked) == EndReason.AGENT_UNREACHABLE
    assert closes(asked) == (1014, 1000)
    assert [type(t.event) for t in told] == [
        relay_events.RelayReconnecting,
        relay_events.RelayError,
    ]


def test_an_agent_that_does_not_get_ready_again_is_given_up_for_another(live):
    live.handle(AgentClosed(1006, ""), 2.0)
    live.handle(Woken(0), 3.0)
    assert live.deadline == 3.0 + LIMITS.setup_seconds

    asked = live.handle(Woken(0), 3.0 + LIMITS.setup_seconds)

    assert asked[0] == actions.DropAgent()
    assert live.state is State.RETRYING


def test_an_agent_that_was_well_for_a_while_has_all_its_tries_again(live):
    now = 2.0
    for _ in range(3 * MAX_TRIES):
        live.handle(AgentClosed(1006, ""), now)
        come_back(live, live.deadline)
        assert live.state is State.OPEN
        now += STABLE_SECONDS + 10.0


def test_an_agent_that_dies_at_once_every_time_is_given_up(live):
    now, lost = 2.0, 0
    while live.state is not State.CLOSED:
        live.handle(AgentClosed(1006, ""), now)
        lost += 1
        if live.state is State.RETRYING:
            come_back(live, live.deadline)
            now = live.deadline

    assert lost == MAX_TRIES + 1


@pytest.mark.parametrize("code", sorted(FINAL_ERRORS))
def test_an_error_that_would_come_again_ends_the_session(live, code):
    asked = live.handle(FromAgent(deepgram.Error(code=code, description="x")), 2.0)

    assert ended(asked) == EndReason.AGENT_ERROR


def test_nothing_is_sent_to_an_agent_that_is_lost(live):
    live.handle(AgentClosed(1006, ""), 2.0)

    for now in (2.1, 2.2):
        assert not of(actions.SendAgent, live.handle(Woken(0), now))
    assert live.handle(FromBrowser(deepgram.KeepAlive()), 2.3) == [actions.Forward()], "it is held"


def test_what_is_remembered_is_bounded(live):
    for second in range(HISTORY_LENGTH + 10):
        live.handle(said("assistant", f"line {second}"), 2.0)
    live.handle(AgentClosed(1006, ""), 3.0)

    (settings,) = of(actions.SendSettings, come_back(live, 4.0))

    told = settings.settings.flags["told"]
    assert len(told) == HISTORY_LENGTH
    assert told[-1].content == f"line {HISTORY_LENGTH + 9}"


def test_a_mended_line_is_told_as_it_is_stored(live):
    line = deepgram.ConversationText(role="user", content="\ufffd")

    note, stored, told, reply = live.handle(FromAgent(deepgram.Mended(line, "why")), 2.0)

    assert (note.what, note.detail) == ("agent_malformed", "ConversationText: why")
    assert stored.message.content == "\ufffd"
    assert told == actions.SendBrowser(line)
    assert reply == actions.AwaitReply()


def test_what_is_said_by_the_way_stands_in_the_turn_of_the_other(live):
    def say(role, behaviour=None):
        line = deepgram.ConversationText(role=role, content="x", conversational_behavior=behaviour)
        return live.handle(FromAgent(line), 2.0)

    asked = [say("assistant", "filler"), say("user"), say("assistant", "backchannel"), say("user")]
    asked.append(say("user", "backchannel"))

    assert [of(actions.Store, each)[0].message.turn for each in asked] == [1, 2, 2, 2, 2]
    assert [bool(of(actions.AwaitReply, each)) for each in asked] == [
        False,
        True,
        False,
        True,
        False,
    ]


# --- the planned roll-over --------------------------------------------------------------------

ROLL_OVER = 1.0 + LIMITS.roll_over_seconds  # `live` applied its Settings at second 1


def test_between_two_turns_a_new_agent_takes_over_and_nobody_is_told(live):
    live.handle(Woken(0), ROLL_OVER - 1)

    asked = live.handle(Woken(0), ROLL_OVER)
    back = come_back(live, ROLL_OVER)

    assert actions.DropAgent() in asked
    assert actions.DialAgent() in asked
    assert not of(actions.SendBrowser, asked + back)
    assert not of(actions.Forward, back)
    assert live.state is State.OPEN
    assert live.handle(Woken(0), ROLL_OVER + 10) != [actions.DropAgent()]


def test_in_the_middle_of_a_turn_it_waits_for_the_end_of_it(live):
    live.handle(said("user"), ROLL_OVER - 1)
    assert actions.DropAgent() not in live.handle(Woken(0), ROLL_OVER)

    asked = live.handle(FromAgent(deepgram.AgentAudioDone()), ROLL_OVER + 5)

    assert asked == [actions.Forward(), actions.DropAgent(), actions.DialAgent()]


def test_a_turn_that_never_ends_does_not_hold_it_up_for_ever(live):
    live.handle(FromAgent(deepgram.UserStartedSpeaking()), ROLL_OVER - 1)

    asked = live.handle(Woken(0), ROLL_OVER + ROLL_OVER_PATIENCE)

    assert actions.DropAgent() in asked


def test_a_roll_over_that_fails_is_told_like_any_loss(live):
    live.handle(Woken(0), ROLL_OVER)

    asked = live.handle(AgentUnreachable("refused"), ROLL_OVER + 1)

    assert actions.SendBrowser(relay_events.RelayReconnecting()) in asked


def test_an_agent_that_ends_a_turn_early_in_its_life_stays(live):
    assert live.handle(FromAgent(deepgram.AgentAudioDone()), 2.0) == [actions.Forward()]


# --- the relay stops --------------------------------------------------------------------------


def test_between_two_turns_a_session_ends_at_once_and_says_where_to_go_on(live):
    told, *asked = live.handle(GoAway(), 2.0)

    assert told.event == relay_events.RelayGoAway(resume_ticket="ticket-1", reconnect_within=GRACE)
    assert ended(asked) == EndReason.SHUTDOWN
    assert closes(asked) == (1012, 1000)


def test_in_the_middle_of_a_turn_it_ends_after_it(live):
    live.handle(said("user"), 2.0)
    assert len(live.handle(GoAway(), 2.1)) == 1
    assert live.handle(GoAway(), 2.2) == [], "once is enough"

    asked = live.handle(FromAgent(deepgram.AgentAudioDone()), 4.0)

    assert asked[0] == actions.Forward()
    assert ended(asked) == EndReason.SHUTDOWN


def test_a_turn_that_goes_on_is_cut(live):
    live.handle(said("user"), 2.0)
    live.handle(GoAway(), 2.1)
    assert live.deadline <= 2.1 + GO_AWAY_PATIENCE

    asked = live.handle(Woken(0), 2.1 + GO_AWAY_PATIENCE)

    assert ended(asked) == EndReason.SHUTDOWN


def test_a_browser_that_is_lost_meanwhile_is_not_waited_for(live):
    live.handle(said("user"), 2.0)
    live.handle(GoAway(), 2.1)

    asked = live.handle(BrowserClosed(1006, ""), 2.2)

    assert ended(asked) == EndReason.SHUTDOWN


def test_a_browser_that_is_away_is_not_waited_for_either(live):
    live.handle(said("user"), 2.0)
    live.handle(BrowserClosed(1006, ""), 2.1)

    assert ended(live.handle(GoAway(), 2.2)) == EndReason.SHUTDOWN
