"""Who watches a session hears all that its rules were told, and what they asked for."""

from __future__ import annotations

import asyncio

import pytest

from relay.core import actions, events
from relay.core.records import SessionEnded
from relay.live import watchers
from relay.protocol import deepgram
from tests.relay.wires import agent_and_relay, next_event


class Listener:
    """Writes down what it is told, in order."""

    def __init__(self, beginning):
        self.beginning = beginning
        self.drawn = []
        self.events = []
        self.replies = self.counts = 0
        self.end = None

    def drew(self, value):
        self.drawn.append(value)

    def told(self, now, event, text, asked):
        self.events.append((now, event, text, asked))

    def replied(self, now):
        self.replies += 1

    def counted(self, now, counts):
        self.counts += 1
        self.last = counts

    def ended(self, now, ended):
        self.end = ended


async def talk(watches, listen=None):
    """A line of the user, and audio of the agent."""
    async with agent_and_relay(watches=watches, listen=listen) as (agent, relay):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await agent.say(type="ConversationText", role="user", content="hello")
            await next_event(browser, "ConversationText")
            await agent.connections[-1].send(bytes(640))
            async with asyncio.timeout(5):
                while isinstance(await browser.recv(), str):
                    pass
        await relay.until(SessionEnded)


async def test_a_watcher_hears_events_frames_and_actions_in_order():
    heard = []

    def watch(beginning):
        heard.append(Listener(beginning))
        return heard[-1]

    await talk(watches=[watch])

    (listener,) = heard
    _, first, text, asked = listener.events[0]
    assert (first, text) == (None, b"")
    assert isinstance(asked[-1], actions.DialAgent)
    frames = [(event, text) for _, event, text, _ in listener.events if text]
    assert [type(event.message).__name__ for event, _ in frames] == [
        "Welcome",
        "SettingsApplied",
        "ConversationText",
    ]
    assert all(deepgram.decode_server(text) == event.message for event, text in frames)
    assert listener.drawn[-1] == next(
        action.message.id
        for *_, asked in listener.events
        for action in asked
        if isinstance(action, actions.Store)
    )
    assert listener.replies == 1
    assert isinstance(listener.events[-1][1], events.BrowserClosed)
    assert listener.end.reason == "browser_left"
    assert listener.last.agent_frames == listener.end.figures.agent_frames == 1
    times = [now for now, *_ in listener.events]
    assert times == sorted(times)


class Defect(Listener):
    """Fails at one of the things that it is told."""

    def __init__(self, beginning, at):
        super().__init__(beginning)
        self.at = at

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "at"):
            raise ZeroDivisionError
        return super().__getattribute__(name)


@pytest.mark.parametrize("at", ["begin", "drew", "told", "counted", "replied", "ended"])
async def test_one_that_fails_hears_no_more_and_costs_nobody_anything(at, monkeypatch):
    heard = []
    said = []
    monkeypatch.setattr(watchers.log, "exception", said.append)

    def fail(beginning):
        if at == "begin":
            raise ZeroDivisionError
        return Defect(beginning, at)

    def watch(beginning):
        heard.append(Listener(beginning))
        return heard[-1]

    await talk(watches=[fail, watch])

    (listener,) = heard
    assert listener.end.reason == "browser_left"
    assert said == ["watcher_failed"]


async def test_one_that_cannot_listen_costs_nobody_anything_either(monkeypatch):
    heard = []
    said = []
    monkeypatch.setattr(watchers.log, "exception", said.append)

    def fail(beginning):
        raise ZeroDivisionError

    def watch(beginning):
        heard.append(Listener(beginning))
        return heard[-1]

    await talk(watches=[watch], listen=fail)

    (listener,) = heard
    assert listener.end.reason == "browser_left"
    assert said == ["watcher_failed"]
