"""What the next agent is told of the conversation: nothing empty, and never more than it takes."""

from __future__ import annotations

import json

import pytest

from tests.outside.page import talking

AGENT_TAKES = 1 << 20  # the usual limit of a WebSocket server, and that of the one here


@pytest.fixture
async def talk(stage):
    async with talking(stage) as talk:
        yield talk


def told(settings):
    return settings["agent"].get("context", {}).get("messages", [])


async def lose_agent(talk, page):
    """It is dialled again, and gets the Settings that are returned."""
    await talk.agent.connections[-1].close(1011)
    await page.until(lambda event: event["type"] == "RelayReconnected")
    return talk.settings[-1]


async def test_lines_without_words_are_not_told(talk):
    """Empty, and white space of all kinds."""
    relay = talk.relay()
    await relay.start()
    page = await talk.page(relay)
    for content in ("one", "", " ", "\n\t", "\u00a0\u3000", "two"):
        await talk.say({"type": "ConversationText", "role": "assistant", "content": content})
    await page.until_ticked(6)

    settings = await lose_agent(talk, page)

    assert [line["content"] for line in told(settings)] == ["one", "two"]
    assert "context_cut" not in relay.output


async def test_forty_long_lines_are_told_as_far_as_the_agent_takes_them(talk):
    """The newest, in order, after a redial and after a resume; one log line each."""
    relay = talk.relay()
    await relay.start()
    page = await talk.page(relay)
    for number in range(40):
        content = f"line {number}: " + "\N{SNOWMAN} " * 12_000
        await talk.say({"type": "ConversationText", "role": "assistant", "content": content})
    await page.until_ticked(40)

    redialled = await lose_agent(talk, page)
    await page.socket.close()
    await talk.page(relay, conversation_id=page.conversation_id)
    resumed = talk.settings[-1]

    for settings in (redialled, resumed):
        assert len(json.dumps(settings)) < AGENT_TAKES / 4
        heads = [line["content"].split(":")[0] for line in told(settings)]
        assert heads == [f"line {number}" for number in range(40 - len(heads), 40)]
        assert len(heads) > 3
    lines = [line for line in relay.output.splitlines() if "context_cut" in line]
    assert len(lines) == 2
    assert "\N{SNOWMAN}" not in relay.output


async def test_one_giant_line_is_told_cut_and_marked(talk):
    relay = talk.relay()
    await relay.start()
    page = await talk.page(relay)
    await talk.line(page, "assistant", "word " * 150_000)

    (line,) = told(await lose_agent(talk, page))

    assert line["content"].startswith("word word")
    assert line["content"].endswith("(cut)")
    assert len(line["content"]) < 10_000


async def test_calls_are_told_within_the_same_bounds(talk):
    """Arguments as long as they may be, which stay JSON."""
    relay = talk.relay()
    await relay.start()
    page = await talk.page(relay)
    arguments = json.dumps({"title": "x" * 30_000})
    for number in range(20):
        call = {"id": f"c{number}", "name": "no_such", "arguments": arguments, "client_side": True}
        await talk.say({"type": "FunctionCallRequest", "functions": [call]})
        await page.until(lambda event: event.get("status") == "rejected")

    settings = await lose_agent(talk, page)

    assert len(json.dumps(settings)) < AGENT_TAKES / 4
    calls = [call for line in told(settings) for call in line["function_calls"]]
    assert calls
    assert calls[-1]["id"] == "c19"
    for call in calls:
        assert json.loads(call["arguments"])
        assert call["response"], call
