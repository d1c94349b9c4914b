"""Any order of events: what holds after each, whatever came before."""

from __future__ import annotations

import itertools
import math
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config.agent import Audio
from config.prompt import LONGEST_NEWS
from relay.core import actions
from relay.core.admitted import Admitted
from relay.core.agent_lifecycle import State
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
    FromAgent,
    FromBrowser,
    FunctionReturned,
    GoAway,
    HangUp,
    NotAudio,
    Woken,
)
from relay.core.function_calls import MAX_OPEN_CALLS
from relay.core.user_context import UserContext
from relay.protocol import deepgram, relay_events
from relay.protocol.relay_events import IntentStatus
from tests.relay.conftest import LIMITS, make_session
from tests.relay.core.test_session import call, heard, returned, started

ids = st.sampled_from(["a", "b", ""])


def about_a_call(make, place, *more, **named):
    """Makes an event of the calls asked for so far: about the one at this place, or about one that
    nobody asked for."""
    return lambda asked_for: make(
        asked_for[place] if place < len(asked_for) else UUID(int=place), *more, **named
    )


def event_of(step, asked_for):
    """The event that a step of `events` is, after these calls were asked for."""
    return step(asked_for) if callable(step) else step


places = st.integers(0, 5)
server_messages = st.one_of(
    st.builds(
        deepgram.ConversationText, role=st.sampled_from(["user", "assistant"]), content=st.text()
    ),
    st.builds(deepgram.UserStartedSpeaking),
    st.builds(
        deepgram.FunctionCallCancelled,
        functions=st.lists(st.builds(call, ids), max_size=2),
    ),
    st.builds(deepgram.PromptUpdated),
    st.builds(deepgram.Unknown, type=st.text()),
    st.builds(deepgram.Malformed, type=st.text(), reason=st.text()),
)
client_messages = st.one_of(
    st.builds(deepgram.KeepAlive),
    st.builds(deepgram.InjectUserMessage, content=st.text()),
    st.just(deepgram.Settings(audio={}, agent={})),
    st.builds(deepgram.FunctionCallResponse, id=ids, name=st.text(), content=st.text()),
    st.builds(relay_events.RelayPlayout, seconds=st.floats(0, 60)),
)
calls = st.one_of(
    st.builds(about_a_call, st.just(started), places, st.sampled_from([None, "One moment."])),
    st.builds(about_a_call, st.just(returned), places),
    st.builds(
        about_a_call,
        st.just(heard),
        places,
        st.sampled_from(IntentStatus),
        st.sampled_from(["one", "other", "x" * 500]),
        taken_back=st.booleans(),
    ),
    st.builds(
        about_a_call,
        st.sampled_from([relay_events.RelayConfirm, relay_events.RelayCancel]).map(
            lambda kind: lambda id: FromBrowser(kind(id=id))
        ),
        places,
    ),
)
requests = st.builds(
    deepgram.FunctionCallRequest,
    functions=st.lists(
        st.builds(call, ids, client_side=st.sampled_from([True, True, False])),
        min_size=1,
        max_size=MAX_OPEN_CALLS + 2,
    ),
)
what_is_said = st.one_of(
    st.builds(FromAgent, server_messages),
    st.builds(FromBrowser, client_messages),
    st.builds(Woken, st.integers(0, 3), st.integers(0, 3)),
    st.builds(BrowserAttached, st.just("ticket"), st.integers(0, 9), st.integers(0, 3)),
    st.builds(Allowed, st.sampled_from([None, 0.0, 40.0])),
)
comings = st.one_of(
    st.builds(ContextLearned, st.sampled_from([None, UserContext(names=["Ada"])])),
    st.builds(AgentOpened),
    st.builds(FromAgent, st.builds(deepgram.Welcome, request_id=st.just("r"))),
    st.builds(FromAgent, st.builds(deepgram.SettingsApplied)),
)
losses = st.one_of(
    st.builds(NotAudio),
    st.builds(ControlFrame),
    st.builds(FromAgent, st.builds(deepgram.Error, code=st.just("X"))),
    st.builds(AgentUnreachable, st.text(), st.booleans()),
    st.builds(AgentClosed, st.sampled_from([1000, 1002, 1006, 1009, 4000]), st.text()),
    st.builds(BrowserClosed, st.sampled_from([1000, 1001, 1005, 1006]), st.text()),
    st.builds(BrowserReturning),
    st.builds(GoAway),
    st.builds(HangUp, st.sampled_from([EndReason.HUNG_UP, EndReason.BROWSER_TOO_SLOW])),
)
# Most of a session is talk: where each event were as likely, few would outlive ten of them.
events = st.sampled_from(
    [what_is_said] * 4 + [requests.map(FromAgent)] * 2 + [calls] * 5 + [comings] * 3 + [losses]
).flatmap(lambda kind: kind)
OPENING = Admitted(
    session_id=UUID(int=1),
    conversation_id=UUID(int=2),
    user_id="user",
    timezone="UTC",
    audio=Audio(),
)


