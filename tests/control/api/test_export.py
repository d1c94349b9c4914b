"""A whole conversation as a file, over REST and on a real Postgres."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from control.api import export
from control.api.export import make_vcon_id
from control.auth.current_user import USER_ID
from control.db import conversations
from control.db.conversations import create_conversation, erase_conversation, rename_conversation
from control.db.sessions import create_session
from control.db.store import StoreUnavailable
from relay.protocol.relay_events import IntentStatus
from tests.control.api.test_rest import LiveHere, connect, make_app
from tests.control.attaching import take
from tests.control.db.test_agent_seconds import ended
from tests.control.db.test_conversations import NOW, SESSION, called, new_session, said

API = "/api/v1/voice/conversations"


@pytest.fixture
async def client(store):
    app = make_app(store, LiveHere(), public_url="https://voice.example.com")
    async with connect(app) as client:
        yield client


async def converse(store, *, messages=4, calls=2):
    """A session with so many lines, and calls after the first of them; the conversation."""
    conversation = (await create_conversation(store, uuid7(), user_id=USER_ID)).id
    session = new_session(conversation, user_id=USER_ID)
    await create_session(store, session, resume=True)
    await take(store, SESSION, b"hash")
    lines = [
        said(
            conversation,
            # Another relay left numbers free.
            seq if seq < 3 else seq + 1_000_000,
            f"line {seq}\nand more",
            role="user" if seq % 2 else "assistant",
            at=NOW + timedelta(seconds=seq),
        )
        for seq in range(1, messages + 1)
    ]
    asked = [
        called(
            conversation,
            id=uuid7(),
            after_seq=number,
            status=IntentStatus.SUBMITTED,
            result={"id": number},
            at=NOW + timedelta(seconds=number),
        )
        for number in range(calls)
    ]
    await store.write([*lines, *asked, ended(1, 12.5, at=NOW + timedelta(minutes=2))])
    return conversation


async def get(client, conversation, form=None):
    answer = await client.get(
        f"{API}/{conversation}/export", params={"format": form} if form else {}
    )
    assert answer.status_code == 200
    return answer


@pytest.mark.parametrize("piece", [1, 2, 3, 500])
async def test_json_has_all_that_the_other_calls_show(client, store, monkeypatch, piece):
    monkeypatch.setattr(export, "PIECE", piece)
    conversation = await converse(store, messages=6, calls=3)

    whole = (await get(client, conversation)).json()

    shown = {
        name: (await client.get(f"{API}/{conversation}/{name}")).json()["items"]
        for name in ("messages", "intents")
    }
    assert len(shown["messages"]) == 6
    assert len(shown["intents"]) == 3
    assert whole["intents"] == shown["intents"]
    assert whole["messages"] == shown["messages"]
    assert whole["conversation"] == (await client.get(f"{API}/{conversation}")).json()
    (session,) = whole["sessions"]
    path = f"/api/v1/voice/session/{SESSION}"
    chosen = {name: session.pop(name) for name in ("timezone", "voice", "language")}
    assert session == (await client.get(path)).json()
    assert chosen == {"timezone": "Europe/Berlin", "voice": None, "language": None}
    assert set(whole) == {"conversation", "sessions", "messages", "intents"}


@pytest.mark.parametrize("piece", [1, 2, 500])
async def test_the_text_is_a_transcript_with_the_times_of_the_user(
    client, store, monkeypatch, piece
):
    monkeypatch.setattr(export, "PIECE", piece)
    conversation = await converse(store, messages=3)
    await rename_conversation(store, conversation, user_id=USER_ID, title="A  run\nfor me")

    text = (await get(client, conversation, "text")).text

    begun = re.search(r"begun (.+)\. Times are of (.+)\.\n", text)
    assert begun[2] == "Europe/Berlin"
    assert text.startswith(f"A run for me\n\nConversation {conversation}, begun ")
    assert text.partition(".\n")[2] == (
        "04:04:05  *      GOAL (submitted) title: run\n"
        "\n--- 2 January 2026, until 04:06 (hung_up) ---\n\n"
        "04:04:06  You    line 1\n                 and more\n"
        "04:04:06  *      GOAL (submitted) title: run\n"
        "04:04:07  Agent  line 2\n                 and more\n"
        "04:04:08  You    line 3\n                 and more\n"
    )


@pytest.mark.parametrize("piece", [2, 500])
async def test_a_vcon_has_what_the_draft_asks_for(client, store, monkeypatch, piece):
    """Sections 4.1 to 4.4 of draft-ietf-vcon-vcon-core: names, kinds and indices."""
    monkeypatch.setattr(export, "PIECE", piece)
    conversation = await converse(store, messages=4, calls=4)

    answer = await get(client, conversation, "vcon")
    vcon = answer.json()

    assert answer.headers["content-type"] == "application/vcon"
    names = {"uuid", "created_at", "updated_at", "subject", "parties", "dialog", "attachments"}
    assert set(vcon) == names
    assert UUID(vcon["uuid"]).version == 8
    assert vcon["uuid"] == (await get(client, conversation, "vcon")).json()["uuid"]
    assert vcon["parties"] == [{"uuid": USER_ID, "type": "person"}, {"type": "bot"}]
    for dialog in vcon["dialog"]:
        fields = {"type", "start", "parties", "mediatype", "body", "encoding", "message_id"}
        assert set(dialog) == fields
        assert (dialog["type"], dialog["mediatype"]) == ("text", "text/plain")
        assert dialog["encoding"] == "none"
        assert datetime.fromisoformat(dialog["start"]).tzinfo is not None
    assert [(d["parties"], d["body"][:6]) for d in vcon["dialog"]] == [
        ([0, 1], "line 1"),
        ([1, 0], "line 2"),
        ([0, 1], "line 3"),
        ([1, 0], "line 4"),
    ]
    for attached in vcon["attachments"]:
        fields = {"purpose", "start", "party", "dialog", "mediatype", "body", "encoding"}
        assert set(attached) == fields
        assert (attached["encoding"], attached["mediatype"]) == ("json", "application/json")
        assert attached["party"] == 1
    session, *intents = vcon["attachments"]
    assert (session["purpose"], session["body"]["close_reason"]) == ("session", "hung_up")
    # After no message, after the first, the second, and the second again: 3 is left free.
    assert [(i["dialog"], i["body"]["result"]["id"]) for i in intents] == [
        (0, 0),
        (0, 1),
        (1, 2),
        (1, 3),
    ]


def test_the_id_of_a_vcon_has_the_time_of_the_conversation_and_our_name():
    conversation = uuid7()

    made = make_vcon_id(conversation, "voice.example.com")

    assert made.version == 8
    assert made.variant == conversation.variant
    assert made.int >> 80 == conversation.int >> 80, "the milliseconds"
    assert made.int >> 64 & 0xFFF == conversation.int >> 64 & 0xFFF
    digest = int.from_bytes(hashlib.sha1(b"voice.example.com").digest())
    assert made.int & (1 << 62) - 1 == digest >> 160 - 62
    assert make_vcon_id(conversation, "other.example.com") != made


@pytest.mark.parametrize("form", ["json", "text", "vcon"])
async def test_a_conversation_in_which_nothing_was_said_is_a_file_too(client, store, form):
    conversation = (await create_conversation(store, uuid7(), user_id=USER_ID)).id

    answer = await get(client, conversation, form)

    if form == "text":
        assert answer.text.startswith("Conversation\n\n")
        assert "Times are of UTC." in answer.text
    else:
        whole = answer.json()
        names = ("messages", "intents") if form == "json" else ("dialog", "attachments")
        assert [whole[name] for name in names] == [[], []]


@pytest.mark.parametrize(
    ("form", "media_type", "ending"),
    [
        ("json", "application/json", "json"),
        ("text", "text/plain; charset=utf-8", "txt"),
        ("vcon", "application/vcon", "vcon"),
    ],
)
async def test_the_file_has_a_name_that_every_system_takes(client, store, form, media_type, ending):
    conversation = await converse(store)
    evil = '../"; filename="evil.exe\r\nX: ä'
    await rename_conversation(store, conversation, user_id=USER_ID, title=evil)

    answer = await get(client, conversation, form)

    day = datetime.now(UTC).date()
    name = f"conversation-{day}-{str(conversation)[-12:]}.{ending}"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["content-type"] == media_type
    assert answer.headers["cache-control"] == "no-store"


async def test_only_its_owner_gets_it(store):
    conversation = await converse(store)
    async with connect(make_app(store, LiveHere(), user="somebody else")) as client:
        answer = await client.get(f"{API}/{conversation}/export")

    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


async def test_a_format_that_there_is_not_is_refused(client, store):
    conversation = await converse(store)

    answer = await client.get(f"{API}/{conversation}/export", params={"format": "pdf"})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["path"] == "format"


async def test_what_is_odd_in_texts_and_arguments_is_in_every_file(client, store):
    conversation = await converse(store, messages=1, calls=0)
    odd = 'not json "\\u0000 \\ud800'
    texts = ["\u2028 \x1b[31m <b>", ""]
    lines = [said(conversation, 5 + n, text, at=NOW) for n, text in enumerate(texts)]
    call = called(conversation, id=uuid7(), arguments=odd, intent=None, at=NOW)
    await store.write([*lines, call])

    whole = (await get(client, conversation)).json()
    vcon = (await get(client, conversation, "vcon")).json()
    text = (await get(client, conversation, "text")).text

    assert [m["content"] for m in whole["messages"]][1:] == texts
    assert [d["body"] for d in vcon["dialog"]][1:] == texts
    assert whole["intents"][0]["arguments"] == odd
    assert f"create_goal (submitting) {odd}" in text


async def test_a_conversation_that_is_erased_while_it_is_sent_ends_early(
    client, store, monkeypatch
):
    monkeypatch.setattr(export, "PIECE", 2)
    conversation = await converse(store, messages=6)
    lists = conversations.list_messages

    async def erase_then_list(*args, **more):
        if more["after_seq"]:
            await erase_conversation(store, conversation, user_id=USER_ID)
        return await lists(*args, **more)

    monkeypatch.setattr(conversations, "list_messages", erase_then_list)

    assert len((await get(client, conversation)).json()["messages"]) == 2


async def test_a_database_that_is_lost_in_the_middle_breaks_the_answer_off(
    client, store, monkeypatch
):
    monkeypatch.setattr(export, "PIECE", 2)
    conversation = await converse(store, messages=6)
    lists = conversations.list_messages

    async def lose(*args, **more):
        if more["after_seq"]:
            raise StoreUnavailable("away")
        return await lists(*args, **more)

    monkeypatch.setattr(conversations, "list_messages", lose)

    try:
        answer = await client.get(f"{API}/{conversation}/export")
    except Exception:  # the connection broke
        return
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.text)


async def test_messages_whose_session_is_not_known_are_exported(client, store):
    conversation = (await create_conversation(store, uuid7(), user_id=USER_ID)).id
    call = called(conversation, id=uuid7(), at=NOW)
    await store.write([said(conversation, 1, "hello", at=NOW), call])

    vcon = (await get(client, conversation, "vcon")).json()

    assert [d["body"] for d in vcon["dialog"]] == ["hello"]
    assert [a["purpose"] for a in vcon["attachments"]] == ["intent"]
    text = (await get(client, conversation, "text")).text
    assert text.endswith(
        "--- 2 January 2026 ---\n\n03:04:05  You    hello\n"
        "03:04:05  *      GOAL (submitting) title: run\n"
    )
