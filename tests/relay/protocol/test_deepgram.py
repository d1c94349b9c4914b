from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.protocol import deepgram

DATA = Path(__file__).parents[2] / "sandbox" / "data"
RECORDINGS = sorted((DATA / "recordings").glob("*-events.json"))


def recorded(path):
    """The texts of a recording of the real service, as they came over the wire."""
    for row in json.loads(path.read_text()):
        data = row["data"]
        if row["type"] == "Unhandled":
            yield data["raw"]
        elif row["type"] not in ("Open", "Close"):
            yield json.dumps({"type": row["type"]} | data)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name[:30])
def test_every_recorded_event_of_the_real_service_is_understood(path):
    unknown = set()
    for text in recorded(path):
        message = deepgram.decode_server(text.encode())
        assert not isinstance(message, deepgram.Malformed), text
        if isinstance(message, deepgram.Unknown):
            unknown.add(message.type)
        else:
            assert type(message).__name__ == json.loads(text)["type"]
    assert unknown <= {"EndOfThought"}  # seen in 2025, documented nowhere


def test_there_are_recordings():
    assert len(RECORDINGS) >= 4


def test_the_made_up_conversation_is_understood_from_both_sides():
    kinds, unknown = set(), set()
    for line in (DATA / "conversation.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "msg" not in row:  # audio and closes
            continue
        decode = deepgram.decode_server if row["dir"] == "s2c" else deepgram.decode_client
        message = decode(json.dumps(row["msg"]).encode())
        assert not isinstance(message, deepgram.Malformed), line
        kinds.add(type(message))
        if isinstance(message, deepgram.Unknown):
            unknown.add(message.type)
    assert len(kinds) > 15
    assert unknown == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"type":"Welcome","request_id":"r","more":1}', deepgram.Welcome(request_id="r")),
        (b'{"a":1,"type":"KeepAlive"}', deepgram.Unknown(type="KeepAlive")),
        (b'{"type":"New","x":{"y":[1]}}', deepgram.Unknown(type="New")),
    ],
)
def test_a_receiver_is_tolerant(text, expected):
    assert deepgram.decode_server(text) == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"", ""),
        (b"[]", ""),
        (b"nonsense", ""),
        (b'{"no":"type"}', ""),
        (b'{"type":7}', ""),
        (b"\xff\xfe", ""),
        (b'{"type":"Welcome"}', "Welcome"),
        (b'{"type":"ConversationText","role":"dog","content":"x"}', "ConversationText"),
        (b'{"type":"FunctionCallRequest","functions":{}}', "FunctionCallRequest"),
        (b'{"type":"FunctionCallRequest","functions":[', ""),
    ],
)
def test_what_does_not_fit_is_malformed(text, kind):
    message = deepgram.decode_server(text)

    assert isinstance(message, deepgram.Malformed)
    assert message.type == kind
    assert message.reason


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        (r'"role":"user","content":"a\ud83d"', "a\ufffd"),
        (r'"role":"user","content":"\udc00\ud83d\ude00\\\ud83d"', "\ufffd\U0001f600\\\ufffd"),
        (r'"role":"user","content":"a\u0000"', "a\ufffd"),
        (r'"role":"user","content":["\u0000"]', r'["\u0000"]'),
        ('"role":"user","content": 1e3 ', "1e3"),
        ('"role":"user","content":{"a":"ü"}', '{"a":"ü"}'),
    ],
)
def test_a_line_in_an_odd_form_is_mended(fields, content):
    text = f'{{"type":"ConversationText",{fields}}}'.encode()

    message = deepgram.decode_server(text)

    assert isinstance(message, deepgram.Mended)
    assert message.message == deepgram.ConversationText(role="user", content=content)
    assert message.reason


@pytest.mark.parametrize(
    "fields",
    [
        '"role":"system","content":"x"',
        '"role":[],"content":"x"',
        '"content":"x"',
        '"role":"user"',
        '"role":"user","content":null',
        '"role":"user","content":7,"conversational_behavior":' + "[" * 4000 + "]" * 4000,
    ],
)
def test_a_line_that_nobody_says_or_without_content_is_malformed(fields):
    message = deepgram.decode_server(f'{{"type":"ConversationText",{fields}}}'.encode())

    assert isinstance(message, deepgram.Malformed)


def test_a_line_that_is_not_utf_8_is_malformed():
    text = b'{"type":"ConversationText","role":"user","content":"\xff"}'

    assert isinstance(deepgram.decode_server(text), deepgram.Malformed)


def test_half_a_surrogate_pair_breaks_no_message():
    assert deepgram.decode_server(rb'{"type":"Warning","code":"\ud83d"}') == deepgram.Warning(
        code="\ufffd"
    )
    assert deepgram.decode_server(rb'{"type":"New","x":"\ud83d"}') == deepgram.Unknown("New")


def test_a_client_message_is_told_from_a_server_message():
    text = b'{"type":"InjectUserMessage","content":"hi"}'

    assert deepgram.decode_client(text) == deepgram.InjectUserMessage(content="hi")
    assert deepgram.decode_server(text) == deepgram.Unknown(type="InjectUserMessage")


def test_nothing_that_was_left_out_is_written():
    """Deepgram's parser is strict: null and unknown fields end a session."""
    answer = deepgram.FunctionCallResponse(id="c", name="f", content="{}")

    assert json.loads(deepgram.encode(answer)) == {
        "type": "FunctionCallResponse",
        "id": "c",
        "name": "f",
        "content": "{}",
    }
    assert deepgram.encode(deepgram.KeepAlive()) == b'{"type":"KeepAlive"}'


@given(st.binary())
def test_no_bytes_make_the_decoders_raise(data):
    deepgram.decode_server(data)
    deepgram.decode_client(data)


def test_each_entry_of_a_request_is_read_on_its_own():
    text = b"""{"type": "FunctionCallRequest", "functions": [
        {"id": "a", "name": "f", "arguments": {"x": [1]}, "client_side": null},
        {"id": 7, "arguments": null, "thought_signature": 5},
        {"id": "b", "arguments": "{}"}, {"name": "f"}, 5, {"id": true}]}"""

    assert deepgram.decode_server(text) == deepgram.FunctionCallRequest(
        functions=[
            deepgram.FunctionCall(id="a", name="f", arguments='{"x": [1]}'),
            deepgram.FunctionCall(id="7", name=""),
            deepgram.FunctionCall(id="b", name="", arguments="{}"),
        ],
        unreadable=3,
    )


def test_each_entry_of_a_cancellation_is_read_on_its_own():
    text = b'{"type": "FunctionCallCancelled", "functions": [{"id": 7, "name": null}, {}]}'

    assert deepgram.decode_server(text) == deepgram.FunctionCallCancelled(
        functions=[deepgram.FunctionCall(id="7", name="")], unreadable=1
    )


@pytest.mark.parametrize("id", ["", "a"])
def test_an_answer_has_the_id_of_its_call_also_if_it_is_empty(id):
    answer = deepgram.FunctionCallResponse(id=id, name="f", content="{}")

    assert f'"id":"{id}"'.encode() in deepgram.encode(answer)
