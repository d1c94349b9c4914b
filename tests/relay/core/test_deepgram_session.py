"""The drop-in: Settings first, then a session in Deepgram's words."""

from __future__ import annotations

import math
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config.agent import Audio, AudioInput, AudioOutput, DeepgramThink, Think
from config.limits import Limits
from config.loader import load
from config.settings import CONFIG_DIR
from relay.core import actions
from relay.core.admitted import Admitted
from relay.core.agent_lifecycle import State
from relay.core.deepgram_session import MAX_EARLY, SETTINGS_SECONDS, DeepgramSession
from relay.core.events import (
    AgentClosed,
    AgentOpened,
    AgentUnreachable,
    BrowserClosed,
    ContextLearned,
    ControlFrame,
    EndReason,
    FromAgent,
    FromBrowser,
    FunctionReturned,
    GoAway,
    HangUp,
    MessageStored,
    NotAudio,
    Woken,
)
from relay.core.user_context import UserContext
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.relay_events import IntentStatus
from tests.relay.conftest import make_session

AGENT = load(CONFIG_DIR, {}).agent
OURS = deepgram.Settings(audio={"of": "agent.yaml"}, agent={"think": {"prompt": "secret"}})
LIMITS = Limits(grace_seconds=0.0, audio_speed=0, idle_seconds=0.0, session_seconds=0.0)
WELCOME = FromAgent(deepgram.Welcome(request_id="of the agent"))
APPLIED = FromAgent(deepgram.SettingsApplied())
RETURNED = FunctionReturned(
    relay_events.RelayIntent(
        id=UUID(int=9), call_id="c", intent="GOAL", status=IntentStatus.SUBMITTED
    ),
    "{}",
)


def client_settings(audio=None, **more):
    agent = {"think": {"prompt": "of the client"}}
    return FromBrowser(deepgram.Settings(audio=audio or {}, agent=agent, **more))


@pytest.fixture
def deepgram_agent(admitted):
    return make_deepgram_session(admitted)


def make_deepgram_session(admitted, agent=AGENT, *, asks=False):
    def begin(admitted, now):
        return make_session(admitted, OURS, LIMITS, now=now, asks=asks)

    return DeepgramSession(admitted, agent, begin, 0.0)


@pytest.fixture
def live(deepgram_agent):
    deepgram_agent.begin()
    deepgram_agent.handle(client_settings(), 0.1)
    for event in (AgentOpened(), WELCOME, APPLIED):
        asked = deepgram_agent.handle(event, 0.2)
    assert actions.Forward() in asked
    return deepgram_agent


def of(kind, asked):
    return [action for action in asked if isinstance(action, kind)]


def told(asked):
    return [action.event for action in of(actions.SendBrowser, asked)]


def sent_settings(asked):
    (sent,) = of(actions.SendSettings, asked)
    return sent.settings


# --- before Settings -----------------------------------------------------------------------------


def test_welcome_is_ours_and_nobody_is_dialled_before_settings(deepgram_agent, admitted):
    asked = deepgram_agent.begin()

    welcome = deepgram.Welcome(request_id=str(admitted.session_id))
    assert asked == [actions.SendBrowser(welcome)]
    assert not deepgram_agent.accepts_audio(b"audio")
    assert deepgram_agent.deadline == SETTINGS_SECONDS


def test_settings_begin_the_session_with_the_audio_that_they_ask_for(deepgram_agent):
    audio = {"input": {"encoding": "linear16", "sample_rate": 44100}}

    asked = deepgram_agent.handle(client_settings(audio), 3.0)

    assert asked[1:] == [actions.DialAgent()]
    assert deepgram_agent.accepts_audio(b"audio")
    assert deepgram_agent.admitted.audio == Audio(
        input=AudioInput(sample_rate=44100), output=AudioOutput()
    )
    assert deepgram_agent.deadline == 13.0


def test_its_state_is_that_of_its_agent(deepgram_agent):
    before = deepgram_agent.state
    deepgram_agent.handle(client_settings(), 0.1)
    deepgram_agent.handle(AgentOpened(), 0.2)

    assert (before, deepgram_agent.state) == (State.DIALLING, State.WELCOMING)


