"""What a client is told when a speech engine does not work: an Error of Deepgram's, and the end."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from relay.sandbox.options import Options
from relay.sandbox.server import serve
from relay.sandbox.speech import Speech, SpeechError

KEY = {"Authorization": "Token key"}
LINEAR = {"encoding": "linear16", "sample_rate": 16000}
SPOKEN = b"\1\0" * 32_000  # two seconds that the detector below takes for speech
SILENT = bytes(64_000)


class BrokenRecognizer:
    def transcribe(self, samples, **options):
        raise RuntimeError("out of memory")


class BrokenVoice:
    rate = 22_050

    def speak(self, text):
        raise SpeechError("the voice failed: eSpeak NG answers 1")


class SilentVoice:
    rate = 22_050

    def speak(self, text):
        return bytes(200)


def hears_anything(chunk):
    return float(any(chunk))


def speech(*, voice=SilentVoice):
    return Speech(BrokenRecognizer(), voice(), lambda: hears_anything)


async def converse(engines, settings, frames):
    """The last message and the close code of a session that gets these frames."""
    seen = []
    async with (
        serve(Options(speech=engines, silence=0.1)) as running,
        connect(running.agent_url, compression=None, additional_headers=KEY) as socket,
        asyncio.timeout(10),
    ):
        await socket.send(json.dumps(settings))
        async for frame in socket:
            seen.append(json.loads(frame) if isinstance(frame, str) else frame)
            if isinstance(frame, str) and seen[-1]["type"] == "SettingsApplied":
                for audio in frames:
                    await socket.send(audio)
        return seen[-1], socket.close_code


async def test_a_recogniser_that_fails(settings):
    wanted = settings(audio={"input": LINEAR})

    error, code = await converse(speech(), wanted, [SPOKEN, SILENT])

    assert (error["type"], error["code"], code) == ("Error", "ASR_CONNECTION_CLOSED", 1005)
    assert "out of memory" in error["description"]


async def test_a_voice_that_fails(settings):
    error, code = await converse(speech(voice=BrokenVoice), settings(greeting="Hello."), [])

    assert (error["type"], error["code"], code) == ("Error", "FAILED_TO_SPEAK", 1005)
    assert "eSpeak NG answers 1" in error["description"]


@pytest.mark.parametrize("encoding", ["flac", "ogg-opus", "g729"])
async def test_an_encoding_that_the_ear_cannot_read(settings, encoding):
    wanted = settings(audio={"input": {"encoding": encoding, "sample_rate": 48000}})

    error, code = await converse(speech(), wanted, [])

    assert (error["type"], error["code"], code) == ("Error", "USER_AUDIO_FORMAT", 1005)
    assert encoding in error["description"]


async def test_without_an_ear_any_encoding_may_come(line, settings):
    session = line()
    session.tell(settings(audio={"input": {"encoding": "opus", "sample_rate": 48000}}))
    session.run(0.06)

    session.hear(bytes(100))

    assert session.ending is None
