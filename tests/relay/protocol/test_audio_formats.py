"""What raw audio amounts to."""

from __future__ import annotations

import pytest

from config.agent import AudioInput, AudioOutput
from relay.protocol.audio_formats import TONE_LEVEL, bytes_per_second, silence, tone
from relay.sandbox.audio import Decoder, Format


@pytest.mark.parametrize(
    ("encoding", "rate", "count"),
    [("linear16", 24000, 48000), ("linear32", 16000, 64000), ("mulaw", 8000, 8000)],
)
def test_a_second_of_raw_audio(encoding, rate, count):
    assert bytes_per_second(AudioInput(encoding=encoding, sample_rate=rate)) == count


def test_a_second_of_compressed_audio_is_not_known():
    assert bytes_per_second(AudioOutput(encoding="mp3")) is None


@pytest.mark.parametrize(
    ("encoding", "sample"), [("linear16", b"\0\0"), ("mulaw", b"\xff"), ("alaw", b"\xd5")]
)
def test_silence_is_what_the_encoding_says_for_nothing(encoding, sample):
    audio = AudioInput(encoding=encoding, sample_rate=8000)

    assert silence(audio, 0.1) == sample * 800


def test_compressed_audio_has_no_silence():
    assert silence(AudioInput(encoding="opus", sample_rate=48000), 0.1) == b""


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_a_tone_sounds_the_same_in_each_encoding(encoding):
    plain = memoryview(tone(AudioOutput(encoding="linear16", sample_rate=16000))).cast("h")
    packed = tone(AudioOutput(encoding=encoding, sample_rate=16000))

    read = memoryview(Decoder(Format(encoding, 16000)).decode(packed)).cast("h")

    assert max(plain) > TONE_LEVEL * 0.9
    assert len(read) == len(plain)
    assert max(abs(one - other) for one, other in zip(plain, read, strict=True)) <= 64


def test_compressed_audio_has_no_tone():
    assert tone(AudioOutput(encoding="opus", sample_rate=48000)) == b""