def test_before_settings_any_message_of_deepgrams_protocol_is_read(deepgram_agent):
    text = b'{"type": "InjectUserMessage", "content": "hello"}'

    assert deepgram_agent.decode(text) == deepgram.InjectUserMessage(content="hello")


def test_the_agent_gets_our_settings_with_the_audio_of_the_client(deepgram_agent):
    deepgram_agent.handle(client_settings(), 0.1)
    deepgram_agent.handle(AgentOpened(), 0.2)

    asked = deepgram_agent.handle(WELCOME, 0.3)

    sent = sent_settings(asked)
    assert sent.agent == OURS.agent
    assert sent.audio["input"] == {"encoding": "linear16", "sample_rate": 24000}
    assert not of(actions.Forward, asked)  # the client had a Welcome


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [(None, True), ({}, True), ({"history": False}, False), ({"history": "?"}, True)],
)
def test_history_is_told_unless_the_client_turns_it_off(deepgram_agent, flags, wanted):
    """The agent is asked for it in any case: its context may depend on it."""
    deepgram_agent.handle(client_settings(flags=flags), 0.1)
    deepgram_agent.handle(AgentOpened(), 0.2)
    sent = sent_settings(deepgram_agent.handle(WELCOME, 0.3))
    deepgram_agent.handle(APPLIED, 0.4)

    line, calls = (
        deepgram_agent.handle(FromAgent(history), 0.5)
        for history in (
            deepgram.History(role="user", content="x"),
            deepgram.History(function_calls=[]),
        )
    )

    assert sent.flags == {"told": []}, "ours"
    assert line == ([actions.Forward()] if wanted else [])
    assert calls == []


@pytest.mark.parametrize(("wish", "sent"), [(True, True), (False, None), (None, None)])
def test_audio_is_kept_out_of_model_improvement_if_the_client_says_so(deepgram_agent, wish, sent):
    deepgram_agent.handle(client_settings(mip_opt_out=wish), 0.1)
    deepgram_agent.handle(AgentOpened(), 0.2)

    assert sent_settings(deepgram_agent.handle(WELCOME, 0.3)).mip_opt_out is sent


def test_what_cannot_be_kept_out_of_it_is_not_begun(admitted):
    """Deepgram refuses the model think-fast to who opts out."""
    fast = Think(provider=DeepgramThink(model="think-fast"))
    session = make_deepgram_session(admitted, msgspec.structs.replace(AGENT, think=fast))

    asked = session.handle(client_settings(mip_opt_out=True), 0.1)

    assert refusal(asked) == "INVALID_SETTINGS"
    assert "mip_opt_out" in asked[0].event.description


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"agent": {}}, None),
        ({"agent": {}, "mip_opt_out": True, "flags": {"history": False}}, None),
        ({"agent": {}, "mip_opt_out": False}, "mip_opt_out"),
        ({"agent": "6f1d4f0e"}, "agent"),
        (
            {
                "agent": {"listen": {}, "think": {}, "greeting": "Hi"},
                "tags": ["a"],
                "experimental": False,
                "flags": {"history": True, "more": 1},
            },
            "agent.listen, agent.think, agent.greeting, flags.more, tags, experimental",
        ),
    ],
)
def test_one_warning_names_what_is_not_used_of_settings(admitted, settings, named):
    private = msgspec.structs.replace(AGENT, mip_opt_out=True)
    session = make_deepgram_session(admitted, private)
    asked = session.handle(FromBrowser(deepgram.Settings(audio={}, **settings)), 0.1)

    warnings = told(asked)
    assert asked[-1] == actions.DialAgent()
    assert [w.code for w in warnings] == (["SETTINGS_IGNORED"] if named else [])
    assert not named or warnings[0].description.endswith(f": {named}")


def test_a_warning_is_not_as_long_as_a_client_wants(deepgram_agent):
    agent = {"x" * 9999: 1}
    asked = deepgram_agent.handle(FromBrowser(deepgram.Settings(audio={}, agent=agent)), 0.1)

    assert len(told(asked)[0].description) == 300


