"""A session that is recorded: what the file has, what it has not, and that it plays again."""

from __future__ import annotations

import json
import os
import stat
from uuid import uuid4

import msgspec
import pytest

from config.env_types import Secret
from config.settings import Settings
from control.replay import play
from relay.core.records import SessionEnded
from relay.core.session import Session
from relay.recorder.recorder import Bounds, Recorder
from relay.telemetry.metrics import Metrics
from tests.relay.recorder.conftest import BOUNDS, find, lines
from tests.relay.wires import LIMITS, TICKET, next_event

SAID = "My sister Anna's birthday is on Friday"


async def converse(agent, relay, **attach):
    """A turn, a function call, and an agent that is lost twice."""
    async with relay.attach(**attach) as browser:
        ticket = (await next_event(browser, "RelaySession"))["resume_ticket"]
        await next_event(browser, "SettingsApplied")
        await agent.say(type="UserStartedSpeaking")
        await agent.say(type="ConversationText", role="user", content=SAID)
        arguments = json.dumps({"title": "Anna's birthday", "time_horizon": "month"})
        call = {"id": "call-1", "name": "create_goal", "arguments": arguments, "client_side": True}
        await agent.say(type="FunctionCallRequest", functions=[call])
        await agent.until(lambda: any(t["type"] == "FunctionCallResponse" for t in agent.texts))
        await agent.say(type="ConversationText", role="assistant", content="Noted, for Anna.")
        await next_event(browser, "ConversationText")
        for _ in range(2):
            agent.connections[-1].transport.abort()
            await next_event(browser, "RelayReconnecting")
            await next_event(browser, "RelayReconnected")
        await browser.send(json.dumps({"type": "InjectUserMessage", "content": "and cake"}))
        await browser.send(json.dumps({"type": "UpdatePrompt", "prompt": "be a pirate"}))
        await next_event(browser, "RelayError")
        await agent.say(type="AgentAudioDone")
        await next_event(browser, "AgentAudioDone")
    await relay.until(SessionEnded)
    return ticket


@pytest.mark.parametrize("keeps_content", [False, True])
async def test_a_session_that_lost_its_agent_twice_plays_again(recording, tmp_path, keeps_content):
    async with recording(keeps_content=keeps_content) as (agent, relay):
        await converse(agent, relay)

    played = play(find(tmp_path))
    assert played.is_whole
    assert played.events > 15
    assert str(played.difference or "") == ""


@pytest.mark.parametrize("keeps_content", [False, True])
async def test_a_broken_rule_is_found(recording, tmp_path, monkeypatch, keeps_content):
    async with recording(keeps_content=keeps_content) as (agent, relay):
        await converse(agent, relay)
    store = Session._store

    def forget_what_was_said(self, said, shown, now):
        return store(self, said, shown, now) if said.role == "user" else [shown]

    monkeypatch.setattr(Session, "_store", forget_what_was_said)

    difference = play(find(tmp_path)).difference
    assert difference.event == "ConversationText of the agent"
    assert difference.where == "actions[0].type"
    assert (difference.recorded, difference.now) == ("Store", "Forward")


async def test_a_history_without_a_call_is_found(recording, tmp_path, monkeypatch):
    async with recording() as (agent, relay):
        await converse(agent, relay)
    monkeypatch.setattr("relay.core.transcript.Transcript.add_calls", lambda self, calls: None)

    difference = play(find(tmp_path)).difference
    assert difference.where.startswith("actions[0].settings.agent.context.messages")


async def test_lines_have_the_envelope_that_deepgram_publishes(recording, tmp_path):
    async with recording() as (agent, relay):
        await converse(agent, relay)

    rows = lines(tmp_path)
    assert {tuple(row) for row in rows} == {
        (
            *("request_id", "session_id", "customer_id", "seq", "ts", "direction", "payload"),
            "relay",
        )
    }
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["direction"] for row in rows} == {None, "server_to_client", "client_to_server"}
    (settings, *_) = [row for row in rows if row["payload"]["type"] == "Settings"]
    assert (settings["direction"], settings["relay"]["side"]) == ("client_to_server", "agent")
    assert settings["request_id"] == "request-1"
    assert rows[0]["request_id"] is None
    assert rows[-1]["payload"]["type"] == "SessionEnded"
    assert sorted(row["ts"] for row in rows) == [row["ts"] for row in rows]


async def test_nothing_that_was_said_and_no_secret_is_in_a_redacted_file(recording, tmp_path):
    limits = Settings(
        **msgspec.structs.asdict(LIMITS),
        deepgram_api_key=Secret("the-key-of-the-settings"),
        database_url=Secret("postgresql://user:the-password@host/db"),
        orchestrator_url="http://localhost",
    )
    async with recording(limits=limits) as (agent, relay):
        ticket = await converse(agent, relay)

    text = find(tmp_path).read_text()
    for said in ("Anna", "sister", "birthday", "cake", "pirate", "You are", "goal in mind"):
        assert said not in text
    for secret in (ticket, TICKET, "the-real-key", "the-key-of-the-settings", "the-password"):
        assert secret not in text
    assert f"redacted:{len(SAID)}:" in text
    assert '"user"' not in text.replace('"role":"user"', "")  # who it was


