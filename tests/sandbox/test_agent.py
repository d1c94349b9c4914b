"""The rules of a session, on a clock of our own: no socket, no engine, no waiting."""

import itertools
import json
import math

import pytest

from relay.sandbox.output import EndSpeech
from relay.sandbox.script import Call, Ending, Script, Turn

THINK = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}}
SPEAK = {"provider": {"type": "deepgram", "model": "aura-2-orion-en"}}
INJECT = {"type": "InjectUserMessage", "content": "Hello"}


def answer(call, content="{}"):
    return {
        "type": "FunctionCallResponse",
        "id": call["id"],
        "name": call["name"],
        "content": content,
    }


def calls(line):
    return [m["functions"] for m in line.messages if m["type"] == "FunctionCallRequest"]


# --- opening ---------------------------------------------------------------------------------


def test_welcome_comes_first_and_carries_the_request_id(line):
    session = line()

    session.run(0.1)

    assert session.messages == [{"type": "Welcome", "request_id": "r-1"}]


def test_settings_may_come_before_welcome(line, settings):
    session = line(welcome_delay=0.2)

    session.tell(settings())
    session.run(0.3)

    assert session.types == ["SettingsApplied", "Welcome"]


def test_greeting_is_one_text_with_its_audio_and_one_end(line, settings):
    session = line()

    session.tell(settings(greeting="Hi. This is the shop. How can I help?"))
    session.run(10)

    assert session.shape[1:] == [
        "SettingsApplied",
        "ConversationText",
        "History",
        "audio",
        "AgentAudioDone",
    ]
    assert session.said() == ["Hi. This is the shop. How can I help?"]


def test_no_history_messages_when_the_flag_is_off(line):
    session = line()

    session.start(greeting="Hi.", top={"flags": {"history": False}})
    session.tell(INJECT)
    session.run(10)

    assert "History" not in session.types


@pytest.mark.parametrize("first", [INJECT, {"type": "KeepAlive"}])
def test_anything_before_settings_ends_the_session(line, first):
    session = line()

    session.tell(first)

    assert session.ending.code == "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"
    assert session.types[-1] == "Error"


def test_audio_before_settings_ends_the_session(line):
    session = line()

    session.hear(bytes(640))

    assert session.ending.code == "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"


def test_audio_between_settings_and_settings_applied_is_thrown_away(line, settings):
    session = line(script=Script(turns=(Turn(when="audio", after=0.01, say=("Heard.",)),)))

    session.tell(settings())
    session.hear(bytes(640))
    session.run(1)
    assert session.said() == []

    session.hear(bytes(640))
    session.run(1)
    assert session.said() == ["Heard."]


def test_settings_twice_end_the_session(line, settings):
    session = line()
    session.start()

    session.tell(settings())

    assert session.ending.code == "SETTINGS_ALREADY_APPLIED"


def test_nothing_is_said_after_the_end(line, settings):
    session = line()
    session.tell(INJECT)
    session.log.clear()

    session.tell(settings())
    session.hear(bytes(10))
    session.run(100, alive=False)

    assert session.log == []
    assert session.agent.deadline == math.inf


def test_messages_between_settings_and_settings_applied_are_obeyed_afterwards(line, settings):
    session = line()

    session.tell(settings())
    session.tell(INJECT)
    session.run(1)

    assert session.said("user") == ["Hello"]
    assert session.types.index("SettingsApplied") < session.types.index("ConversationText")


def test_a_stored_agent_cannot_be_resolved(line):
    session = line()

    session.tell({"type": "Settings", "audio": {}, "agent": "6f1d4f0e-0000-4000-8000-000000000000"})

    assert session.ending.code == "INTERNAL_SERVER_ERROR"


@pytest.mark.parametrize(
    "output",
    [
        {"encoding": "mp3"},
        {"encoding": "linear16", "sample_rate": 22050},
        {"encoding": "linear16", "container": "ogg"},
    ],
)
def test_audio_that_cannot_be_had_is_invalid(line, settings, output):
    session = line()

    session.tell(settings(audio={"output": output}))

    assert session.ending.code == "INVALID_SETTINGS"