@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from(
        [
            LIMITS,
            msgspec.structs.replace(
                LIMITS, audio_speed=2.0, idle_seconds=20.0, session_seconds=60.0
            ),
        ]
    ),
    st.lists(st.tuples(events, st.floats(0, 5)), min_size=10, max_size=60),
)
@hypothesis_settings(max_examples=400, deadline=None)
@pytest.mark.timeout(300)  # what fails is made small first
def test_any_interleaving_keeps_the_invariants(begun, asks, limits, steps):
    session = make_session(OPENING, deepgram.Settings(audio={}, agent={}), limits, asks=asks)
    if begun:
        opening_steps = [
            ContextLearned(None),
            AgentOpened(),
            FromAgent(deepgram.Welcome(request_id="r")),
            FromAgent(deepgram.SettingsApplied()),
        ]
        steps = [(event, 0.0) for event in opening_steps] + steps
    now, settings_sent, released, closed = 0.0, False, False, False
    asked_for, unanswered, seqs, waiting, prompted = [], [], [], set(), 0
    for step, passed in steps:
        event = event_of(step, asked_for)
        now += passed
        match event:
            case FromAgent(deepgram.FunctionCallRequest(functions=functions)):
                unanswered += [call.id for call in functions]
        if isinstance(event, FunctionReturned):
            is_waiting = event.shown.status is IntentStatus.AWAITING and not closed
            (waiting.add if is_waiting else waiting.discard)(event.shown.id)
        for action in session.handle(event, now):
            assert not closed, "asked for after End"
            match action:
                case actions.DropAgent():
                    settings_sent = released = False
                    prompted = 0
                    unanswered = []
                case actions.DecideCall(id=id):
                    assert id in waiting, "nobody asked for that"
                    waiting.discard(id)
                case actions.SendAgent(message=deepgram.UpdatePrompt(prompt=text)):
                    prompted += len(text)
                    assert released
                    assert prompted <= LONGEST_NEWS
                case actions.SendSettings():
                    assert not settings_sent, "Settings twice to the same agent"
                    settings_sent = True
                case actions.SendAgent(message=deepgram.FunctionCallResponse() as answer):
                    assert settings_sent
                    unanswered.remove(answer.id)  # or this agent has not asked for it
                case actions.SendAgent() | actions.KeepAgentAlive():
                    assert released
                case actions.ReleaseHeld():
                    assert settings_sent
                    released = True
                case actions.CallFunction(id=id, after_seq=after_seq):
                    assert after_seq - len(seqs) in (0, 1), "far from what was said"
                    asked_for.append(id)
                case actions.Store(message=message):
                    seqs.append((message.seq, message.turn))
                case actions.End():
                    assert not {action.browser[0], action.agent[0]} & {1005, 1006, 1015}
                    closed = True
        assert closed == (session.state is State.CLOSED)
        assert (session.deadline is None) == closed
        assert closed or released == (session.state is State.OPEN)
        assert closed or session.deadline < math.inf, "no timer leads back to a healthy socket"
    assert len(asked_for) == len(set(asked_for)), "a call was run twice"
    assert [seq for seq, _ in seqs] == list(range(1, len(seqs) + 1))
    assert all(b[1] - a[1] in (0, 1) for a, b in itertools.pairwise(seqs))