async def test_content_is_kept_where_it_is_wanted_and_tickets_are_not(recording, tmp_path):
    async with recording(keeps_content=True) as (agent, relay):
        ticket = await converse(agent, relay)

    text = find(tmp_path).read_text()
    assert SAID in text
    assert ticket not in text


async def test_files_are_for_nobody_else(recording, tmp_path):
    async with recording() as (agent, relay):
        await converse(agent, relay)

    path = find(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_file_is_cut_at_its_bound_and_still_has_its_end(recording, tmp_path):
    bounds = Bounds(session_bytes=30_000, total_bytes=1 << 24, days=7.0)
    async with recording(bounds=bounds) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        for number in range(200):
            await agent.say(type="ConversationText", role="user", content=f"line {number}")
        await agent.say(type="AgentAudioDone")
        await next_event(browser, "AgentAudioDone")
        await browser.close()
        await relay.until(SessionEnded)

    kinds = [row["relay"]["kind"] for row in lines(tmp_path)]
    assert kinds[-2:] == ["cut", "end"]
    assert find(tmp_path).stat().st_size < 33_000
    played = play(find(tmp_path))
    assert not played.is_whole
    assert not played.difference


def test_lines_that_find_no_room_are_counted_and_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.recorder.recorder.WAITING_BYTES", 100)
    metrics = Metrics()
    recorder = Recorder(tmp_path, BOUNDS, metrics)
    path = tmp_path / "conversation" / "session.ndjson"

    assert recorder.put(path, b"a" * 99 + b"\n")
    assert not recorder.put(path, b"b\n")
    recorder.write()
    assert recorder.put(path, b"c\n")
    recorder.write()

    assert path.read_bytes() == b"a" * 99 + b"\nc\n"
    assert metrics.recording_lines_lost._value.get() == 1


def test_a_directory_that_cannot_be_written_costs_lines_and_nothing_else(tmp_path, caplog):
    metrics = Metrics()
    recorder = Recorder(tmp_path / "file", BOUNDS, metrics)
    (tmp_path / "file").write_text("not a directory")

    for _ in range(2):
        recorder.put(tmp_path / "file" / "conversation" / "session.ndjson", b"a\n")
        recorder.write()

    assert metrics.recording_lines_lost._value.get() == 2
    assert [record.message.split()[0] for record in caplog.records] == ["recording_refused"]


def test_the_oldest_go_when_there_is_too_much_and_the_old_in_any_case(tmp_path):
    recorder = Recorder(tmp_path, Bounds(session_bytes=1024, total_bytes=250, days=2.0), Metrics())
    paths = [tmp_path / str(uuid4()) / "session.0.ndjson" for _ in range(4)]
    for days, path in zip((3.0, 1.5, 1.0, 0.0), paths, strict=True):
        recorder.put(path, b"x" * 99 + b"\n")
        recorder.write()
        at = path.stat().st_mtime - days * 86400
        os.utime(path, (at, at))

    recorder.tidy()

    assert [path.exists() for path in paths] == [False, False, True, True]
    assert not paths[0].parent.exists()
    assert recorder._metrics.recording_bytes._value.get() == 200


STRANGE = [
    r'{"type":"ConversationText","role":"user","content":"nul \u0000 Anna"}',
    r'{"type":"ConversationText","role":"user","content":"half \ud83d Anna"}',
    '{"type":"ConversationText","role":"user","content":{"Anna":1}}',
    '{"type":"FunctionCallRequest","functions":[{"name":"x"},{"id":7,"arguments":{"a":"Anna"}}]}',
    '{"type":"Newest","about":"Anna"}',
    '{"type":"History","role":"x","content":"Anna"}',
    '"Anna"',
    "Anna",
]


async def test_strange_frames_play_again_and_say_nothing_either(recording, tmp_path):
    async with recording() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        for text in STRANGE:
            await agent.connections[-1].send(text)
        await browser.send(json.dumps({"type": "Own", "about": "Anna"}))
        await browser.send("Anna")
        await next_event(browser, "RelayError")
        await next_event(browser, "RelayError")
        await agent.say(type="AgentAudioDone")
        await next_event(browser, "AgentAudioDone")
        await browser.close()
        await relay.until(SessionEnded)

    played = play(find(tmp_path))
    assert str(played.difference or "") == ""
    assert played.is_whole
    assert "Anna" not in find(tmp_path).read_text()
