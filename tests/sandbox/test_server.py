"""The server on a real socket, with the `websockets` client."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from relay.protocol import deepgram
from relay.sandbox.options import Options
from relay.sandbox.script import Ending, Script, Turn
from relay.sandbox.server import serve

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
async def test_a_session_can_end_in_other_ways(settings, ending, code, reason):
    async with serve(Options(faults={"Settings": ending})) as running, dial(running) as socket:
        await socket.send(json.dumps(settings()))
        async with asyncio.timeout(5):
            await socket.wait_closed()

        assert (socket.close_code, socket.close_reason) == (code, reason)


async def test_what_was_heard_is_kept_if_that_is_wanted(settings):
    async with serve(Options(keep_audio=True)) as running, dial(running) as socket:
        await socket.send(json.dumps(settings()))
        await until(socket, "SettingsApplied")
        session = await running.session()

        await socket.send([b"\1\1", b"\2\2"])  # in fragments
        await socket.send(b"\3\3")
        async with asyncio.timeout(5):
            await session.until(lambda s: s.frames == 2)

        assert bytes(session.audio) == b"\1\1\2\2\3\3"


async def test_the_server_goes_away_with_live_sessions(settings):
    async with serve(Options()) as running:
        socket = await dial(running)
        await until(socket, "Welcome")

    await socket.wait_closed()
    assert socket.close_code == 1006


async def test_everything_it_sends_can_be_decoded_by_the_relay(settings, registry):
    think = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "functions": registry}
    seen = []
    async with serve(Options()) as running, dial(running) as socket:
        await socket.send(json.dumps(settings(think=think, top={"experimental": True})))
        for said in ("Add a task to buy milk", "Yes"):
            await socket.send(json.dumps({"type": "InjectUserMessage", "content": said}))
            seen += await until(
                socket, "AgentAudioDone" if said != "Yes" else "FunctionCallRequest"
            )

    texts = [json.dumps(frame).encode() for frame in seen if isinstance(frame, dict)]
    decoded = [deepgram.decode_server(text) for text in texts]
    assert not [m for m in decoded if isinstance(m, deepgram.Malformed | deepgram.Unknown)]


async def test_audio_right_behind_settings_comes_after_them(settings):
    async with serve(Options()) as running, dial(running) as socket:
        await socket.send(json.dumps(settings()))
        for _ in range(20):
            await socket.send(bytes(640))

        seen = await until(socket, "SettingsApplied")

        assert [message["type"] for message in seen] == ["Welcome", "SettingsApplied"]


async def test_a_turn_that_audio_begins_need_not_wait_for_anything_else(settings):
    script = Script(turns=(Turn(when="audio", after=0.01, say=("Heard.",)),))
    async with serve(Options(script=script)) as running, dial(running) as socket:
        await socket.send(json.dumps(settings()))
        await until(socket, "SettingsApplied")

        await socket.send(bytes(640))

        await until(socket, "ConversationText")


async def test_a_burst_in_the_packet_that_brings_settings_is_still_behind_them(settings):
    async with serve(Options(settings_delay=0.0)) as running, dial(running) as socket:
        for text in (json.dumps(settings()), '{"type":"KeepAlive"}'):
            await socket.send(text)
            await socket.send(bytes(640))

        seen = await until(socket, "SettingsApplied")

        assert "Error" not in [message["type"] for message in seen]
