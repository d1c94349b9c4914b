"""The audio of a session with the sandbox, recorded by a relay of its own, which is then killed."""

from __future__ import annotations

import asyncio
import json
import wave
from uuid import UUID

import asyncpg
import httpx
from websockets.asyncio.client import connect

from relay.sandbox.script import Script, Turn
from tests.chaos.stage import until
from tests.client.stack import standing
from tests.conftest import copy_database

ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=1.0),), loop=True)
VOICE = b"".join(n.to_bytes(2, "little") for n in range(1, 16_001))  # a second, no sample twice
FRAME = 640


def read(directory, begun, side):
    path = directory / begun["conversation_id"] / f"{begun['session_id']}.1.{side}.wav"
    with wave.open(str(path)) as file:
        return file.readframes(file.getnframes())


async def talk(stack, **body):
    """Begin a session, say something, ask something, hear the reply; the socket stays open."""
    async with httpx.AsyncClient() as http:
        begun = (await http.post(stack._api("/session"), json=body)).json()
    socket = await connect(begun["websocket_url"], subprotocols=["relay.v1", begun["ticket"]])
    await _until(socket, "SettingsApplied")
    for n in range(0, len(VOICE), FRAME):
        await socket.send(VOICE[n : n + FRAME])
    await socket.send(json.dumps({"type": "InjectUserMessage", "content": "Hello"}))
    await _until(socket, "ConversationText")
    heard = await _until(socket, "AgentAudioDone")
    assert any(map(any, heard))
    return begun, socket, heard


async def _until(socket, kind):
    """The audio that comes until an event of this type."""
    heard = []
    async with asyncio.timeout(20):
        while True:
            frame = await socket.recv()
            if isinstance(frame, bytes):
                heard.append(frame)
            elif json.loads(frame)["type"] == kind:
                return heard


async def _written(look):
    async def is_written():
        try:
            return look()
        except (FileNotFoundError, EOFError):
            return False

    await until(is_written, 20)


async def test_what_a_killed_relay_recorded_is_played_and_goes_with_its_conversation(
    postgres, template, tmp_path
):
    database = await copy_database(postgres, template)
    environ = {"RELAY_RECORD_DIR": str(tmp_path), "RELAY_RECORD_AUDIO": "on"}
    async with standing(database, **environ) as stack:
        await stack.say(ECHO)
        silent, another, _ = await talk(stack)
        begun, socket, heard = await talk(stack, record=True)
        assert (silent["recorded"], begun["recorded"]) == (False, True)
        await _written(lambda: VOICE in read(tmp_path, begun, "user"))
        await _written(lambda: heard[0] in read(tmp_path, begun, "agent"))

        await stack.relay.stop(kill=True)

        said = read(tmp_path, begun, "agent")
        assert VOICE in read(tmp_path, begun, "user")
        assert len(said[said.index(heard[0]) :]) >= len(heard[0])
        assert [f.suffix for f in (tmp_path / silent["conversation_id"]).iterdir()] == [".ndjson"]
        for each in (another, socket):
            each.transport.abort()
        connection = await asyncpg.connect(database)
        await connection.execute(
            "DELETE FROM voice.conversations WHERE id = $1", UUID(begun["conversation_id"])
        )
        await connection.close()
        await stack.relay.start()
        await _written(lambda: not (tmp_path / begun["conversation_id"]).exists())
        assert (tmp_path / silent["conversation_id"]).exists()
