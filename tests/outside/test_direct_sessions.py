"""One conversation, two nodes, two transports: the newest session has it, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from tests.outside.clock import DAY, Clock
from tests.outside.page import API, SECONDS, talking


@pytest.fixture
async def talk(stage):
    async with talking(stage) as talk:
        yield talk


class Direct:
    """A client of the direct transport at one of the relays."""

    def __init__(self, http, relay, begun):
        self.http, self.relay, self.begun = http, relay, begun

    async def say(self, role, content):
        """The answer to a report."""
        url = f"{self.relay.url}{API}/conversations/{self.begun['conversation_id']}/messages"
        said = {"id": str(uuid4()), "session_id": self.begun["session_id"]}
        return await self.http.post(url, json=said | {"role": role, "content": content})


@pytest.fixture
async def nodes(talk, stage):
    """Two relays that may begin direct sessions."""
    environ = {"RELAY_DIRECT_TRANSPORT": "on", "DEEPGRAM_API_URL": stage.sandbox.api_url}
    relays = [talk.relay(**environ), talk.relay(**environ)]
    await start(*relays)
    return relays


async def start(*relays):
    async with asyncio.TaskGroup() as tasks:
        for relay in relays:
            tasks.create_task(relay.start())


async def begin_direct(stage, relay, **wish):
    answer = await stage.http.post(f"{relay.url}{API}/session", json={"transport": "direct"} | wish)
    assert answer.status_code == 201, answer.text
    return Direct(stage.http, relay, answer.json())


async def closed(page):
    with pytest.raises(ConnectionClosed) as ended:
        await page.until(lambda _: False)
    return ended.value.rcvd.code, ended.value.rcvd.reason


async def until_stored(page, count):
    async with asyncio.timeout(SECONDS):
        while len(stored := await page.stored()) < count:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.05)
        return [content for _, (_, content) in sorted(stored.items())]


async def test_a_direct_session_takes_a_conversation_from_a_relay_session_elsewhere(
    talk, stage, nodes
):
    a, b = nodes
    page = await talk.page(a)
    await talk.line(page, "user", "one")

    direct = await begin_direct(stage, b, conversation_id=page.conversation_id)
    reported = await direct.say("user", "direct")

    assert reported.status_code == 201
    assert [m["content"] for m in direct.begun["messages"]] == ["one"]
    assert await closed(page) == (1000, "continued elsewhere")
    assert await until_stored(page, 2) == ["one", "direct"]


async def test_what_the_relay_session_before_says_late_takes_no_number_of_a_direct_one(
    talk, stage, nodes
):
    """Its relay is frozen while the direct session begins, and hears an agent's words after it."""
    a, b = nodes
    page = await talk.page(a)
    await talk.line(page, "user", "one")
    a.signal(signal.SIGSTOP)
    await talk.say({"type": "ConversationText", "role": "assistant", "content": "late"})

    direct = await begin_direct(stage, b, conversation_id=page.conversation_id)
    assert (await direct.say("user", "direct")).status_code == 201
    a.signal(signal.SIGCONT)
    await closed(page)

    shown = [content for _, content in page.bubbles.values()]  # "late" or not, as it comes
    assert await until_stored(page, len(shown) + 1) == [*shown, "direct"]
    assert "message_conflict" not in a.output + b.output
    url = f"{b.url}{API}/conversations/{page.conversation_id}/messages"
    turns = [m["turn"] for m in (await stage.http.get(url)).json()["items"]]
    assert turns == sorted(turns)


async def test_a_relay_session_takes_a_conversation_from_a_direct_one_elsewhere(talk, stage, nodes):
    a, b = nodes
    direct = await begin_direct(stage, a)
    conversation_id = direct.begun["conversation_id"]
    assert (await direct.say("user", "one")).status_code == 201

    page = await talk.page(b, conversation_id=conversation_id)
    refused = await direct.say("user", "too late")
    await talk.line(page, "user", "two")

    assert (refused.status_code, refused.json()["code"]) == (409, "superseded")
    assert await until_stored(page, 2) == ["one", "two"]
    context = talk.settings[-1]["agent"]["context"]["messages"]
    assert [line["content"] for line in context] == ["one"]

    # Who attaches last has it, whoever began first: a relay session is begun, then a direct one.
    begun = await talk.begin(a, conversation_id=page.conversation_id)
    direct = await begin_direct(stage, b, conversation_id=page.conversation_id)
    assert (await direct.say("user", "three")).status_code == 201

    await begun.attach()
    await begun.until(lambda event: event["type"] == "SettingsApplied")
    refused = await direct.say("user", "too late")
    await talk.line(begun, "user", "four")

    assert (refused.status_code, refused.json()["code"]) == (409, "superseded")
    assert await until_stored(page, 4) == ["one", "two", "three", "four"]


async def test_of_two_direct_sessions_the_newer_one_reports(talk, stage, tmp_path):
    """Newer in truth: its node is ten days behind."""
    clock = Clock(tmp_path / "clock")
    clock.shift(-10 * DAY)
    environ = {"RELAY_DIRECT_TRANSPORT": "on", "DEEPGRAM_API_URL": stage.sandbox.api_url}
    right, behind = talk.relay(**environ), talk.relay(**environ, **clock.environ)
    await start(right, behind)
    first = await begin_direct(stage, right)
    second = await begin_direct(stage, behind, conversation_id=first.begun["conversation_id"])

    assert (await first.say("user", "too late")).json()["code"] == "superseded"
    assert (await second.say("user", "Hello.")).status_code == 201
