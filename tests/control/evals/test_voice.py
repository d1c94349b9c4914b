"""The user's voice and the room around it."""

import wave
from pathlib import Path

import msgspec
import numpy as np
import pytest

from config.scenario import ScenarioLine, ScenarioVoice
from control.evals.voice import Noise, Words
from control.talk.audio import UsageError
from relay.sandbox.speech import SpeechError, Voice

AUDIO = Path(__file__).parents[2] / "audio"
RATE = 16_000
TEXT = ScenarioLine(say="Please move the meeting to Monday.")


@pytest.fixture(scope="module")
def voice():
    return Voice.load()


async def spoken(voice, line=TEXT, **manner):
    words = Words(voice, msgspec.convert(manner, ScenarioVoice), AUDIO)
    await words.prepare(line)
    return words.speech(line, RATE)


async def test_the_voice_has_a_speed_and_an_accent_and_goes_back_to_its_own(voice):
    plain = await spoken(voice)
    fast = await spoken(voice, speed=330)
    british = await spoken(voice, accent="en-gb-x-rp")

    again = await spoken(voice)

    assert len(fast.frames) < 0.7 * len(plain.frames)
    assert likeness(plain, again) > 0.9
    assert likeness(plain, british) < 0.8


async def test_an_accent_that_there_is_not_is_told(voice):
    with pytest.raises(SpeechError, match="got xx-nowhere"):
        await spoken(voice, accent="xx-nowhere")


async def test_a_recording_is_played_beside_the_file(voice):
    with wave.open(str(AUDIO / "yes.wav")) as file:
        seconds = file.getnframes() / file.getframerate()

    speech = await spoken(voice, ScenarioLine(wav="yes.wav"))

    assert len(speech.frames) == pytest.approx(seconds / 0.02, abs=1)
    with pytest.raises(UsageError, match="No such file"):
        await spoken(voice, ScenarioLine(wav="missing.wav"))


def likeness(one, other):
    """Of what is loud when: 1 for the same words said in the same way."""
    loud = [[level([frame]) for frame in speech.frames] for speech in (one, other)]
    count = min(map(len, loud))
    return float(np.corrcoef(loud[0][:count], loud[1][:count])[0, 1])


def level(frames):
    samples = np.frombuffer(b"".join(frames), "<i2").astype(float) / 32768
    return float(np.sqrt(np.mean(samples**2)))


@pytest.mark.parametrize("decibels", [0.0, 20.0])
def test_a_room_is_so_much_quieter_than_the_words_in_their_pauses_too(decibels):
    silence = bytes(640)
    noise = Noise(decibels, 0.1, RATE, "seed")

    heard = [noise.mix(silence) for _ in range(350)]

    assert level(heard) == pytest.approx(0.1 * 10 ** (-decibels / 20), rel=0.05)
    again = Noise(decibels, 0.1, RATE, "seed")
    assert [again.mix(silence) for _ in range(350)] == heard
    assert len(set(heard)) == 350
    assert again.mix(silence) == heard[0]  # from the beginning
