"""A node whose clock is days off, and cursors that nobody was given."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime

import asyncpg
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.outside.clock import DAY, Clock
from tests.outside.page import API, talking


@pytest.fixture
async def talk(stage):
    async with talking(stage) as talk:
        yield talk


def converse(relay, granted):
    """As one of Deepgram's own clients."""
    url = f"ws://127.0.0.1:{relay.port}/v1/agent/converse"
    return connect(url, subprotocols=["bearer", granted["access_token"]])


async def is_let_in(connecting):
    """Else the ticket was refused."""
    try:
        async with connecting as socket:
            await socket.recv()
    except InvalidStatus as refused:
        return refused.response.status_code != 401
    return True


@pytest.mark.parametrize("shift", [10 * DAY, -10 * DAY], ids=["ahead", "behind"])
async def test_tickets_expire_by_the_clock_of_the_database(talk, stage, tmp_path, shift):
    """Of two nodes the clock of one is wrong: each takes the tickets and grants of the other."""
    clock = Clock(tmp_path / "clock")
    clock.shift(shift)
    wrong, right = talk.relay(**clock.environ), talk.relay()
    async with asyncio.TaskGroup() as tasks:
        for relay in (wrong, right):
            tasks.create_task(relay.start())

    for begins, attaches in ((wrong, right), (right, wrong), (wrong, wrong)):
        page = await talk.page(begins, at=attaches)
        expires_in = datetime.fromisoformat(page.begun["ticket_expires_at"]) - datetime.now(UTC)
        assert 0 < expires_in.total_seconds() <= 61
        await talk.line(page, "user", "It works.")

        granted = (await stage.http.post(f"{begins.url}/v1/auth/grant")).json()
        # Another grant sweeps away what is too old.
        await stage.http.post(f"{attaches.url}/v1/auth/grant")
        assert await is_let_in(converse(attaches, granted))

    # Too old is what the database calls so, whatever the node thinks.
    granted = (await stage.http.post(f"{wrong.url}/v1/auth/grant")).json()
    page = await talk.begin(wrong)
    async with asyncpg.create_pool(stage.database_url, min_size=1) as database:
        await database.execute("UPDATE voice.grants SET expires_at = now()")
        await database.execute("UPDATE voice.sessions SET ticket_expires_at = now()")
    assert not await is_let_in(converse(wrong, granted))
    with pytest.raises(InvalidStatus):
        await page.attach()


UUID_1 = "00000000-0000-0000-0000-000000000001"
CRAFTED = [
    # Instants: the oldest, the newest, out of either calendar, without a zone, in another one.
    ["0001-01-01T00:00:00+01:00", UUID_1],
    ["0001-01-01T00:00:00+23:59", UUID_1],
    ["0001-01-01T00:00:00", UUID_1],
    ["9999-12-31T23:59:59.999999-01:00", UUID_1],
    ["9999-12-31T23:59:59-23:59", UUID_1],
    ["2026-01-01T00:00:00", UUID_1],
    ["infinity", UUID_1],
    ["-infinity", UUID_1],
    ["10000-01-01T00:00:00Z", UUID_1],
    [1e300, UUID_1],
    ["2026-01-01T00:00:00Z", "x"],
    ["2026-01-01T00:00:00Z", None],
    ["2026-01-01T00:00:00Z", UUID_1, 1],
    ["2026-01-01T00:00:00.0Z", UUID_1],
    # Numbers: of other lists, negative, huge, with a fraction.
    [1, 2, 3],
    [-1],
    [2**63],
    [2**64],
    [10**40],
    [1.5],
    [True],
    [None],
    [],
    {},
    None,
    "",
    5,
    [[[[[[[[]]]]]]]],
]
RAW = [
    "",
    "=",
    "!!",
    "A" * 200,
    "A" * 201,
    "A" * 5000,
    "\N{SNOWMAN}",
    "%00",
    "WzFd=",
    "Wz Fd",
    "-_-_",
]


def cursor_of(position, **style):
    text = json.dumps(position, **style) if style else json.dumps(position, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


async def test_a_crafted_cursor_is_a_400_at_every_list(talk, stage):
    relay = talk.relay()
    await relay.start()
    page = await talk.page(relay)
    conversation = f"{relay.url}{API}/conversations/{page.conversation_id}"
    lists = [
        f"{relay.url}{API}/conversations",
        f"{conversation}/messages",
        f"{conversation}/intents",
    ]
    crafted = [cursor_of(position) for position in CRAFTED] + RAW

    for url in lists:
        for cursor in crafted:
            answer = await stage.http.get(url, params={"cursor": cursor})
            assert answer.status_code == 400, (url, cursor, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["errors"][0]["path"] == "cursor"

    # What a cursor of ours could say, however odd: the ends of time and of numbers.
    for url, position in (
        (lists[0], ["0001-01-01T00:00:00Z", UUID_1]),
        (lists[0], ["9999-12-31T23:59:59.999999Z", UUID_1]),
        (lists[1], [0]),
        (lists[1], [2**63 - 1]),
        (lists[2], [2**63 - 1, UUID_1]),
    ):
        for query in ({}, {"q": "word"}) if url == lists[0] else ({},):
            answer = await stage.http.get(url, params={"cursor": cursor_of(position)} | query)
            assert answer.status_code == 200, (url, position, answer.text)


async def test_a_cursor_is_good_for_its_own_list_only(talk, stage):
    relay = talk.relay()
    await relay.start()
    pages = [await talk.page(relay) for _ in range(2)]
    for number in range(2):
        await talk.line(pages[1], "user", f"line {number}")
        call = {"id": f"c{number}", "name": "no_such", "arguments": "{}", "client_side": True}
        await talk.say({"type": "FunctionCallRequest", "functions": [call]})
        await pages[1].until(lambda event: event.get("status") == "rejected")
    base = f"{relay.url}{API}/conversations"
    lists = [base] + [
        f"{base}/{pages[1].conversation_id}/{what}" for what in ("messages", "intents")
    ]

    async def first(url):
        while True:  # the calls are on their way to the database
            answer = (await stage.http.get(url, params={"limit": 1})).json()
            if answer["next_cursor"]:
                return answer["next_cursor"]

    cursors = [await first(url) for url in lists]
    for url, own in zip(lists, cursors, strict=True):
        for cursor in cursors:
            answer = await stage.http.get(url, params={"cursor": cursor})
            assert answer.status_code == (200 if cursor == own else 400), (url, cursor)