@pytest.mark.parametrize(
    ("output", "rate"),
    [
        ({"encoding": "mulaw"}, 8000),
        ({"encoding": "alaw", "sample_rate": 16000}, 16000),
        ({"encoding": "linear16", "container": "wav"}, 24000),
    ],
)
def test_output_has_deepgrams_defaults(deepgram_agent, output, rate):
    deepgram_agent.handle(client_settings({"output": output}), 0.1)

    assert deepgram_agent.admitted.audio.output.sample_rate == rate


def test_what_an_agent_dialled_ahead_said_is_heard_after_settings(deepgram_agent):
    early = [AgentOpened(), WELCOME]
    assert [deepgram_agent.handle(event, 0.1) for event in early] == [[], []]

    asked = deepgram_agent.handle(client_settings(), 0.2)

    kinds = [type(action) for action in asked]
    assert kinds == [actions.SendBrowser, actions.DialAgent, actions.SendSettings]


def test_what_is_known_of_the_user_is_waited_for_and_the_audio_stays_the_clients(admitted):
    deepgram_agent = make_deepgram_session(admitted, asks=True)
    for event in (AgentOpened(), WELCOME):
        deepgram_agent.handle(event, 0.1)
    asked = deepgram_agent.handle(client_settings({"output": {"encoding": "mulaw"}}), 0.2)
    assert [type(action) for action in asked] == [actions.SendBrowser, actions.DialAgent]

    asked = deepgram_agent.handle(ContextLearned(UserContext(names=["Ada"])), 0.3)

    settings = sent_settings(asked)
    assert settings.tags == ["Ada"]
    assert settings.audio["output"]["encoding"] == "mulaw"


def test_an_agent_that_left_before_settings_is_dialled_again(deepgram_agent):
    for event in (AgentOpened(), AgentClosed(1005, "")):
        deepgram_agent.handle(event, 0.1)

    asked = deepgram_agent.handle(client_settings(), 0.2)

    assert of(actions.DropAgent, asked)
    assert [type(event) for event in told(asked)] == [deepgram.Warning]
    assert deepgram_agent.handle(Woken(0), deepgram_agent.deadline) == [actions.DialAgent()]


def test_an_agent_that_talks_before_settings_is_not_remembered_for_ever(deepgram_agent):
    for _ in range(MAX_EARLY + 1):
        deepgram_agent.handle(WELCOME, 0.1)

    asked = deepgram_agent.handle(client_settings(), 0.2)

    assert len(of(actions.Note, asked)) == MAX_EARLY


def refusal(asked):
    """Its code, once it is the whole of a refusal."""
    error, end = asked
    assert (end.reason, end.detail) == ("bad_settings", error.event.code)
    assert end.browser[0] == close_codes.NORMAL
    assert isinstance(error.event, deepgram.Error)
    return error.event.code


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (FromBrowser(deepgram.KeepAlive()), "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"),
        (FromBrowser(deepgram.Malformed("", "?")), "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"),
        (FromBrowser(deepgram.Malformed("Settings", "?")), "UNPARSABLE_CLIENT_MESSAGE"),
        (client_settings({"input": {"sample_rate": 11025}}), "INVALID_SETTINGS"),
        (client_settings({"output": {"container": "ogg"}}), "INVALID_SETTINGS"),
        (client_settings({"input": {"encoding": "flac"}}), "INVALID_SETTINGS"),
        (client_settings({"input": {"encoding": "x" * 9999}}), "INVALID_SETTINGS"),
        (client_settings({"microphone": {}}), "INVALID_SETTINGS"),
        (Woken(0), "CLIENT_MESSAGE_TIMEOUT"),
    ],
)
def test_anything_else_than_good_settings_ends_it(deepgram_agent, event, code):
    asked = deepgram_agent.handle(event, SETTINGS_SECONDS)

    assert refusal(asked) == code
    assert len(asked[0].event.description) <= 300
    assert deepgram_agent.deadline is None
    assert deepgram_agent.handle(client_settings(), 16.0) == []


def test_audio_before_settings_ends_it(deepgram_agent):
    assert refusal(deepgram_agent.handle(NotAudio(), 1.0)) == "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"


