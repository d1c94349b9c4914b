"""`deepgram-sdk` from PyPI against the whole program, with nothing changed but addresses and key.

The agent is scripted; the client hears the greeting, speaks, and sees what was said.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import wave

import httpx
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.agent.v1.types import (
    AgentV1Settings,
    AgentV1SettingsAgent,
    AgentV1SettingsAgentListen,
    AgentV1SettingsAgentListenProvider_V1,
    AgentV1SettingsAudio,
    AgentV1SettingsAudioInput,
)
from deepgram.core.api_error import ApiError
from deepgram.types.speak_settings_v1 import SpeakSettingsV1
from deepgram.types.speak_settings_v1provider import SpeakSettingsV1Provider_Deepgram
from deepgram.types.think_settings_v1 import ThinkSettingsV1
from deepgram.types.think_settings_v1provider import ThinkSettingsV1Provider_OpenAi

from tests.end_to_end.official import SCRIPT, WAV, check, environment, readme
from tests.end_to_end.test_relay import whole

# The SDK uses old names of `websockets`.
pytestmark = pytest.mark.filterwarnings("ignore:websockets:DeprecationWarning")


def settings_of_the_readme():
    return AgentV1Settings(
        audio=AgentV1SettingsAudio(
            input=AgentV1SettingsAudioInput(encoding="linear16", sample_rate=16000)
        ),
        agent=AgentV1SettingsAgent(
            listen=AgentV1SettingsAgentListen(
                provider=AgentV1SettingsAgentListenProvider_V1(type="deepgram", model="nova-3")
            ),
            think=ThinkSettingsV1(
                provider=ThinkSettingsV1Provider_OpenAi(type="open_ai", model="gpt-4o-mini"),
                prompt="You are a helpful AI assistant.",
            ),
            speak=SpeakSettingsV1(
                provider=SpeakSettingsV1Provider_Deepgram(
                    type="deepgram", model="aura-2-asteria-en"
                )
            ),
        ),
    )


def microphone():
    with wave.open(str(WAV)) as file:
        samples = file.readframes(file.getnframes())
    return [samples[at : at + 1600] for at in range(0, len(samples), 1600)]


def as_json(message):
    return message if isinstance(message, dict) else json.loads(message.json())


def talk_sync(client):
    received, audio = [], 0
    with client.agent.v1.connect() as agent:
        agent.send_settings(settings_of_the_readme())
        agent.send_media(bytes(1600))  # at once
        while not received or received[-1].get("content") != "What else?":
            message = agent.recv()
            if isinstance(message, bytes):
                audio += len(message)
                continue
            received.append(as_json(message))
            if received[-1]["type"] == "AgentAudioDone":
                for frame in microphone():
                    agent.send_media(frame)
    return received, audio


async def talk_async(client):
    received, audio = [], 0
    async with client.agent.v1.connect() as agent:
        await agent.send_settings(settings_of_the_readme())
        await agent.send_media(bytes(1600))
        while not received or received[-1].get("content") != "What else?":
            message = await agent.recv()
            if isinstance(message, bytes):
                audio += len(message)
                continue
            received.append(as_json(message))
            if received[-1]["type"] == "AgentAudioDone":
                for frame in microphone():
                    await agent.send_media(frame)
    return received, audio


async def test_the_python_sdk_sync(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=SCRIPT) as program:
        await check_the_readme(program)
        there = environment(program)
        with httpx.Client() as http:  # the SDK closes none
            signed_in = DeepgramClient(api_key="none", environment=there, httpx_client=http)
            for number, name in enumerate(("api_key", "access_token"), 1):
                grant = await asyncio.to_thread(signed_in.auth.v1.tokens.grant, ttl_seconds=20)
                client = DeepgramClient(
                    **{name: grant.access_token}, environment=there, httpx_client=http
                )
                received, audio = await asyncio.to_thread(talk_sync, client)

                assert grant.expires_in == 20
                assert audio > 24000
                await check(program, received, number=number)


async def check_the_readme(program):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", readme("python", program), stdout=subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    assert b"Welcome" in printed


async def test_the_python_sdk_async(database_url, tmp_path):
    async with (
        whole(database_url, tmp_path, script=SCRIPT) as program,
        httpx.AsyncClient() as http,
    ):
        there = environment(program)
        signed_in = AsyncDeepgramClient(api_key="none", environment=there, httpx_client=http)
        for number, name in enumerate(("api_key", "access_token")):
            grant = await signed_in.auth.v1.tokens.grant()
            client = AsyncDeepgramClient(
                **{name: grant.access_token}, environment=there, httpx_client=http
            )
            received, audio = await talk_async(client)

            assert audio > 24000
            await check(program, received, number=number)
        with pytest.raises(ApiError) as refused:  # the ticket was used
            await talk_async(client)
        assert refused.value.status_code == 401
