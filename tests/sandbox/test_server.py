"""The server on a real socket, with the `websockets` client."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from relay.protocol import deepgram
from relay.sandbox.options import Fault, Options
from relay.sandbox.script import Ending, Script, Turn
from relay.sandbox.server import run, serve

KEY = {"Authorization": "Token key"}


def dial(running, **more):
    more.setdefault("additional_headers", KEY)
    return connect(running.agent_url, compression=None, **more)


async def until(socket, name):
    """The messages up to and with the first of this type; binary frames as bytes."""
    seen = []
    async with asyncio.timeout(5):
        while True:
            frame = await socket.recv()
            seen.append(frame if isinstance(frame, bytes) else json.loads(frame))
            if isinstance(frame, str) and seen[-1]["type"] == name:
                return seen


async def test_a_session_from_welcome_to_hang_up(settings):
    async with serve(Options()) as running:
        async with dial(running) as socket:
            await socket.send(json.dumps(settings(greeting="Hi.")))
            seen = await until(socket, "AgentAudioDone")
            assert socket.response.headers["dg-request-id"] == seen[0]["request_id"]
            await socket.send(b"\0" * 640)
            session = await running.session()
            async with asyncio.timeout(5):
                await session.until(lambda s: s.frames == 1)
        async with asyncio.timeout(5):
            await session.until(lambda s: s.closed)

    assert [m["type"] for m in seen if isinstance(m, dict)] == session.sent_types
    assert session.settings["agent"]["greeting"] == "Hi."
    assert session.types == ["Settings"]
    assert session.audio_bytes == 640
    assert session.scheme == "token"
    assert session.close_code == 1000
    assert "closed 1000" in repr(session)


@pytest.mark.parametrize(
    ("headers", "protocols"),
    [
        ({"Authorization": "token key"}, None),
        ({}, ["token", "key"]),
    ],
)
async def test_the_key_opens_by_header_and_by_subprotocol(headers, protocols):
    async with (
        serve(Options(api_key="key")) as running,
        dial(running, additional_headers=headers, subprotocols=protocols) as socket,
    ):
        await until(socket, "Welcome")

        assert socket.subprotocol == (protocols[0] if protocols else None)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Token wrong"}, {"Authorization": "Bearer key"}, {"Authorization": "x"}],
)
async def test_a_wrong_credential_is_refused_in_deepgrams_words(headers):
    async with serve(Options(api_key="key")) as running:
        with pytest.raises(InvalidStatus) as refused:
            await dial(running, additional_headers=headers)

    response = refused.value.response
    body = json.loads(response.body)
    assert response.status_code == 401
    assert body["err_code"] == "INVALID_AUTH"
    assert body["request_id"] == response.headers["dg-request-id"]


async def test_a_handshake_can_be_refused_and_slow():
    async with serve(Options(refuse=429, handshake_delay=0.01)) as running:
        with pytest.raises(InvalidStatus) as refused:
            await dial(running)

    assert refused.value.response.status_code == 429
    assert json.loads(refused.value.response.body)["err_code"] == "TOO_MANY_REQUESTS"


async def test_another_path_is_not_found():
    async with serve(Options()) as running:
        with pytest.raises(InvalidStatus) as refused:
            await connect(running.agent_url + "/more", additional_headers=KEY)

    assert refused.value.response.status_code == 404


def request(url, *, body=None, headers=()):
    """Status and JSON of a plain HTTP request."""
    asked = urllib.request.Request(url, data=body, headers=dict(headers))
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_a_granted_token_opens_as_bearer():
    async with serve(Options(api_key="key")) as running:
        url = running.api_url + "/v1/auth/grant"
        status, grant = await asyncio.to_thread(request, url, body=b"{}", headers=KEY)
        bearer = {"Authorization": f"bearer {grant['access_token']}"}
        async with dial(running, additional_headers=bearer) as socket:
            await until(socket, "Welcome")

    assert (status, grant["expires_in"]) == (200, 30)
    assert grant["access_token"].count(".") == 2


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/auth/grant", b'{"ttl_seconds": 0}', KEY, 400),
        ("/v1/auth/grant", b"nonsense", KEY, 400),
        ("/v1/auth/grant", b"{}", {}, 401),
        ("/v1/auth/grant", b"{}", {"Authorization": "Bearer key"}, 401),
        ("/v1/elsewhere", b"{}", KEY, 404),
    ],
)
async def test_plain_http_is_answered(path, body, headers, status):
    async with serve(Options(api_key="key")) as running:
        answer = await asyncio.to_thread(
            request, running.api_url + path, body=body, headers=headers
        )

    assert answer[0] == status


async def test_an_error_is_followed_by_a_close_without_a_status():
    async with serve(Options()) as running, dial(running) as socket:
        await socket.send('{"type":"KeepAlive"}')
        seen = await until(socket, "Error")
        with pytest.raises(ConnectionClosed):
            await socket.recv()

        assert seen[-1]["code"] == "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS"
        assert socket.close_code == 1005


@pytest.mark.parametrize(
    ("ending", "code", "reason"),
    [(Ending("close", 1011, "broken"), 1011, "broken"), (Ending("drop"), 1006, "")],
)
async def test_a_session_can_be_ended_from_outside(ending, code, reason):
    async with serve(Options()) as running, dial(running) as socket:
        session = await running.session()

        session.end(ending)
        async with asyncio.timeout(5):
            await socket.wait_closed()

        assert (socket.close_code, socket.close_reason) == (code, reason)


async def test_a_half_open_agent_answers_no_ping(settings):
    fault = Fault(ending=Ending("half_open"), on="Settings")
    async with serve(Options(faults=(fault,))) as running:
        socket = await dial(running, close_timeout=0.1)
        await until(socket, "Welcome")
        await socket.send(json.dumps(settings()))
        session = await running.session()
        await session.received("Settings")

        pong = await socket.ping()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pong

        await socket.close()


async def test_frames_and_turns_can_be_sent_from_outside(settings):
    async with serve(Options()) as running, dial(running) as socket:
        await socket.send(json.dumps(settings()))
        await until(socket, "SettingsApplied")
        session = await running.session()

        session.send('{"type":"FromTheFuture","a":1}')
        session.send(b"\1\2")
        session.play(Turn(say=("Hello.",), seconds=0.1))

        seen = await until(socket, "AgentAudioDone")
        assert seen[:2] == [{"type": "FromTheFuture", "a": 1}, b"\1\2"]
        assert session.frames_sent == sum(isinstance(frame, bytes) for frame in seen)


async def test_the_microphone_can_be_echoed(settings):
    async with (
        serve(Options(script=Script(echo=True), keep_audio=True)) as running,
        dial(running) as socket,
    ):
        await socket.send(json.dumps(settings()))
        await until(socket, "SettingsApplied")
        frames = [bytes([n]) * 640 for n in range(100)]

        for frame in frames:
            await socket.send(frame)

        assert [await socket.recv() for _ in frames] == frames
        assert bytes((await running.session()).audio) == b"".join(frames)


async def test_the_server_goes_away_with_live_sessions(settings):
    async with serve(Options()) as running:
        socket = await dial(running)
        await until(socket, "Welcome")

    await socket.wait_closed()
    assert socket.close_code == 1006


async def test_run_serves_until_it_is_told_to_stop():
    stop = asyncio.Event()
    stop.set()

    async with asyncio.timeout(5):
        await run(Options(), "127.0.0.1", 0, stop)


async def test_everything_it_sends_can_be_decoded_by_the_relay(settings, registry):
    think = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "functions": registry}
    async with serve(Options(end_of_thought=True)) as running, dial(running) as socket:
        await socket.send(json.dumps(settings(think=think, top={"experimental": True})))
        for said in ("Add a task to buy milk", "Yes"):
            await socket.send(json.dumps({"type": "InjectUserMessage", "content": said}))
            await until(socket, "AgentAudioDone" if said != "Yes" else "FunctionCallRequest")
        session = await running.session()

        decoded = [deepgram.decode_server(text.encode()) for text in session.sent]

        assert not [m for m in decoded if isinstance(m, deepgram.Malformed)]
        assert {m.type for m in decoded if isinstance(m, deepgram.Unknown)} == {"EndOfThought"}


async def test_audio_right_behind_settings_comes_after_them(settings):
    async with serve(Options()) as running, dial(running) as socket:
        await socket.send(json.dumps(settings()))
        for _ in range(20):
            await socket.send(bytes(640))

        seen = await until(socket, "SettingsApplied")

        assert [message["type"] for message in seen] == ["Welcome", "SettingsApplied"]


async def test_a_turn_that_audio_begins_need_not_wait_for_anything_else(settings):
    script = Script(turns=(Turn(when="audio", after=0.01, think=0.05, say=("Heard.",)),))
    async with serve(Options(script=script)) as running, dial(running) as socket:
        await socket.send(json.dumps(settings()))
        await until(socket, "SettingsApplied")

        await socket.send(bytes(640))

        await until(socket, "ConversationText")


async def test_frames_to_a_client_that_does_not_read_wait_and_none_is_lost(settings):
    script = Script(echo=True)
    async with (
        serve(Options(script=script)) as running,
        dial(running, max_queue=1, write_limit=2**24) as socket,
    ):
        await socket.send(json.dumps(settings()))
        await until(socket, "SettingsApplied")
        session = await running.session()
        frames = [n.to_bytes(2, "big") * 32_000 for n in range(150)]

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(send_all(socket, frames), name="microphone")
            # More than the sockets hold: from here on the sandbox waits.
            await session.until(lambda s: s.frames > s.frames_sent + 1)
            for frame in frames:
                assert await socket.recv() == frame


async def send_all(socket, frames):
    for frame in frames:
        await socket.send(frame)


async def test_audio_in_fragments_and_between_texts_keeps_its_order(settings):
    async with (
        serve(Options(script=Script(echo=True), keep_audio=True)) as running,
        dial(running) as socket,
    ):
        await socket.send(json.dumps(settings()))
        await until(socket, "SettingsApplied")

        await socket.send([b"\1\1", b"\2\2"])
        await socket.send('{"type":"KeepAlive"}')
        await socket.send(b"\3\3")
        await socket.send([b"\4\4", b"\5\5"])
        await socket.send(b"\6\6")

        frames = [await socket.recv() for _ in range(4)]
        assert frames == [b"\1\1\2\2", b"\3\3", b"\4\4\5\5", b"\6\6"]
        assert bytes((await running.session()).audio) == b"".join(frames)


async def test_a_burst_in_the_packet_that_brings_settings_is_still_behind_them(settings):
    async with serve(Options(settings_delay=0.0)) as running, dial(running) as socket:
        for text in (json.dumps(settings()), '{"type":"KeepAlive"}'):
            await socket.send(text)
            await socket.send(bytes(640))

        seen = await until(socket, "SettingsApplied")

        assert "Error" not in [message["type"] for message in seen]