def test_some_pings_may_come_before_settings_and_a_flood_of_them_ends_it(deepgram_agent):
    asked = [deepgram_agent.handle(ControlFrame(), 1.0) for _ in range(60)]

    assert asked[:40] == [[]] * 40
    assert asked[40][0].error.code == "TOO_OFTEN"
    (end,) = of(actions.End, asked[-1])
    assert (end.reason, end.browser[0]) == ("abuse", close_codes.NORMAL)


def test_waking_too_early_changes_nothing(deepgram_agent):
    assert deepgram_agent.handle(Woken(0), SETTINGS_SECONDS - 0.1) == []
    assert not deepgram_agent.accepts_audio(b"audio")


@pytest.mark.parametrize(
    ("event", "reason", "codes"),
    [
        (BrowserClosed(1006, ""), "browser_lost", []),
        (BrowserClosed(1001, ""), "browser_left", []),
        (HangUp(EndReason.HUNG_UP), "hung_up", []),
        (GoAway(), "shutdown", ["SERVER_GOING_AWAY"]),
    ],
)
def test_an_end_before_settings(deepgram_agent, event, reason, codes):
    asked = deepgram_agent.handle(event, 1.0)

    (end,) = of(actions.End, asked)
    assert end.reason == reason
    assert [error.code for error in told(asked)] == codes
    assert asked[-1].browser[0] == close_codes.NORMAL


# --- in Deepgram's words -------------------------------------------------------------------------


def test_settings_a_second_time_end_it(live):
    assert refusal(live.handle(client_settings(), 1.0)) == "SETTINGS_ALREADY_APPLIED"


def test_what_may_not_be_sent_is_an_error_and_the_session_goes_on(live):
    for message, code in [
        (deepgram.UpdatePrompt(prompt="x"), "INSUFFICIENT_PERMISSIONS"),
        (deepgram.Malformed("InjectUserMessage", "?"), "UNPARSABLE_CLIENT_MESSAGE"),
    ]:
        (action,) = live.handle(FromBrowser(message), 1.0)
        assert action.error.code == code
    assert live.handle(FromBrowser(deepgram.KeepAlive()), 1.0) == [actions.Forward()]


@pytest.mark.parametrize(
    "own",
    [
        relay_events.RelayConfirm(id=UUID(int=101)),
        relay_events.RelayCancel(id=UUID(int=101)),
        relay_events.RelayPlayout(seconds=0.1),
    ],
)
def test_what_only_our_clients_say_is_not_known(live, own):
    message = live.decode(deepgram.encode(own))

    (action,) = live.handle(FromBrowser(message), 1.0)
    assert action.error.code == "INSUFFICIENT_PERMISSIONS"
    assert live.decode(b'{"type":"KeepAlive"}') == deepgram.KeepAlive()


def test_no_event_of_ours_is_sent(live):
    said = FromAgent(deepgram.ConversationText(role="assistant", content="x"))
    (stored, forward) = live.handle(said, 1.0)

    assert forward == actions.Forward()
    assert live.handle(RETURNED, 1.0) == []
    assert live.handle(MessageStored(stored.message), 1.0) == []


def test_a_lost_agent_is_replaced_unseen(live):
    asked = live.handle(AgentClosed(1006, ""), 1.0)
    assert not told(asked)
    live.handle(Woken(0), live.deadline)
    live.handle(AgentOpened(), 2.0)

    assert sent_settings(live.handle(WELCOME, 2.0)).audio["input"]["sample_rate"] == 24000
    asked = live.handle(APPLIED, 2.0)
    assert of(actions.ReleaseHeld, asked)
    assert not told(asked) + of(actions.Forward, asked)


def test_warnings_and_errors_of_the_agent_come_through(live):
    warning = deepgram.Warning(description="of the prompt", code="PROMPT_TOO_LONG")
    error = deepgram.Error(description="of the prompt", code="INVALID_SETTINGS")

    (first,) = told(live.handle(FromAgent(warning), 1.0))
    asked = live.handle(FromAgent(error), 1.0)

    assert first.code == "PROMPT_TOO_LONG"
    assert [event.code for event in told(asked)] == ["INVALID_SETTINGS"]  # once
    assert asked[-1].browser == (1000, "INVALID_SETTINGS")


