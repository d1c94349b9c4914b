"""`voice-relay talk` and a connection that breaks in the middle of the conversation."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import AsyncExitStack
from functools import partial

import pytest

from control.talk.caller import Line
from control.talk.cli import TalkOptions, talk
from tests.chaos.browser import API
from tests.chaos.link import Link, Mood
from tests.chaos.stage import staged, until

pytestmark = pytest.mark.timeout(120)
LINES = tuple(Line(f"line {number}") for number in range(3))


class Screen(io.StringIO):
    """What was shown, as JSON lines; `do` is called once, when a message with its words comes."""

    def __init__(self, words, do):
        super().__init__()
        self.words, self.do = words, do

    def write(self, text):
        if self.words in text and self.do is not None:
            do, self.do = self.do, None
            asyncio.get_running_loop().call_soon(do)
        return super().write(text)

    @property
    def events(self):
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def of(self, kind):
        return [event for event in self.events if event["event"] == kind]


async def test_talk_comes_back_and_goes_on_where_it_was(database_url, tmp_path):
    async with staged(tmp_path, database_url) as stage, AsyncExitStack() as stack:
        relay = stage.relay()
        await relay.start()
        link = await stack.enter_async_context(Link(relay.port))
        screen = Screen("What else is there to do?", link.cut)
        options = TalkOptions(url=link.url, inputs=LINES, as_json=True, timeout=30)

        code = await talk(options, screen)

        (end,) = screen.of("end")
        path = f"{relay.url}{API}/conversations/{end['conversation_id']}/messages"

        async def is_stored():
            stored = (await stage.http.get(path)).json()["items"]
            return [(m["role"], m["content"]) for m in stored] == shown

        shown = [(m["role"], m["content"]) for m in screen.of("message")]
        await until(is_stored, 15)
        path = f"{relay.url}{API}/session/{end['session_id']}"

        async def is_ended():
            session = (await stage.http.get(path)).json()
            return session["close_reason"] == "browser_left"

        await until(is_ended, 15)  # it said goodbye: nobody waits for it
    assert code == 0, screen.getvalue()
    assert [event["state"] for event in screen.of("connection")] == ["lost", "back"]
    assert [content for role, content in shown if role == "user"] == [line.text for line in LINES]


async def test_talk_gives_up_when_there_is_no_way_back(database_url, tmp_path, monkeypatch):
    monkeypatch.setattr("control.talk.connection.TRIES", 2)
    async with staged(tmp_path, database_url) as stage, AsyncExitStack() as stack:
        relay = stage.relay()
        await relay.start()
        link = await stack.enter_async_context(Link(relay.port))

        screen = Screen("What else is there to do?", partial(cut_off, link))
        options = TalkOptions(url=link.url, inputs=LINES, as_json=True, timeout=30)

        code = await talk(options, screen)

    assert code == 1
    assert [event["state"] for event in screen.of("connection")] == ["lost"]
    assert "2 tries did not mend it" in screen.of("error")[0]["detail"]


async def test_talk_says_that_a_session_is_over(database_url, tmp_path):
    async with staged(tmp_path, database_url) as stage, AsyncExitStack() as stack:
        relay = stage.relay()
        await relay.start()
        link = await stack.enter_async_context(Link(relay.port))
        screen = Screen("What else is there to do?", partial(cut_off, link))
        options = TalkOptions(url=link.url, inputs=LINES, as_json=True, timeout=30)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hang_up(stage, relay, link, screen))
            code = await talk(options, screen)

    assert code == 1
    assert "the session is over" in screen.of("error")[0]["detail"]


def cut_off(link):
    link.mood = Mood.REFUSING
    link.cut()


async def hang_up(stage, relay, link, screen):
    """From elsewhere, once the connection is broken."""

    async def is_lost():
        return screen.of("connection")

    await until(is_lost, 30)
    session = screen.of("session")[0]["session_id"]
    await stage.http.delete(f"{relay.url}{API}/session/{session}")
    link.mood = Mood.WELL
