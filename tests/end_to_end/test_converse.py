"""The drop-in over real sockets: `/v1/auth/grant` and `/v1/agent/converse` as Deepgram has them."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from relay.live.session_runner import SessionRunner
from relay.sandbox.script import Ending, Script, Turn
from tests.end_to_end.test_relay import GOAL, whole
from tests.relay.wires import next_event

SETTINGS: dict[str, Any] = {
    "type": "Settings",
    "audio": {
        "input": {"encoding": "linear16", "sample_rate": 44100},
        "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
    },
    "agent": {
        "language": "en",
        "listen": {"provider": {"type": "deepgram", "model": "nova-3"}},
        "think": {
            "provider": {"type": "open_ai", "model": "gpt-4o-mini"},
            "prompt": "You are the client's own assistant.",
            "functions": [{"name": "of_the_client", "parameters": {"type": "object"}}],
        },
        "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
        "greeting": "The client's own greeting.",
    },
}
SWIM = Script(turns=(Turn(when="text", calls=(GOAL,), say=("Done.", "What else?")),), loop=True)


async def granted(program, **body):
    answer = await program.http.post("/v1/auth/grant", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


def dial(program, ticket, scheme="bearer", **more):
    url = str(program.http.base_url).replace("http", "ws", 1) + "/v1/agent/converse"
    more = {"subprotocols": [scheme, ticket], "compression": None} | more
    return connect(url, **more)


def settings(**audio):
    return json.dumps({**SETTINGS, "audio": {**SETTINGS["audio"], **audio}})


async def said(client, *types):
    """The JSON that comes until one of `types`, that one included."""
    found = []
    async with asyncio.timeout(10):
        while not found or found[-1]["type"] not in types:
            frame = await client.recv()
            if isinstance(frame, str):
                found.append(json.loads(frame))
    return found


async def rest(client):
    """All JSON until the close, and its code."""
    found = []
    async with asyncio.timeout(10):
        try:
            while True:
                frame = await client.recv()
                if isinstance(frame, str):
                    found.append(json.loads(frame))
        except ConnectionClosed:
            return found, client.close_code


async def test_what_deepgrams_starters_ask_of_a_relay(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=SWIM) as program:
        async with dial(program, await granted(program)) as client:
            (welcome,) = await said(client, "Welcome")
            assert client.response.headers["dg-request-id"] == welcome["request_id"]
            assert client.subprotocol == "bearer"
            await client.send(settings())
            await said(client, "SettingsApplied")
            await client.send('{"type": "InjectUserMessage"}')
            (error,) = (await said(client, "Error"))[-1:]
            assert error["code"] == "UNPARSABLE_CLIENT_MESSAGE"

            await client.send(json.dumps({"type": "InjectUserMessage", "content": "To swim"}))
            texts = []
            while not texts or texts[-1] != ("assistant", "What else?"):
                event = await next_event(client, "ConversationText")
                texts.append((event["role"], event["content"]))
        assert client.close_code == 1000

        assert ("user", "To swim") in texts
        assert ("assistant", "Done.") in texts
        session = await program.ended({"session_id": welcome["request_id"]})
        assert session["close_reason"] == "browser_left"
        agent = await program.sandbox.session()
        assert session["agent_request_id"] == agent.request_id != welcome["request_id"]


async def test_the_agent_is_ours_and_the_audio_is_the_clients(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=SWIM) as program:
        async with dial(program, await granted(program, timezone="Europe/Vienna")) as client:
            await client.send(json.dumps(json.loads(settings()) | {"mip_opt_out": True}))
            (warning,) = (await said(client, "SettingsApplied"))[1:-1]
            agent = await program.sandbox.session()
            told = agent.settings
            await client.send(json.dumps({"type": "InjectUserMessage", "content": "To swim"}))
            got = await said(client, "ConversationText")
            while got[-1].get("content") != "What else?":
                got += await said(client, "ConversationText")

        assert told["audio"]["input"] == {"encoding": "linear16", "sample_rate": 44100}
        assert told["flags"] == {"history": True}
        assert told["mip_opt_out"] is True
        assert warning["code"] == "SETTINGS_IGNORED"
        assert all(f"agent.{name}" in warning["description"] for name in SETTINGS["agent"])
        assert "client" not in json.dumps(told)
        assert {f["name"] for f in told["agent"]["think"][0]["functions"]} > {"create_goal"}
        history = [event for event in got if event["type"] == "History"]
        assert {"type": "History", "role": "user", "content": "To swim"} in history
        assert all("function_calls" not in event for event in history)
        assert not [e for e in got if e["type"].startswith(("Relay", "FunctionCall"))]
        (conversation,) = (await program.get("/conversations"))["items"]
        calls = (await program.get(f"/conversations/{conversation['id']}/intents"))["items"]
        assert [(c["intent"], c["status"]) for c in calls] == [("GOAL", "submitted")]


async def test_a_conversation_is_resumed_by_the_grant(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=SWIM) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            await next_event(browser, "ConversationText")
        ticket = await granted(program, conversation_id=begun["conversation_id"])
        async with dial(program, ticket) as client:
            await client.send(settings())
            await said(client, "SettingsApplied")
            agent = await program.sandbox.session(1)

            assert agent.settings["agent"]["context"]["messages"][0]["role"] == "assistant"
            assert len((await program.get("/conversations"))["items"]) == 1
        answer = await program.http.post(
            "/v1/auth/grant", json={"conversation_id": str(uuid.uuid4())}
        )
        assert answer.status_code == 404
        assert answer.json()["err_code"] == "NOT_FOUND"


WRONG_BEGINNINGS = [
    ('{"type":"KeepAlive"}', "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"),
    (b"\0\0" * 160, "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"),
    ("[object Blob]", "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"),
    ('{"type":"Settings","audio":{}}', "UNPARSABLE_CLIENT_MESSAGE"),
    (settings(input={"encoding": "flac", "sample_rate": 48000}), "INVALID_SETTINGS"),
    (settings(output={"encoding": "linear16", "sample_rate": 11025}), "INVALID_SETTINGS"),
    (settings(input="microphone"), "INVALID_SETTINGS"),
]


async def test_a_wrong_beginning_ends_as_at_deepgram(database_url, tmp_path):
    async with whole(database_url, tmp_path) as program:
        for number, (first, code) in enumerate(WRONG_BEGINNINGS):
            async with dial(program, await granted(program)) as client:
                await client.send(first)
                found, closed = await rest(client)

            assert [event["type"] for event in found] == ["Welcome", "Error"], first
            assert (found[1]["code"], closed) == (code, 1000)
            session = await program.ended({"session_id": found[0]["request_id"]})
            assert session["close_reason"] == "bad_settings"
            # The agent that was dialled ahead is let go, and was told nothing.
            agent = await program.sandbox.session(number)
            async with asyncio.timeout(2):
                await agent.until(lambda session: session.closed)
            assert agent.settings is None


async def test_settings_twice_and_forbidden_messages(database_url, tmp_path):
    async with whole(database_url, tmp_path) as program:
        async with dial(program, await granted(program)) as client:
            await client.send(settings())
            await said(client, "SettingsApplied")
            for message in ({"type": "UpdatePrompt", "prompt": "x"}, {"type": "Whatever"}):
                await client.send(json.dumps(message))
                assert (await said(client, "Error"))[-1]["code"] == "INSUFFICIENT_PERMISSIONS"
            await client.send(settings())
            found, closed = await rest(client)

        assert [e["code"] for e in found if e["type"] == "Error"] == ["SETTINGS_ALREADY_APPLIED"]
        assert closed == 1000


async def test_audio_right_after_settings_is_held_and_arrives_whole(database_url, tmp_path):
    frames = [bytes([n]) * 256 for n in range(100)] + [bytes([n]) * 8192 for n in range(8)]
    async with (
        whole(database_url, tmp_path, settings_delay=0.3, keep_audio=True) as program,
        dial(program, await granted(program)) as client,
    ):
        await client.send(settings())
        for frame in frames:
            await client.send(frame)
        await said(client, "SettingsApplied")
        agent = await program.sandbox.session()
        async with asyncio.timeout(5):
            await agent.until(lambda session: session.frames == len(frames))

        assert bytes(agent.audio) == b"".join(frames)


async def test_nothing_is_lost_when_the_session_has_its_turn_late(
    database_url, tmp_path, monkeypatch
):
    async def run_late(runner):
        await asyncio.sleep(0.3)
        await run(runner)

    async def heard(number):
        agent = await program.sandbox.session(number)
        async with asyncio.timeout(5):
            await agent.until(lambda session: session.frames == 1)
        return bytes(agent.audio)

    run = SessionRunner.run
    monkeypatch.setattr(SessionRunner, "run", run_late)
    frame = b"\1\2" * 320
    async with whole(database_url, tmp_path, keep_audio=True) as program:
        async with dial(program, await granted(program)) as client:
            await client.send(settings())
            await client.send(frame)
            types = [event["type"] for event in await said(client, "SettingsApplied")]
            assert types == ["Welcome", "Warning", "SettingsApplied"]
            assert await heard(0) == frame
        async with program.attach(await program.begin()) as browser:
            await browser.send(frame)
            types = [event["type"] for event in await said(browser, "SettingsApplied")]
            assert types == ["RelaySession", "Welcome", "SettingsApplied"]
            assert await heard(1) == frame


async def test_a_lost_agent_is_replaced_unseen(database_url, tmp_path):
    faults = {"InjectUserMessage": Ending(kind="drop")}
    async with whole(database_url, tmp_path, faults=faults) as program:
        async with dial(program, await granted(program)) as client:
            await client.send(settings())
            await said(client, "SettingsApplied")
            await client.send(json.dumps({"type": "InjectUserMessage", "content": "x"}))
            agent = await program.sandbox.session(1)
            async with asyncio.timeout(5):
                await agent.received("Settings")
            await client.close()
            found, _ = await rest(client)

        assert not [e for e in found if e["type"] in ("Welcome", "SettingsApplied")]
        assert not [e for e in found if e["type"].startswith("Relay")]
        assert agent.settings["audio"]["input"]["sample_rate"] == 44100


async def test_refusals_look_as_deepgrams_do(database_url, tmp_path):
    async with whole(database_url, tmp_path) as program:
        used = await granted(program)
        async with dial(program, used):
            pass
        fresh = await granted(program)
        elsewhere = {"additional_headers": {"Origin": "https://elsewhere.example"}}
        cases = [
            (401, dial(program, used)),
            (401, dial(program, "never-granted")),
            (401, dial(program, fresh, scheme="relay.v1")),
            (401, dial(program, fresh, subprotocols=None)),
            (403, dial(program, fresh, **elsewhere)),
        ]
        for status, attempt in cases:
            with pytest.raises(InvalidStatus) as refused:
                await attempt
            response = refused.value.response
            body = json.loads(response.body)
            assert response.status_code == status
            assert set(body) == {"err_code", "err_msg", "request_id"}
            assert (
                body["err_code"] == {401: "INVALID_AUTH", 403: "INSUFFICIENT_PERMISSIONS"}[status]
            )
        async with dial(program, fresh) as client:  # none of these used it up
            assert (await said(client, "Welcome"))[-1]["type"] == "Welcome"


async def test_a_header_is_as_good_as_a_subprotocol(database_url, tmp_path):
    async with whole(database_url, tmp_path) as program:
        for scheme in ("Token", "bearer", "BEARER"):
            header = {"Authorization": f"{scheme} {await granted(program)}"}
            async with dial(program, "", subprotocols=None, additional_headers=header) as client:
                assert client.subprotocol is None
                await said(client, "Welcome")
        session = ["x-deepgram-session-id", str(uuid.uuid4())]
        for offered in (
            ["token", await granted(program), *session],
            ["my.protocol", "token", await granted(program), *session],
        ):
            async with dial(program, "", subprotocols=offered) as client:
                assert client.subprotocol == "token"
                await said(client, "Welcome")


async def test_grants_have_bounds(database_url, tmp_path):
    async with whole(database_url, tmp_path) as program:
        plain = (await program.http.post("/v1/auth/grant")).json()
        short = (await program.http.post("/v1/auth/grant", json={"ttl_seconds": 1})).json()
        assert plain["expires_in"] == 60
        assert short["expires_in"] == 1
        for wrong in ({"ttl_seconds": 0}, {"ttl_seconds": 3601}, {"timezone": 7}, [1]):
            answer = await program.http.post("/v1/auth/grant", json=wrong)
            assert answer.status_code == 400, answer.text
            assert set(answer.json()) == {"err_code", "err_msg", "request_id"}
