"""What the real service sent, and what the sandbox sends, held against each other."""

import json
from pathlib import Path

import pytest

from relay.protocol import deepgram
from relay.sandbox import settings_check
from relay.sandbox.script import Call, Script, Turn

DATA = Path(__file__).parent / "data"
RECORDED = sorted((DATA / "recordings").glob("*-events.json"))
NAMES = [path.name for path in RECORDED]


def events(path):
    """The messages of a recording as they were on the wire."""
    for entry in json.loads(path.read_text()):
        data = entry["data"]
        if entry["type"] == "Open":
            continue
        if entry["type"] == "Unhandled":
            data = json.loads(data["raw"])
        data.setdefault("type", entry["type"])
        if entry["type"] == "Error":
            data.pop("message", None)  # added by the SDK that recorded it
        yield data


def conversation(direction):
    rows = map(json.loads, (DATA / "conversation.jsonl").read_text().splitlines())
    return [row["msg"] for row in rows if row["dir"] == direction and "msg" in row]


@pytest.mark.parametrize("path", RECORDED, ids=NAMES)
def test_the_relay_decodes_what_was_recorded(path):
    decoded = [deepgram.decode_server(json.dumps(event).encode()) for event in events(path)]

    assert not [m for m in decoded if isinstance(m, deepgram.Malformed)]
    assert {m.type for m in decoded if isinstance(m, deepgram.Unknown)} <= {"EndOfThought"}


def test_the_invented_conversation_fits_the_published_schema(published):
    for message in conversation("s2c"):
        published.check(message)
    for message in conversation("c2s"):
        published.check(message, side="client")


def test_the_strict_reading_accepts_what_the_published_schema_accepts():
    assert [settings_check.misfit(message) for message in conversation("c2s")] == [None] * len(
        conversation("c2s")
    )


def test_the_settings_of_the_recordings_are_accepted(settings):
    for path in (DATA / "recordings").glob("*-config.json"):
        agent = json.loads(path.read_text())["agent_config"]
        assert settings_check.misfit(settings(**agent)) is None


def turns_of(types):
    """The runs from one user text to the next, without what versions disagree about."""
    runs, current = [], None
    for name in types:
        if name == "UserText":
            current = []
            runs.append(current)
        elif current is not None and name not in ("EndOfThought", "EndOfTurn"):
            current.append(name)
    return runs


def named(messages):
    """Types, with the role for texts."""
    for message in messages:
        role = message.get("role")
        if message["type"] == "ConversationText":
            yield "UserText" if role == "user" else "AgentText"
        elif message["type"] == "History":
            yield "UserHistory" if role == "user" else "AgentHistory" if role else "CallHistory"
        else:
            yield message["type"]


def test_a_typed_turn_has_the_order_that_was_recorded(line):
    path = next(p for p in RECORDED if p.name.startswith("basic"))
    recorded = turns_of(named(events(path)))[-1]
    script = Script(turns=(Turn(when="text", say=("You're welcome!", "Feel free to ask!")),))
    session = line(script=script)
    session.start(top={"experimental": True})

    session.tell({"type": "InjectUserMessage", "content": "Thank you for your help."})
    session.run(10)

    sent = [name for name in turns_of(named(session.messages))[0] if name != "LatencyReport"]
    assert sent == recorded


def test_a_typed_turn_during_speech_has_the_order_that_was_recorded(line):
    path = next(p for p in RECORDED if p.name.startswith("basic"))
    recorded = turns_of(named(events(path)))[1]
    script = Script(
        turns=(Turn(when="text", say=("Of course!",)), Turn(when="text", say=("Four!",)))
    )
    session = line(script=script, pace=1.0)
    session.start(top={"experimental": True})
    session.tell({"type": "InjectUserMessage", "content": "Hello"})
    session.run(0.7)

    session.tell({"type": "InjectUserMessage", "content": "What is 2 + 2?"})
    session.run(10)

    sent = [name for name in turns_of(named(session.messages))[1] if name != "LatencyReport"]
    assert sent == recorded


def test_function_calls_have_the_order_that_was_recorded(line):
    path = next(p for p in RECORDED if p.name.startswith("function"))
    recorded = turns_of(named(events(path)))[-1]
    turn = Turn(when="text", calls=(Call("a"), Call("b")), say=("One.", "Two."))
    session = line(script=Script(turns=(turn,)))
    session.start(top={"experimental": True})

    session.tell({"type": "InjectUserMessage", "content": "The weather?"})
    for n in range(2):
        session.run(1)
        call = [m for m in session.messages if m["type"] == "FunctionCallRequest"][n]
        answer = {"id": call["functions"][0]["id"], "name": "a", "content": "{}"}
        session.tell({"type": "FunctionCallResponse", **answer})
    session.run(20)

    newer = ("LatencyReport", "FunctionCallResponse")
    sent = [name for name in turns_of(named(session.messages))[0] if name not in newer]
    assert sent == recorded


def test_a_barge_in_has_the_order_of_the_live_call(line):
    live = json.loads((DATA / "recordings" / "harness-live-2026-07.json").read_text())
    types = [event["type"] for event in live["all_events"]]
    cut = next(
        n
        for n in range(len(types))
        if types[n : n + 2] == ["UserStartedSpeaking", "AgentAudioDone"]
    )
    recorded = types[cut - 6 : cut + 11]
    script = Script(
        turns=(
            Turn(when="text", say=("A long one.",), seconds=3.0),
            Turn(when="text", say=("Yes?",)),
        )
    )
    session = line(script=script)
    session.start()

    for wait in (0.8, 5):
        session.starts()
        session.says("Wait")
        session.run(wait)

    sent = [name for name in session.types if name != "EndOfTurn"]
    assert any(sent[n : n + len(recorded)] == recorded for n in range(len(sent)))
