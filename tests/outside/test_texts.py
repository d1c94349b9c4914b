"""Lines of a conversation in odd forms: what a browser is shown is what is stored, and ticked."""

from __future__ import annotations

import json

import pytest

from tests.outside.page import talking

FFFD = "\N{REPLACEMENT CHARACTER}"
LAST = "The last one."


def line(**fields):
    return json.dumps({"type": "ConversationText", **fields})


# What the agent says, and what is shown and stored of it; None: neither.
ODD = {
    "half a pair": (line(role="assistant", content="a \ud83d b"), ("assistant", f"a {FFFD} b")),
    "nothing else": (line(role="user", content="\ud83d"), ("user", FFFD)),
    "the other half": (line(role="user", content="\ude00!"), ("user", f"{FFFD}!")),
    "behind a backslash": (line(role="user", content="\\\ud83dx"), ("user", f"\\{FFFD}x")),
    "in the wrong order": (line(role="user", content="\ude00\ud83d"), ("user", FFFD * 2)),
    "beside a whole pair": (
        line(role="user", content="\ud83d\ud83d\ude00"),
        ("user", f"{FFFD}\N{GRINNING FACE}"),
    ),
    "half a pair elsewhere": (line(role="user", content="hi", x="\ud83d"), ("user", "hi")),
    "NUL": (line(role="assistant", content="a\0b"), ("assistant", f"a{FFFD}b")),
    "a number": (line(role="assistant", content=42), ("assistant", "42")),
    "true": (line(role="assistant", content=True), ("assistant", "true")),
    "an object": (line(role="user", content={"text": "x"}), ("user", '{"text": "x"}')),
    "an array": (line(role="user", content=["x"]), ("user", '["x"]')),
    "very long": (
        line(role="assistant", content="word " * 60_000),
        ("assistant", "word " * 60_000),
    ),
    "unknown fields": (line(role="user", content="hm", x={"y": [1]}), ("user", "hm")),
    "empty": (line(role="assistant", content=""), ("assistant", "")),
    "role system": (line(role="system", content="the prompt"), None),
    "role developer": (line(role="developer", content="the prompt"), None),
    "role unknown": (line(role="dog", content="woof"), None),
    "role missing": (line(content="who?"), None),
    "role an object": (line(role={"name": "user"}, content="who?"), None),
    "content null": (line(role="user", content=None), None),
    "content missing": (line(role="user"), None),
    "too deep": (f'{{"type":"ConversationText","content":{"[" * 3000}{"]" * 3000}}}', None),
    "not JSON": ('{"type":"ConversationText","role":"user","content":NaN}', None),
}


@pytest.fixture
async def talk(stage):
    async with talking(stage) as talk:
        yield talk


async def test_what_is_shown_is_stored_and_ticked_whatever_form_it_has(talk):
    relay = talk.relay()
    await relay.start()
    page = await talk.page(relay)
    expected = [shown for _, shown in ODD.values() if shown is not None] + [("user", LAST)]

    for said, _ in ODD.values():
        await talk.say(said)
    await talk.say(line(role="user", content=LAST))
    await page.until_ticked(len(expected))

    assert list(page.bubbles.values()) == expected
    assert await page.stored() == page.bubbles
    assert page.ticks == {seq: role for seq, (role, _) in page.bubbles.items()}
    assert "Traceback" not in relay.output
    assert "the prompt" not in relay.output


async def test_what_is_said_by_the_way_is_stored_and_takes_no_turn(talk):
    """A backchannel, a filler: the user goes on with the same turn."""
    relay = talk.relay()
    await relay.start()
    page = await talk.page(relay)

    await talk.line(page, "user", "I want to")
    for kind in ("backchannel", "filler", "presence_check"):
        await talk.say(line(role="assistant", content="mhm", conversational_behavior=kind))
    await talk.line(page, "user", "run a marathon.")
    await talk.say(line(role="assistant", content="Fine.", conversational_behavior="default"))
    await page.until_ticked(6)

    url = f"{relay.url}/api/v1/voice/conversations/{page.conversation_id}/messages"
    items = (await talk.http.get(url)).json()["items"]
    assert [item["turn"] for item in items] == [1, 1, 1, 1, 1, 2]
    assert await page.stored() == page.bubbles


async def test_a_conversation_of_odd_lines_is_listed_and_resumed(talk):
    """Titles, pages and the next agent's context are made of the same text."""
    relay = talk.relay()
    await relay.start()
    page = await talk.page(relay)
    await talk.say(line(role="user", content="\ud83d Marathon\0"))
    await page.until_ticked(1)
    await page.socket.close()

    again = await talk.page(relay, conversation_id=page.conversation_id)

    said = f"{FFFD} Marathon{FFFD}"
    listed = (await talk.http.get(f"{relay.url}/api/v1/voice/conversations")).json()["items"]
    assert [item["title"] for item in listed] == [said]
    assert again.begun["messages"][0]["content"] == said
    (told,) = talk.settings[-1]["agent"]["context"]["messages"]
    assert told == {"type": "History", "role": "user", "content": said}