FAST = {"provider": {"type": "deepgram", "model": "think-fast"}}
FLUX = {"type": "deepgram", "version": "v2", "model": "flux-general-en"}
FLUX_VOICE = {"type": "deepgram", "version": "v2", "model": "flux-kit-en"}
CD = {"output": {"encoding": "linear16", "sample_rate": 44100}}


@pytest.mark.parametrize(
    ("fields", "section"),
    [
        ({"listen": {"provider": {"type": "deepgram", "model": "flux-general-en"}}}, "listen"),
        ({"listen": {"provider": FLUX | {"model": "nova-3"}}}, "listen"),
        ({"listen": {"provider": FLUX | {"keyterms": ["a"] * 101}}}, "listen"),
        ({"listen": {"provider": {"type": "deepgram", "keyterms": ["a b c"] * 167}}}, "listen"),
        ({"think": [{"provider": {"type": "groq", "model": "m"}}]}, "think"),
        ({"think": {"provider": {"type": "aws_bedrock", "model": "m"}}}, "think"),
        ({"think": FAST, "top": {"mip_opt_out": True}}, "think"),
        ({"audio": CD, "speak": SPEAK}, "output"),
    ],
)
def test_settings_that_are_well_formed_but_cannot_be_had_are_invalid(
    line, settings, fields, section
):
    session = line()

    session.tell(settings(**fields))

    assert session.ending.code == "INVALID_SETTINGS"
    assert f"{section} settings" in session.ending.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"listen": {"provider": FLUX | {"keyterms": ["a"] * 100}}},
        {"listen": {"provider": {"type": "deepgram", "keyterms": ["a b"] * 250}}},
        {"think": {"provider": {"type": "groq", "model": "m"}, "endpoint": {"url": "u"}}},
        {"think": FAST},
        {"audio": CD, "speak": {"provider": FLUX_VOICE}},
        {"audio": CD},
    ],
)
def test_what_is_within_the_limits_is_applied(line, settings, fields):
    session = line()

    session.tell(settings(**fields))
    session.run(1)

    assert session.types[:2] == ["Welcome", "SettingsApplied"]


@pytest.mark.parametrize(
    ("voice", "ends"),
    [
        (SPEAK["provider"] | {"speed": 0.7}, False),
        (SPEAK["provider"] | {"speed": 0.65}, True),
        (SPEAK["provider"] | {"speed": 1.51}, True),
        (FLUX_VOICE | {"speed": 0.55}, False),
        (FLUX_VOICE | {"speed": 1.15}, False),
        (FLUX_VOICE | {"speed": 1.12}, True),
        (FLUX_VOICE | {"speed": 1.55}, True),
    ],
)
def test_a_speed_that_the_voice_does_not_take_ends_the_session_when_it_speaks(line, voice, ends):
    session = line()

    session.start(greeting="Hi.", speak={"provider": voice})
    session.run(2)

    assert (session.ending is not None) is ends
    assert not ends or session.ending.code == "FAILED_TO_SPEAK"


def test_without_history_an_agent_does_not_know_what_was_said(line, settings, registry):
    """By one of two readings of the documents; what is sent has to be good for both."""
    asked = [
        {"type": "History", "role": "user", "content": "I want to run a marathon in April."},
        {"type": "History", "role": "user", "content": "There is no deadline."},
    ]
    think = {**THINK, "functions": registry}
    calls = []
    for flags in ({}, {"history": False}):
        session = line()
        top = {"flags": flags}
        session.start(think=think, context={"messages": asked}, top=top)
        session.tell({"type": "InjectUserMessage", "content": "Yes"})
        session.run(5)
        calls.append(session.types.count("FunctionCallRequest"))

    assert calls == [1, 0]


def test_a_reply_begins_with_a_header_if_the_audio_is_a_wav_file(line, settings):
    session = line()

    session.tell(settings(audio={"output": {"container": "wav"}}, greeting="Hello. I am here."))
    session.run(5)

    assert [frame[:4] for frame in session.frames].count(b"RIFF") == 1
    assert session.frames[0][:4] == b"RIFF"


