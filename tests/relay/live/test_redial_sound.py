"""While an agent is dialled again for long the browser hears a tone, where agent.yaml wants it."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from config.agent import AudioOutput
from relay.live import redial_sound
from relay.protocol.audio_formats import tone
from tests.relay.wires import agent_and_relay, next_event


def turn_on(relay):
    registry = relay.session_registry
    current = registry._current
    agent = msgspec.structs.replace(current.configuration.agent, redial_sound="on")
    current.configuration = msgspec.structs.replace(current.configuration, agent=agent)


async def lose(agent, browser):
    """The agent is replaced: the audio that comes from the loss to `RelayReconnected`."""
    await next_event(browser, "SettingsApplied")
    agent.connections[-1].transport.abort()
    await next_event(browser, "RelayReconnecting")
    heard = []
    async with asyncio.timeout(5):
        while isinstance(frame := await browser.recv(), bytes):
            heard.append(frame)
    assert json.loads(frame) == {"type": "RelayReconnected"}
    return heard


async def test_a_long_redial_is_heard_until_it_is_over(monkeypatch):
    monkeypatch.setattr(redial_sound, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(redial_sound, "AGAIN_SECONDS", 0.05)
    async with agent_and_relay() as (agent, relay):
        turn_on(relay)
        async with relay.attach() as browser:
            heard = await lose(agent, browser)

            assert set(heard) == {tone(AudioOutput(encoding="linear16", sample_rate=24000))}
            assert len(heard) > 1
            # Nothing more after it: the next that comes is the agent's.
            await agent.connections[-1].send(b"\1\1")
            assert await browser.recv() == b"\1\1"


async def test_a_short_one_is_not():
    async with agent_and_relay() as (agent, relay):
        turn_on(relay)
        async with relay.attach() as browser:
            assert await lose(agent, browser) == []


async def test_without_being_asked_for_there_is_no_sound(monkeypatch):
    monkeypatch.setattr(redial_sound, "FIRST_SECONDS", 0.0)
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        assert await lose(agent, browser) == []


@pytest.mark.parametrize("encoding", ["linear16", "mulaw", "alaw"])
def test_it_is_an_audible_tone_in_each_encoding(encoding):
    made = tone(AudioOutput(encoding=encoding, sample_rate=8000))

    assert len(made) % 2 == 0
    assert len(set(made)) > 10
