"""The utterance detector with a model that takes every loud chunk for speech."""

import array

import pytest

from relay.sandbox.audio import Format, convert
from relay.sandbox.voice_activity import SpeechStarted, Utterance, UtteranceDetector


def loud(chunk):
    return float(max(array.array("h", chunk)) > 1000)


def sound(seconds, rate=16_000, level=0.3):
    return array.array("h", [int(level * 32_767)]).tobytes() * int(seconds * rate)


def silence(seconds):
    return sound(seconds, level=0)


def hear(detector, data, *, frame=640):
    return [
        event for at in range(0, len(data), frame) for event in detector.hear(data[at : at + frame])
    ]


@pytest.mark.parametrize("frame", [2, 255, 640, 8192])
def test_speech_begins_once_and_ends_after_silence(frame):
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7)

    started, said = hear(detector, silence(0.5) + sound(1.0) + silence(1.0), frame=frame)

    assert isinstance(started, SpeechStarted)
    assert isinstance(said, Utterance)
    assert len(said.sound) / 32_000 == pytest.approx(0.3 + 1.0 + 0.7, abs=0.15)


def test_a_click_is_no_speech():
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7)

    assert hear(detector, sound(0.05) + silence(2.0)) == []
    assert detector.finish() == []


def test_a_pause_between_words_does_not_end_the_turn():
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7)

    assert len(hear(detector, sound(0.5) + silence(0.5) + sound(0.5) + silence(1.0))) == 2


def test_a_pause_may_be_the_end_and_is_told_once():
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7, pause=0.3)

    events = hear(detector, sound(0.5) + silence(0.5) + sound(0.5) + silence(1.0))

    assert [getattr(event, "is_over", None) for event in events] == [None, False, None, False, True]
    first, second, whole = (event for event in events if isinstance(event, Utterance))
    assert second.sound.startswith(first.sound)
    assert len(second.sound) / 32_000 == pytest.approx(2 * (0.5 + 0.3), abs=0.1)
    assert whole.sound == second.sound, "more silence than a pause is no part of it"


def test_a_pause_as_long_as_the_end_is_the_end():
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.3, pause=0.3)

    _, said = hear(detector, sound(0.5) + silence(1.0))

    assert said.is_over


def test_speech_can_be_ended_at_once():
    telephone = Format("mulaw", 8000)
    detector = UtteranceDetector(telephone, loud, silence=0.7)
    assert len(hear(detector, convert(sound(1.0, rate=8000), 8000, telephone))) == 1

    [said] = detector.finish()

    assert len(said.sound) / 32_000 == pytest.approx(1.0, abs=0.1)


def test_endless_speech_is_cut():
    detector = UtteranceDetector(Format("linear16", 16_000), loud, silence=0.7)

    assert sum(isinstance(event, Utterance) for event in hear(detector, sound(65.0))) == 2