@pytest.mark.parametrize("text", ["{", "[1]", '{"a":1}', '{"type":3}', '{"type":"Nonsense"}'])
def test_what_is_no_message_is_unparsable(line, text, settings):
    session = line()
    session.start()

    session.tell(text)

    assert session.ending.code == "UNPARSABLE_CLIENT_MESSAGE"


def test_an_unknown_field_is_named_in_the_error(line, settings):
    session = line()

    session.tell(settings(think={**THINK, "functions": [{"name": "f", "method": "GET"}]}))

    assert session.messages[-1]["description"] == (
        "Error parsing client message. "
        "Check the agent.think.functions[0].method field against the API spec."
    )


# --- time-outs -------------------------------------------------------------------------------


def test_a_client_without_settings_is_timed_out(line):
    session = line(timeout=10)

    session.run(10, alive=False)

    error = session.messages[-1]
    assert error["code"] == "CLIENT_MESSAGE_TIMEOUT"
    assert "'Settings' message" in error["description"]


def test_a_silent_client_is_timed_out_after_the_last_message(line):
    session = line(timeout=10)
    session.start()
    session.run(9, alive=False)
    session.hear(bytes(640))

    session.run(9.9, alive=False)
    assert session.ending is None

    session.run(0.2, alive=False)
    assert session.messages[-1]["code"] == "CLIENT_MESSAGE_TIMEOUT"
    assert "user speech" in session.messages[-1]["description"]


def test_a_session_is_warned_and_ended_at_its_longest(line):
    session = line()
    session.start()

    session.run(7201)

    assert session.messages[-2]["code"] == "MAXIMUM_SESSION_LENGTH_APPROACHING"
    assert session.log[-1][0] == 100.0 + 7200
    assert session.ending.code == "MAXIMUM_SESSION_LENGTH_REACHED"


# --- turns -----------------------------------------------------------------------------------


def test_a_typed_turn_has_the_order_of_the_wire(line):
    session = line()
    session.start(think=THINK, top={"experimental": True})

    session.tell(INJECT)
    session.run(10)

    assert session.shape == [
        "ConversationText",
        "History",
        "EndOfTurn",
        "LatencyReport",
        "LatencyReport",
        "ConversationText",
        "History",
        "LatencyReport",
        "LatencyReport",
        "AgentStartedSpeaking",
        "audio",
        "ConversationText",
        "History",
        "audio",
        "AgentAudioDone",
    ]
    assert session.messages[2]["trigger"] == "manual"
    reports = [set(m) - {"type"} for m in session.messages if m["type"] == "LatencyReport"]
    assert reports == [
        {"ttt_token_latency"},
        {"ttt_text_latency"},
        {"tts_latency"},
        {"total_latency"},
    ]


def test_a_spoken_turn_begins_with_user_started_speaking(line):
    session = line()
    session.start(think=THINK)

    session.starts()
    session.run(1)
    session.says("Hello")

    assert session.types == ["UserStartedSpeaking", "ConversationText", "History", "EndOfTurn"]


def test_the_text_of_the_next_sentence_waits_until_the_one_before_was_played(line):
    script = Script(turns=(Turn(when="text", say=("One.", "Two."), seconds=2.0),))
    session = line(script=script, pace=2.0)
    session.start()

    session.tell(INJECT)
    session.run(10)

    first = session.time_of("ConversationText", 1)
    assert session.time_of("ConversationText", 2) - first == pytest.approx(2.0)
    assert session.time_of("AgentAudioDone") - first == pytest.approx(2.0 + 1.0, abs=0.03)
    assert len(session.frames) == 200


def test_audio_inside_a_sentence_is_faster_than_real_time(line):
    script = Script(turns=(Turn(say=("One.",), seconds=4.4, pace=4.4),))
    session = line(script=script)
    session.start()

    session.run(10)

    times = [at for at, entry in session.log if isinstance(entry, bytes)]
    assert times[-1] - times[0] == pytest.approx(1.0, abs=0.02)
    assert {len(frame) for frame in session.frames} == {960}


