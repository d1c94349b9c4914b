"""Who has the floor, event by event; and the decoding of these events."""

from uuid import UUID

import pytest

from control.talk.connection import TalkError, decode
from control.talk.turns import GREETING_WAIT, QUIET, QUIET_AFTER_CALL, Floor, Turn
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus, RelayIntent


def floor(*, greeting=False):
    it = Floor(48000, greeting=greeting)
    it.handle(deepgram.SettingsApplied(), 0.0)
    return it


def user(content="words"):
    return deepgram.ConversationText(role="user", content=content)


def agent(content="words"):
    return deepgram.ConversationText(role="assistant", content=content)


def intent(status, **fields):
    return RelayIntent(
        id=UUID(int=1), call_id="f", intent="GOAL", status=IntentStatus(status), **fields
    )


def test_nothing_is_free_before_settings_are_applied():
    assert Floor(48000, greeting=False).free_at() is None


def test_a_greeting_that_does_not_come_is_not_waited_for_for_ever():
    assert floor(greeting=True).free_at() == GREETING_WAIT


def test_a_greeting_is_heard_to_the_end():
    it = floor(greeting=True)
    it.handle(agent(), 0.1)
    it.audio(48000, 0.2)
    assert it.free_at() is None

    it.handle(deepgram.AgentAudioDone(), 0.5)

    assert it.free_at() == pytest.approx(0.2 + 1.0 + QUIET)


def test_audio_that_comes_in_pieces_is_played_one_after_the_other():
    it = floor()
    for now in (1.0, 1.1, 5.0):
        it.audio(24000, now)

    assert it.played == pytest.approx(5.5)


def test_agent_words_before_the_users_text_are_no_reply():
    it = floor()
    it.user_begins(1.0, 0.0)
    it.handle(agent(), 1.1)
    it.handle(deepgram.AgentAudioDone(), 1.2)

    assert it.free_at() is None
    assert it.turn is Turn.USER


def test_the_end_of_an_open_call_asks_for_another_reply():
    it = floor()
    it.user_begins(1.0, 0.0)
    it.handle(user(), 1.5)
    it.handle(intent("submitting"), 1.6)
    it.handle(agent("One moment."), 1.7)
    it.handle(deepgram.AgentAudioDone(), 1.8)
    assert it.free_at() is None

    it.handle(intent("rejected"), 2.0)
    assert it.free_at() is None

    it.handle(agent("It failed."), 2.1)
    it.handle(deepgram.AgentAudioDone(), 2.2)
    assert it.free_at() == pytest.approx(2.2 + QUIET_AFTER_CALL)


def test_a_saved_call_is_spoken_of_once():
    it = floor()
    it.handle(intent("submitting"), 1.0)
    it.handle(intent("submitting", result={"saved": True}), 2.0)
    assert it.turn is Turn.DUE
    it.handle(agent("I have noted it."), 2.1)
    it.handle(deepgram.AgentAudioDone(), 2.2)

    it.handle(intent("submitted"), 9.0)

    assert it.free_at() == pytest.approx(2.2 + QUIET_AFTER_CALL)


def test_a_call_that_waits_to_be_confirmed_is_spoken_of_once():
    it = floor()
    it.handle(intent("awaiting"), 1.0)
    assert it.turn is Turn.DUE
    it.handle(agent("Please look at your screen."), 1.1)
    it.handle(deepgram.AgentAudioDone(), 1.2)

    for status in ("submitting", "submitted"):
        it.handle(intent(status), 5.0)

    assert it.free_at() == pytest.approx(1.2 + QUIET_AFTER_CALL)


@pytest.mark.parametrize(
    "fields", [{"status": "cancelling"}, {"status": "submitting", "taken_back": True}]
)
def test_a_call_that_was_taken_back_is_not_waited_for(fields):
    it = floor()
    it.handle(intent("submitting"), 1.0)

    it.handle(intent(**fields), 2.0)

    assert it.free_at() is not None


def test_a_call_that_the_relay_cancelled_is_not_waited_for():
    it = floor()
    it.handle(intent("submitting"), 1.0)

    it.handle(intent("cancelled"), 2.0)

    assert it.free_at() is not None


def test_a_barge_in_empties_what_is_played_and_drops_late_audio():
    it = floor()
    it.user_begins(1.0, 0.0)
    it.handle(user(), 1.1)
    it.handle(agent(), 1.2)
    it.audio(480000, 1.2)
    it.handle(deepgram.UserStartedSpeaking(), 2.0)

    assert it.played == 2.0
    assert it.audio(960, 2.1) is False
    it.handle(user("and more"), 2.5)
    assert it.audio(960, 2.6) is True
    assert it.turn is Turn.DUE


def test_what_is_said_by_the_way_changes_no_turn():
    it = floor()
    it.turn = Turn.AGENT
    by_the_way = deepgram.ConversationText(
        role="user", content="mhm", conversational_behavior="backchannel"
    )

    it.handle(by_the_way, 9.0)

    assert (it.turn, it.last) == (Turn.AGENT, 9.0)


def test_reports_that_come_all_the_time_do_not_look_like_progress():
    it = floor()
    it.handle(deepgram.LatencyReport(stt_latency=0.1), 9.0)

    assert it.last == 0.0


# --- what the relay says ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["no json", '{"type": "ConversationText"}', '{"type": "RelayIntent", "id": 5}']
)
def test_a_broken_message_is_an_error(text):
    with pytest.raises(TalkError, match="broken message"):
        decode(text)


def test_an_unknown_message_is_none():
    assert decode('{"type": "Tomorrow"}') is None