def test_an_agent_that_cannot_be_reached_is_an_error_of_the_server(deepgram_agent):
    deepgram_agent.handle(client_settings(), 0.1)

    asked = deepgram_agent.handle(AgentUnreachable("refused", final=True), 0.2)

    assert [event.code for event in told(asked)] == ["INTERNAL_SERVER_ERROR"]
    assert asked[-1].browser[0] == close_codes.NORMAL


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (GoAway(), "SERVER_GOING_AWAY"),
        (HangUp(EndReason.BROWSER_TOO_SLOW), "TOO_MANY_REQUESTS"),
        (HangUp(EndReason.INTERNAL_ERROR), "INTERNAL_SERVER_ERROR"),
        (AgentClosed(4000, "bye"), "INTERNAL_SERVER_ERROR"),
        (AgentClosed(1000, ""), None),
        (HangUp(EndReason.SUPERSEDED), None),
    ],
)
def test_a_close_code_becomes_an_error_and_1000(live, event, code):
    asked = live.handle(event, 1.0)

    assert [error.code for error in told(asked)] == ([code] if code else [])
    assert asked[-1].browser[0] == 1000


def test_a_client_that_left_is_told_nothing(live):
    asked = live.handle(BrowserClosed(4001, "bye"), 1.0)

    assert not told(asked)
    assert live.handle(client_settings(), 2.0) == []


def test_how_much_audio_may_come_is_known_from_settings_on(deepgram_agent):
    assert deepgram_agent.most == (math.inf, math.inf)

    deepgram_agent.handle(client_settings(), 0.1)

    assert deepgram_agent.most == deepgram_agent._session.most


def test_there_is_no_way_back(live):
    assert not live.admits("ticket-1", 0)
    assert "OPEN" in repr(live)


EVENTS = st.sampled_from(
    [
        client_settings(),
        client_settings({"input": {"sample_rate": 1}}),
        FromBrowser(deepgram.KeepAlive()),
        FromBrowser(deepgram.UpdatePrompt(prompt="x")),
        AgentOpened(),
        WELCOME,
        APPLIED,
        FromAgent(deepgram.ConversationText(role="user", content="x")),
        FromAgent(deepgram.AgentAudioDone()),
        FromAgent(deepgram.History(role="user", content="x")),
        FromAgent(
            deepgram.FunctionCallRequest(functions=[deepgram.FunctionCall(id="c", name="f")])
        ),
        FromAgent(deepgram.Error(code="FAILED_TO_THINK")),
        RETURNED,
        AgentClosed(1006, ""),
        AgentClosed(1000, ""),
        AgentUnreachable("refused"),
        BrowserClosed(1005, ""),
        GoAway(),
        HangUp(EndReason.HUNG_UP),
        Woken(0),
    ]
)
OPENING = Admitted(
    session_id=UUID(int=1),
    conversation_id=UUID(int=2),
    user_id="user",
    timezone="UTC",
    audio=Audio(),
)


@given(st.booleans(), st.lists(st.tuples(EVENTS, st.floats(0, 6)), max_size=50))
@hypothesis_settings(max_examples=300, deadline=None)
def test_any_interleaving_keeps_the_promises(begun, steps):
    deepgram_agent = make_deepgram_session(OPENING)
    asked, now, dialled = deepgram_agent.begin(), 0.0, False
    if begun:
        steps = [(e, 0.0) for e in (client_settings(), AgentOpened(), WELCOME, APPLIED)] + steps
    for event, passed in steps:
        now += passed
        new = deepgram_agent.handle(event, now)
        asked += new
        dialled = dialled or actions.DialAgent() in new
        # Nothing is said to an agent before the client's Settings, and its Welcome is never shown.
        assert dialled or not of((actions.SendSettings, actions.SendAgent), new)
        assert not (event is WELCOME and of(actions.Forward, new))

    said = told(asked)
    assert not any(isinstance(event, relay_events.RelayEvent) for event in said)
    assert [type(event) for event in said].count(deepgram.Welcome) == 1
    assert len(of(actions.End, asked)) <= 1
    if end := of(actions.End, asked):
        assert end == asked[-1:]
        assert end[0].browser[0] == 1000