# --- barge-in --------------------------------------------------------------------------------


def speaking(line, **options):
    turn = Turn(say=("A long sentence that is cut.", "Never said."), seconds=3.0)
    session = line(script=Script(turns=(turn,)), **options)
    session.start()
    session.run(0.5)
    session.log.clear()
    return session


def test_barge_in_ends_the_reply_at_once(line):
    session = speaking(line)

    session.starts()
    session.run(5)

    assert session.shape == ["UserStartedSpeaking", "AgentAudioDone"]


def test_late_frames_may_follow_a_barge_in(line):
    session = speaking(line, late_frames=2)

    session.starts()
    session.run(5)

    assert session.types == ["UserStartedSpeaking", "AgentAudioDone"]
    assert len(session.frames) == 2


def test_no_second_audio_done_when_the_audio_was_sent_already(line):
    session = line(script=Script(turns=(Turn(say=("Hello.",), seconds=2.0),)))
    session.start()
    session.run(1.3)
    assert session.types[-1] == "AgentAudioDone"
    session.log.clear()

    session.starts()

    assert session.types == ["UserStartedSpeaking"]


def test_a_cough_is_no_turn_but_what_was_not_answered_is_thought_about_again(line):
    session = line()
    session.start(think=THINK)
    session.tell(INJECT)
    session.starts()
    session.run(2)
    assert session.said() == []

    session.says("")
    session.run(5)

    assert session.said("user") == ["Hello"]
    assert session.said()


def test_a_typed_turn_cuts_the_reply_without_user_started_speaking(line):
    session = speaking(line)

    session.tell(INJECT)

    assert session.types == ["ConversationText", "History", "EndOfTurn", "AgentAudioDone"]


# --- functions -------------------------------------------------------------------------------


def test_a_function_call_has_the_order_of_the_wire(line, registry):
    session = line()
    session.start(think={**THINK, "functions": registry})
    session.tell({"type": "InjectUserMessage", "content": "Add a task to buy milk"})
    session.run(10)
    session.log.clear()

    session.tell({"type": "InjectUserMessage", "content": "Yes"})
    session.run(1)
    [[call]] = calls(session)
    session.tell(answer(call, '{"status":"submitted"}'))
    session.run(10)

    assert session.shape[:9] == [
        "ConversationText",
        "History",
        "EndOfTurn",
        "LatencyReport",
        "LatencyReport",
        "FunctionCallRequest",
        "FunctionCallResponse",
        "History",
        "LatencyReport",
    ]
    assert call["client_side"] is True
    assert len(call["id"]) == len("call_") + 24
    assert json.loads(call["arguments"]) == {"title": "buy milk"}
    finished = next(m for m in session.messages if "function_calls" in m)["function_calls"][0]
    assert finished["response"] == '{"status":"submitted"}'
    assert session.said() == ["Done.", "Is there anything else?"]


def test_two_calls_come_one_after_the_other(line):
    script = Script(turns=(Turn(calls=(Call("a"), Call("b", "{broken")), say=("Both.",)),))
    session = line(script=script)
    session.start()
    session.run(1)
    assert [[c["name"] for c in batch] for batch in calls(session)] == [["a"]]

    session.tell(answer(calls(session)[0][0]))
    session.run(1)
    assert calls(session)[1][0]["arguments"] == "{broken"
    session.tell(answer(calls(session)[1][0]))
    session.run(5)

    assert session.said() == ["Both."]


def test_several_calls_can_come_in_one_request(line):
    script = Script(turns=(Turn(calls=(Call("a"), Call("b")), together=True, say=("Both.",)),))
    session = line(script=script)
    session.start()
    session.run(1)
    [[one, other]] = calls(session)

    session.tell(answer(other))
    session.run(1)
    assert session.said() == []

    session.tell(answer(one))
    session.run(5)
    assert session.said() == ["Both."]


def test_an_answer_to_nothing_is_dropped(line):
    session = line()
    session.start()

    session.tell(answer({"id": "call_none", "name": "a"}))
    session.run(1)

    assert session.log == []


