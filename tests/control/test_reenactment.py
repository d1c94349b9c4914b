"""Both sides of a recording, played against a whole relay."""

from __future__ import annotations

import socket

import pytest
from websockets.asyncio.client import connect

from control.reenactment import ReenactmentFailed, reenact, staging
from relay.core import actions, session
from relay.core.records import SessionEnded
from relay.protocol import deepgram
from relay.recorder.recorder import Recorder
from relay.recorder.recording import read
from relay.telemetry.metrics import Metrics
from tests.relay.recorder.conftest import BOUNDS, find
from tests.relay.recorder.test_recorder import converse
from tests.relay.wires import TICKET, agent_and_relay, relaying


async def record(directory):
    """A session that lost its agent twice."""
    recorder = Recorder(directory, BOUNDS, Metrics())
    with recorder.running():
        async with agent_and_relay(watches=[recorder.watch]) as (agent, relay):
            await converse(agent, relay)
    return read(find(directory).read_bytes().splitlines(keepends=True))


async def play(recording, **options):
    """Against another relay, whose agent we are."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with relaying(f"ws://127.0.0.1:{port}/v1/agent/converse", **options) as relay:

        async def attach(ticket, received):
            url = relay.url(relay.session_id) + (f"?received={received}" if received else "")
            protocols = ["relay.v1", ticket or TICKET]
            return await connect(url, subprotocols=protocols, compression=None)

        async with staging(recording, attach, port) as scene:
            told = await reenact(recording, scene, speed=20.0)
        await relay.until(SessionEnded)
        return told


async def test_a_relay_tells_both_sides_what_was_recorded(tmp_path):
    recording = await record(tmp_path)

    told = await play(recording)

    assert told["agent"].count("Settings") == 3
    assert told["browser"].count("RelayReconnected") == 2
    assert "ConversationText" in told["browser"]


async def test_a_relay_that_does_otherwise_is_found(tmp_path, monkeypatch):
    recording = await record(tmp_path)
    instead = [actions.SendBrowser(deepgram.AgentThinking())]
    monkeypatch.setitem(
        session._AGENT_RULES, deepgram.AgentAudioDone, lambda self, said, now: instead
    )

    with pytest.raises(ReenactmentFailed, match=r"got AgentThinking .* not AgentAudioDone"):
        await play(recording)
