"""The engines, and the talk of the demo with real speech; loaded once for all of them."""

import asyncio
import json
import time
import wave
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from relay.sandbox.audio import Decoder, Format, convert
from relay.sandbox.options import Options
from relay.sandbox.server import serve
from relay.sandbox.speech import Speech
from relay.sandbox.voice_activity import SpeechStarted, Utterance, UtteranceDetector

pytestmark = pytest.mark.speech

AUDIO = Path(__file__).parents[1] / "audio"
SAID = {
    "hello": "Hello, can you hear me?",
    "goal_marathon": "I want to run a marathon in April.",
    "no_deadline": "There is no deadline.",
    "new_task_shoes": "Add a task to buy running shoes tomorrow.",
    "reschedule_dentist": "Please move my dentist appointment to Friday.",
    "yes": "Yes, that is right.",
    "interrupt": "Wait, stop. One moment please.",
}
FRAME = 640  # bytes: 20 ms of linear16 at 16 kHz


@pytest.fixture(scope="session")
def speech():
    return Speech.load()


def recording(name):
    with wave.open(str(AUDIO / f"{name}.wav")) as file:
        return file.readframes(file.getnframes())


def near(one, other):
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()


@pytest.mark.parametrize("audio", [Format("linear16", 16_000), Format("mulaw", 8000)])
@pytest.mark.parametrize("name", SAID)
def test_recorded_speech_is_heard_as_one_turn_and_written_down(speech, name, audio):
    data = convert(recording(name), 16_000, audio)
    detector = UtteranceDetector(audio, speech.new_detector(), silence=0.7)
    size = audio.frame_bytes

    events = [e for at in range(0, len(data), size) for e in detector.hear(data[at : at + size])]

    assert [type(event) for event in events] == [SpeechStarted, Utterance]
    # The short "yes" suffers on the telephone; what counts is that it is still a yes.
    expected = 0.6 if audio.encoding == "linear16" else 0.4
    assert near(speech.transcribe(events[1].samples), SAID[name]) > expected


def test_silence_has_no_words(speech):
    assert speech.transcribe(Utterance(bytes(32_000)).samples) == ""


@pytest.mark.parametrize("output", [Format(), Format("linear16", 48_000), Format("alaw", 8000)])
def test_what_is_spoken_can_be_understood_again(speech, output):
    sound = speech.speak("Please move the meeting to Monday.", output)

    assert 1.0 < len(sound) / output.bytes_per_second < 6.0
    assert (
        near(
            speech.transcribe(Utterance(Decoder(output).decode(sound)).samples),
            "Please move the meeting to Monday.",
        )
        > 0.6
    )


class Caller:
    """Speaks recordings in real time, each after the agent has finished, and answers calls."""

    def __init__(self, socket):
        self.socket = socket
        self.calls = []
        self.said = {"user": [], "assistant": []}
        self.heard = 0
        self._turn = asyncio.Event()
        self._queue = []

    async def listen(self):
        async for frame in self.socket:
            if isinstance(frame, bytes):
                self.heard += len(frame)
                continue
            message = json.loads(frame)
            if message["type"] == "ConversationText":
                self.said[message["role"]].append(message["content"])
            elif message["type"] == "FunctionCallRequest":
                [call] = message["functions"]
                self.calls.append((call["name"], json.loads(call["arguments"])))
                content = json.dumps({"status": "rejected", "error": "there is no such task"})
                await self.socket.send(
                    json.dumps(
                        {
                            "type": "FunctionCallResponse",
                            "id": call["id"],
                            "name": call["name"],
                            "content": content,
                        }
                    )
                )
            elif message["type"] == "AgentAudioDone":
                self._turn.set()

    async def speak(self, *names):
        """A microphone that never stops: words when it is our turn, silence otherwise."""
        due = time.monotonic()
        for data in (*map(recording, names), b""):
            self._turn.clear()
            frames = [data[at : at + FRAME] for at in range(0, len(data), FRAME)]
            while frames or (data and not self._turn.is_set()):
                await self.socket.send(frames.pop(0) if frames else bytes(FRAME))
                due += 0.02
                await asyncio.sleep(max(due - time.monotonic(), 0))


@pytest.mark.parametrize(
    ("names", "function", "arguments"),
    [
        (("goal_marathon", "no_deadline", "yes"), "create_goal", {"deadline": "none"}),
        (("new_task_shoes", "yes"), "create_task", {"due": "tomorrow"}),
        (
            ("reschedule_dentist", "yes"),
            "reschedule_task",
            {"task": "dentist appointment", "when": "Friday"},
        ),
    ],
)
async def test_the_talk_of_the_demo(speech, registry, settings, names, function, arguments):
    think = {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "functions": registry}
    audio = {"input": {"encoding": "linear16", "sample_rate": 16_000}}
    async with (
        serve(Options(speech=speech)) as running,
        connect(running.agent_url, additional_headers={"Authorization": "Token k"}) as socket,
        asyncio.timeout(50),
    ):
        await socket.send(json.dumps(settings(audio=audio, think=think)))
        caller = Caller(socket)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(caller.listen())
            await caller.speak(*names)
            listening.cancel()

    assert [name for name, _ in caller.calls] == [function]
    assert caller.calls[0][1].items() >= arguments.items()
    assert len(caller.said["user"]) == len(names)
    assert "there is no such task" in caller.said["assistant"][-2]
    assert caller.heard > 48_000