def test_what_the_user_says_during_a_call_is_answered_with_the_result(line, registry):
    session = line()
    session.start(think={**THINK, "functions": registry})
    for said in ("Add a task to buy milk", "yes"):
        session.tell({"type": "InjectUserMessage", "content": said})
        session.run(5)
    [[call]] = calls(session)
    session.log.clear()

    session.tell({"type": "InjectUserMessage", "content": "Hello?"})
    session.run(5)
    assert session.said() == []

    session.tell(answer(call))
    session.run(9)
    assert session.said()[0] == "Done."
    assert "Hello." in session.said()


def test_an_answer_that_is_there_when_the_user_speaks_waits_for_the_end_of_the_turn(line):
    session = line(script=Script(turns=(Turn(calls=(Call("a"),), say=("Done.",)),)))
    session.start()
    session.run(1)

    session.tell(answer(calls(session)[0][0]))
    session.starts()
    session.run(3)
    assert session.said() == []

    session.says("")
    session.run(3)
    assert cancelled(session) == []
    assert session.said() == ["Done."]


# --- what the user goes on to say ----------------------------------------------------------------

SPOKEN = "I want to run a marathon."
MORE = "I want to run a marathon in April."


def cancelled(line):
    """The functions of each FunctionCallCancelled."""
    return [m["functions"] for m in line.messages if m["type"] == "FunctionCallCancelled"]


def titles(line):
    return [json.loads(call["arguments"])["title"] for [call] in calls(line)]


@pytest.fixture
def hasty(line, registry):
    """A session whose model calls as soon as it can; the user speaks."""

    def make(*, deferred=(), script=None):
        session = line(hasty=True, script=script)
        functions = [
            function | {"defer_until_eot": function["name"] in deferred} for function in registry
        ]
        session.start(think={**THINK, "functions": functions})
        session.starts()
        return session

    return make


def test_a_pause_is_enough_for_a_call_that_comes_before_the_words(hasty):
    session = hasty()

    session.pauses(SPOKEN)
    session.run(1)
    session.says(SPOKEN)
    [[call]] = calls(session)
    session.tell(answer(call))
    session.run(5)

    assert session.types[:3] == ["UserStartedSpeaking", "FunctionCallRequest", "ConversationText"]
    assert titles(session) == ["run a marathon"]
    assert cancelled(session) == []
    assert session.said() == ["Done.", "Is there anything else?"]


def test_a_call_that_was_answered_in_the_pause_is_told_after_the_words(hasty):
    session = hasty()

    session.pauses(SPOKEN)
    session.run(1)
    session.tell(answer(calls(session)[0][0]))
    session.run(1)
    assert session.said() == []
    session.says(SPOKEN)
    session.run(5)

    assert len(calls(session)) == 1
    assert session.said() == ["Done.", "Is there anything else?"]


@pytest.mark.parametrize("is_answered", [False, True])
def test_who_goes_on_cancels_the_early_call_and_gets_another(hasty, is_answered):
    session = hasty()

    session.pauses(SPOKEN)
    session.run(1)
    [[early]] = calls(session)
    if is_answered:
        session.tell(answer(early))
    session.starts()
    assert cancelled(session) == [[{"id": early["id"], "name": "create_goal"}]]
    session.tell(answer(early))
    session.says(MORE)
    session.run(1)
    [_, [call]] = calls(session)
    session.tell(answer(call))
    session.run(5)

    assert session.types.count("UserStartedSpeaking") == 2
    assert titles(session) == ["run a marathon", "run a marathon in April"]
    assert early["id"] != call["id"]
    assert session.said() == ["Done.", "Is there anything else?"]


def test_who_goes_on_at_once_is_not_called_for(hasty):
    session = hasty()

    session.pauses(SPOKEN)
    session.run(0.2)
    session.starts()
    session.run(3)

    assert session.types == ["UserStartedSpeaking", "UserStartedSpeaking"]


