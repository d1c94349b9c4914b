"""Formats, frames, tones; and samples from one format to another."""

import numpy as np
import pytest

from relay.sandbox.audio import (
    MAGIC,
    STAMP,
    Format,
    Recorded,
    Tone,
    tone_seconds,
    wav_header,
)
from relay.sandbox.codec import Resampler, UnknownEncoding, decode, encode, resample, to_format


@pytest.mark.parametrize(
    ("audio", "size"),
    [(Format(), 960), (Format("linear16", 8000), 320), (Format("mulaw", 8000), 160)],
)
def test_frames_have_the_size_of_their_time(audio, size):
    tone = Tone(1.0, audio, 20, stamp=False)

    assert tone.frames == 50
    assert len(tone.frame(0, 0, 0.0)) == size
    assert tone.seconds == 1.0


def test_a_stamp_says_number_and_time():
    frame = Tone(1.0, Format(), 20, stamp=True).frame(3, 7, 12.5)

    assert STAMP.unpack_from(frame) == (MAGIC, 7, 12_500_000_000)
    assert len(frame) == 960


def test_recorded_samples_are_cut_without_loss():
    samples = bytes(range(250)) * 10
    audio = Recorded(samples, Format(), 20)

    assert b"".join(audio.frame(n, n, 0.0) for n in range(audio.frames)) == samples
    assert audio.seconds == pytest.approx(2500 / 48_000)


def test_longer_sentences_take_longer():
    assert tone_seconds("Hi.") == 0.4
    assert tone_seconds("x" * 100) > 6


def wave(rate, seconds=0.5, hertz=440):
    return (np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * hertz / rate) / 2).astype("f4")


@pytest.mark.parametrize(
    ("encoding", "error"), [("linear16", 1e-4), ("mulaw", 0.02), ("alaw", 0.02)]
)
def test_samples_survive_an_encoding(encoding, error):
    samples = wave(8000)

    assert np.abs(decode(encode(samples, encoding), encoding) - samples).max() < error


def test_every_companded_byte_stands_for_itself():
    every = bytes(range(256))

    for encoding in ("mulaw", "alaw"):
        values = decode(every, encoding)
        again = decode(encode(values, encoding), encoding)
        assert np.array_equal(values, again)


def test_known_companded_values():
    assert decode(b"\xff\x80\x00", "mulaw") * 32768 == pytest.approx([0, 32124, -32124])
    assert decode(b"\xd5\xaa\x2a", "alaw") * 32768 == pytest.approx([8, 32256, -32256])


def test_linear32_is_floating_point():
    samples = wave(8000)

    assert np.array_equal(decode(samples.tobytes(), "linear32"), samples)


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100, 48000])
def test_a_tone_keeps_its_pitch_and_length_at_another_rate(rate):
    samples = resample(wave(rate), rate, 16_000)

    loudest = np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples)
    assert len(samples) == pytest.approx(8000, abs=1)
    assert loudest == pytest.approx(440, abs=3)


def test_the_same_rate_changes_nothing():
    samples = wave(16_000)

    assert resample(samples, 16_000, 16_000) is samples
    assert len(to_format(samples, 16_000, Format("mulaw", 8000))) == len(samples) // 2


def test_other_encodings_are_unknown():
    with pytest.raises(UnknownEncoding):
        decode(b"", "opus")
    with pytest.raises(UnknownEncoding):
        encode(wave(8000), "opus")


@pytest.mark.parametrize("rate", [8000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("piece", [7, 128, 4096])
def test_a_stream_is_resampled_without_seams(rate, piece):
    samples = wave(rate)
    stream = Resampler(rate, 16_000)

    pieces = [stream.feed(samples[at : at + piece]) for at in range(0, len(samples), piece)]

    whole = np.concatenate(pieces)
    assert len(whole) == pytest.approx(8000, abs=8)
    expected = resample(samples, rate, 16_000)[: len(whole)]
    assert np.abs(whole - expected)[20:].max() < 0.01


def test_a_stream_at_the_right_rate_passes():
    samples = wave(16_000)

    assert Resampler(16_000, 16_000).feed(samples) is samples


@pytest.mark.parametrize(("encoding", "bits"), [("linear16", 16), ("mulaw", 8), ("alaw", 8)])
def test_a_wav_header_says_what_follows(encoding, bits):
    header = wav_header(Format(encoding, 16000))

    assert (len(header), header[:4], header[8:16]) == (44, b"RIFF", b"WAVEfmt ")
    assert int.from_bytes(header[24:28], "little") == 16000
    assert int.from_bytes(header[34:36], "little") == bits
