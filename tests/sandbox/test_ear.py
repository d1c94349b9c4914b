"""The ear with a detector that takes every loud chunk for speech."""

import numpy as np
import pytest

from relay.sandbox.codec import encode
from relay.sandbox.ear import Ear, Utterance
from relay.sandbox.moves import SpeechStarted
from relay.sandbox.sound import Format


def loud(chunk):
    return float(np.abs(np.frombuffer(chunk, "<i2")).max() > 1000)


def sound(seconds, rate=16_000, level=0.3):
    return np.full(int(seconds * rate), level, np.float32)


def hear(ear, samples, *, frame=640, encoding="linear16"):
    data = encode(samples, encoding)
    return [event for at in range(0, len(data), frame) for event in ear.hear(data[at : at + frame])]


@pytest.mark.parametrize("frame", [2, 255, 640, 8192])
def test_speech_begins_once_and_ends_after_silence(frame):
    ear = Ear(Format("linear16", 16_000), loud, silence=0.7)
    words = np.concatenate((sound(0.5, level=0), sound(1.0), sound(1.0, level=0)))

    started, said = hear(ear, words, frame=frame)

    assert isinstance(started, SpeechStarted)
    assert isinstance(said, Utterance)
    assert len(said.samples) / 16_000 == pytest.approx(0.3 + 1.0 + 0.7, abs=0.15)


def test_a_click_is_no_speech():
    ear = Ear(Format("linear16", 16_000), loud, silence=0.7)

    assert hear(ear, np.concatenate((sound(0.05), sound(2.0, level=0)))) == []
    assert ear.finish() == []


def test_a_pause_between_words_does_not_end_the_turn():
    ear = Ear(Format("linear16", 16_000), loud, silence=0.7)
    words = np.concatenate((sound(0.5), sound(0.5, level=0), sound(0.5), sound(1.0, level=0)))

    assert len(hear(ear, words)) == 2


def test_speech_can_be_ended_at_once():
    ear = Ear(Format("mulaw", 8000), loud, silence=0.7)
    assert len(hear(ear, sound(1.0, rate=8000), encoding="mulaw")) == 1

    [said] = ear.finish()

    assert len(said.samples) / 16_000 == pytest.approx(1.0, abs=0.1)


def test_endless_speech_is_cut():
    ear = Ear(Format("linear16", 16_000), loud, silence=0.7)

    assert sum(isinstance(event, Utterance) for event in hear(ear, sound(65.0))) == 2
