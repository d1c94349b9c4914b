"""The utterance detector with a model that takes every loud chunk for speech."""

import numpy as np
import pytest

from relay.sandbox.audio import Format
from relay.sandbox.codec import encode
from relay.sandbox.events import SpeechStarted
from relay.sandbox.voice_activity import Utterance, UtteranceDetector


def loud(chunk):
    return float(np.abs(np.frombuffer(chunk, "<i2")).max() > 1000)


def sound(seconds, rate=16_000, level=0.3):
    return np.full(int(seconds * rate), level, np.float32)


def hear(detector, samples, *, frame=640, encoding="linear16"):
    data = encode(samples, encoding)
    return [
        event for at in range(0, len(data), frame) for event in detector.hear(data[at : at + frame])
    ]


@pytest.mark.parametrize("frame", [2, 255, 640, 8192])
def test_speech_begins_once_and_ends_after_silence(frame):
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7)
    words = np.concatenate((sound(0.5, level=0), sound(1.0), sound(1.0, level=0)))

    started, said = hear(detector, words, frame=frame)

    assert isinstance(started, SpeechStarted)
    assert isinstance(said, Utterance)
    assert len(said.samples) / 16_000 == pytest.approx(0.3 + 1.0 + 0.7, abs=0.15)


def test_a_click_is_no_speech():
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7)

    assert hear(detector, np.concatenate((sound(0.05), sound(2.0, level=0)))) == []
    assert detector.finish() == []


def test_a_pause_between_words_does_not_end_the_turn():
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7)
    words = np.concatenate((sound(0.5), sound(0.5, level=0), sound(0.5), sound(1.0, level=0)))

    assert len(hear(detector, words)) == 2


def test_speech_can_be_ended_at_once():
    detector = UtteranceDetector(Format("mulaw", 8000), loud, silence=0.7)
    assert len(hear(detector, sound(1.0, rate=8000), encoding="mulaw")) == 1

    [said] = detector.finish()

    assert len(said.samples) / 16_000 == pytest.approx(1.0, abs=0.1)


def test_endless_speech_is_cut():
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7)

    assert sum(isinstance(event, Utterance) for event in hear(detector, sound(65.0))) == 2