@pytest.mark.parametrize("last", [SPOKEN, MORE])
def test_a_deferred_call_waits_for_the_end_of_the_turn_and_is_made_once(hasty, last):
    session = hasty(deferred=["create_goal"])

    session.pauses(SPOKEN)
    session.run(3)
    assert calls(session) == []
    if last == MORE:
        session.starts()
    session.says(last)
    session.run(3)

    assert titles(session) == [last.removeprefix("I want to ").rstrip(".")]
    assert cancelled(session) == []


def test_a_function_that_is_not_deferred_is_called_beside_one_that_is(hasty):
    session = hasty(deferred=["create_goal"])

    session.pauses("Add a task to buy milk.")
    session.run(1)

    assert titles(session) == ["buy milk"]


@pytest.mark.parametrize("last", ["Never mind.", ""])
def test_other_words_than_in_the_pause_cancel_the_early_call(hasty, last):
    session = hasty()

    session.pauses(SPOKEN)
    session.run(1)
    session.says(last)
    session.run(1)

    assert len(cancelled(session)) == len(calls(session)) == 1


def test_words_that_are_gone_in_the_end_are_not_called_for(hasty):
    session = hasty()

    session.pauses(SPOKEN)
    session.says("")
    session.run(3)

    assert calls(session) == []


def test_a_pause_without_words_or_during_a_call_is_none(hasty):
    session = hasty()
    session.pauses("")
    session.run(1)
    session.says(SPOKEN)
    session.run(1)
    session.tell(answer(calls(session)[0][0]))
    session.starts()
    session.pauses(MORE)
    session.run(1)

    assert len(calls(session)) == 1


@pytest.mark.parametrize("deferred", [[], ["create_goal"]])
def test_a_barge_in_after_the_turn_cancels_the_call_and_a_cough_makes_it_again(hasty, deferred):
    session = hasty(deferred=deferred)
    session.says(SPOKEN)
    session.run(1)
    [[first]] = calls(session)

    session.starts()
    assert cancelled(session) == [[{"id": first["id"], "name": "create_goal"}]]
    session.tell(answer(first))
    session.says("")
    session.run(1)
    [_, [second]] = calls(session)
    session.tell(answer(second))
    session.run(5)

    assert first["id"] != second["id"]
    assert session.said() == ["Done.", "Is there anything else?"]


def test_a_barge_in_before_the_call_was_made_keeps_it_from_being_made(hasty):
    session = hasty(deferred=["create_goal"])
    session.says(SPOKEN)
    session.run(0.4)

    session.starts()
    session.says("Leave it.")
    session.run(5)

    assert calls(session) == cancelled(session) == []
    assert session.said()[0] == "All right, I will leave that."


def test_a_script_knows_what_comes_and_guesses_nothing(hasty):
    script = Script(turns=(Turn(when="text", say=("Yes?",)),))

    assert not hasty(script=script).agent.dialogue.planner.guesses
    assert hasty(deferred=["create_goal"]).agent.dialogue.planner.guesses
    every = ["create_goal", "create_task", "reschedule_task"]
    assert not hasty(deferred=every).agent.dialogue.planner.guesses


# --- injected messages -------------------------------------------------------------------------


def inject(behavior=None, message="Are you there?"):
    extra = {"behavior": behavior} if behavior else {}
    return {"type": "InjectAgentMessage", "message": message, **extra}


def test_an_injected_message_is_spoken_when_nobody_is(line):
    session = line()
    session.start()

    session.tell(inject())
    session.run(5)

    assert session.shape == ["ConversationText", "History", "audio", "AgentAudioDone"]


@pytest.mark.parametrize("behavior", [None, "default"])
def test_an_injected_message_is_refused_while_the_agent_speaks(line, behavior):
    session = speaking(line)

    session.tell(inject(behavior))

    assert session.types == ["InjectionRefused"]


@pytest.mark.parametrize("behavior", ["default", "queue"])
def test_an_injected_message_is_refused_while_the_user_speaks(line, behavior):
    session = line()
    session.start()
    session.starts()

    session.tell(inject(behavior))

    assert session.types == ["UserStartedSpeaking", "InjectionRefused"]


def test_a_queued_message_follows_the_reply(line):
    session = speaking(line)

    session.tell(inject("queue"))
    session.run(20)

    assert session.said() == ["Never said.", "Are you there?"]


def test_an_interrupting_message_cuts_the_reply(line):
    session = speaking(line)

    session.tell(inject("interrupt"))
    session.run(5)

    assert session.shape[0] == "AgentAudioDone"
    assert session.said() == ["Are you there?"]


# --- updates -----------------------------------------------------------------------------------

LISTEN = {"provider": {"type": "deepgram", "version": "v2", "model": "flux-general-en"}}


@pytest.mark.parametrize(
    ("update", "ack"),
    [
        ({"type": "UpdatePrompt", "prompt": "Be kind."}, "PromptUpdated"),
        ({"type": "UpdateThink", "think": [THINK]}, "ThinkUpdated"),
        ({"type": "UpdateSpeak", "speak": SPEAK}, "SpeakUpdated"),
        ({"type": "UpdateListen", "listen": LISTEN}, "ListenUpdated"),
    ],
)
def test_updates_are_acknowledged_but_not_while_the_user_speaks(line, update, ack):
    session = line()
    session.start()
    session.tell(update)
    session.run(0.3)
    assert session.types == [ack]

    session.starts()
    session.tell(update)
    session.run(2)
    assert session.types.count(ack) == 1
    session.says("Hello")
    session.run(0.3)
    assert session.types.count(ack) == 2


def test_update_think_replaces_the_functions(line, registry):
    session = line()
    session.start(think={**THINK, "functions": registry})

    session.tell({"type": "UpdateThink", "think": {**THINK, "functions": registry[2:]}})
    session.tell(INJECT)
    session.run(9)

    assert session.said()[-1] == "I can reschedule a task."


def test_force_end_turn_needs_flux(line):
    session = line()
    session.start()

    session.tell({"type": "ForceEndTurn"})

    assert session.messages[-1]["code"] == "FORCE_END_TURN_UNSUPPORTED"


def test_force_end_turn_ends_the_speech(line):
    session = line()
    session.start(listen=LISTEN)
    session.tell({"type": "ForceEndTurn"})
    session.starts()

    session.tell({"type": "ForceEndTurn"})

    assert session.others.count(EndSpeech()) == 1
    assert "Warning" not in session.types


# --- real voices -------------------------------------------------------------------------------


def test_sentences_wait_for_their_voice_and_stay_in_order(line):
    session = line(speech=object())
    session.start(greeting="Hi.")
    session.run(1)
    [voice] = session.voices
    assert session.said() == []

    session.voice(voice, bytes(48_000))
    session.run(2)
    assert session.shape == ["ConversationText", "History", "audio", "AgentAudioDone"]
    assert b"".join(session.frames) == bytes(48_000)


def test_a_voice_that_comes_late_is_spoken_when_it_is_there(line):
    session = line(speech=object(), script=Script(turns=(Turn(say=("One.", "Two.")),)))
    session.start()
    session.run(0.1)
    one, two = session.voices
    session.voice(one, bytes(4_800))
    session.run(3)
    assert session.said() == ["One."]

    session.voice(two, bytes(4_800))
    session.run(1)

    assert session.said() == ["One.", "Two."]
    assert session.types[-1] == "AgentAudioDone"


def test_voices_that_come_early_wait_for_their_turn(line):
    session = line(speech=object(), script=Script(turns=(Turn(say=("One.", "Two.", "Three.")),)))
    session.start()
    session.run(0.1)

    for voice in session.voices:
        session.voice(voice, bytes(48_000))
        session.run(0.1)
    session.run(5)

    assert session.said() == ["One.", "Two.", "Three."]
    assert session.time_of("ConversationText", 2) - session.time_of("ConversationText", 0) == 2.0
    assert b"".join(session.frames) == bytes(144_000)


def test_a_voice_for_a_reply_that_was_cut_is_forgotten(line):
    session = line(speech=object())
    session.start(greeting="Hi.")
    session.run(1)
    [voice] = session.voices
    session.starts()

    session.voice(voice, bytes(48_000))
    session.run(2)

    assert session.shape == ["UserStartedSpeaking"]


# --- scripts and faults ------------------------------------------------------------------------


def test_scripted_turns_follow_one_another(line):
    turns = (
        Turn(after=1.0, user="Hello", say=("Hi.",)),
        Turn(after=1.0, user="Never mind"),
        Turn(after=1.0, end=Ending("close", 4000, "bye")),
    )
    session = line(script=Script(turns=turns))
    session.start()

    session.run(10)

    assert session.said("user") == ["Hello", "Never mind"]
    assert session.types.count("UserStartedSpeaking") == 2
    assert session.ending == Ending("close", 4000, "bye")


def test_a_scripted_barge_in_cuts_the_turn_and_the_script_goes_on(line):
    turns = (Turn(say=("Long.",), seconds=5.0, barge_in=1.0), Turn(user="Stop", say=("Yes?",)))
    session = line(script=Script(turns=turns), pace=1.0)
    session.start()

    session.run(10)

    assert session.shape[:5] == [
        "ConversationText",
        "History",
        "audio",
        "UserStartedSpeaking",
        "AgentAudioDone",
    ]
    assert session.said() == ["Long.", "Yes?"]


def test_a_turn_can_begin_with_microphone_audio(line):
    session = line(script=Script(turns=(Turn(when="audio", after=1.0, say=("Heard.",)),)))
    session.start(audio={"input": {"encoding": "mulaw", "sample_rate": 8000}})

    for _ in range(49):
        session.hear(bytes(160))
    session.run(1)
    assert session.said() == []
    session.hear(bytes(160))
    session.run(1)

    assert session.said() == ["Heard."]


def test_a_script_can_loop(line):
    session = line(script=Script(turns=(Turn(say=("Again.",), seconds=0.5),), loop=True))
    session.start()

    session.run(5)

    assert len(session.said()) > 5


def test_typed_words_put_a_turn_off_that_time_begins(line):
    turns = (Turn(after=3.0, say=("Late.",)), Turn(when="text", say=("Answer.",)))
    session = line(script=Script(turns=turns))
    session.start()

    session.run(1)
    session.tell(INJECT)
    session.run(6)
    session.tell(INJECT)
    session.run(3)

    assert session.said() == ["Late.", "Answer."]


def test_words_without_a_turn_in_the_script_are_not_answered(line):
    session = line(script=Script())
    session.start()

    session.tell(INJECT)
    session.run(5)

    assert session.types == ["ConversationText", "History", "EndOfTurn"]


@pytest.mark.parametrize("kind", ["error", "close", "drop"])
def test_a_fault_happens_when_its_message_comes(line, settings, kind):
    session = line(faults={"Settings": Ending(kind)})

    session.tell(settings())
    session.run(1)

    assert session.ending.kind == kind
    assert "SettingsApplied" not in session.types


def test_welcome_and_settings_applied_can_be_kept_back(line, settings):
    session = line(welcome_delay=None, settings_delay=None)

    session.tell(settings())
    session.run(20)

    assert session.log == []


def test_it_says_what_it_is_doing(line):
    session = line()
    session.start()

    assert "OPEN IDLE" in repr(session.agent)


def test_any_order_of_client_messages_keeps_the_promises(line, registry, settings):
    """Every order of a few things a client may do: never two endings, never a word after one, and
    each AgentAudioDone belongs to audio."""
    moves = (INJECT, inject("queue"), inject("interrupt"), "starts", "says")
    for order in itertools.permutations(moves):
        session = line(late_frames=1)
        session.start(think={**THINK, "functions": registry})
        for move in order:
            match move:
                case "starts":
                    session.starts()
                case "says":
                    session.says("yes")
                case _:
                    session.tell(move)
            session.run(0.5)
        session.run(30)

        assert session.ending is None
        begun = session.shape.count("ConversationText")
        assert session.types.count("AgentAudioDone") <= begun
        assert session.agent.dialogue.phase.name == "IDLE"
