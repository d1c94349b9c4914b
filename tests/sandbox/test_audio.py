"""Formats, tones; and sound from one format to another."""

import av
import numpy as np
import pytest

from relay.sandbox.audio import Decoder, Format, UnknownEncoding, convert, tone, wav_header


@pytest.mark.parametrize(
    ("audio", "size"),
    [(Format(), 960), (Format("linear16", 8000), 320), (Format("mulaw", 8000), 160)],
)
def test_frames_have_the_size_of_their_time(audio, size):
    assert audio.frame_bytes == size
    assert len(tone("Hi.", audio, 1.0)) == 50 * size


def test_longer_sentences_take_longer():
    assert len(tone("Hi.", Format())) == 0.4 * 48_000
    assert len(tone("x" * 100, Format())) > 6 * 48_000


def wave(rate, seconds=0.5, hertz=440):
    samples = np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * hertz / rate) * 16_000
    return samples.astype("<i2").tobytes()


def numbers(sound):
    return np.frombuffer(sound, "<i2").astype(float)


@pytest.mark.parametrize(("encoding", "error"), [("linear16", 0), ("mulaw", 700), ("alaw", 700)])
def test_samples_survive_an_encoding(encoding, error):
    audio = Format(encoding, 16_000)

    again = Decoder(audio).decode(convert(wave(16_000), 16_000, audio))

    assert np.abs(numbers(again) - numbers(wave(16_000))).max() <= error


def test_linear32_is_floating_point():
    samples = (numbers(wave(16_000)) / 32_768).astype("<f4")

    again = Decoder(Format("linear32", 16_000)).decode(samples.tobytes())

    assert again == wave(16_000)


@pytest.mark.parametrize("rate", [8000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("piece", [7, 255, 8192])
def test_a_stream_keeps_its_pitch_and_length_at_another_rate(rate, piece):
    stream, data = Decoder(Format("linear16", rate)), wave(rate)

    pieces = [stream.decode(data[at : at + piece]) for at in range(0, len(data), piece)]

    samples = numbers(b"".join(pieces))
    loudest = np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples)
    assert len(samples) == pytest.approx(8000, abs=50)
    assert loudest == pytest.approx(440, abs=3)


def test_opus_comes_in_packets_and_what_is_none_is_thrown_away():
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(
        np.frombuffer(wave(48_000), "<i2").reshape(1, -1), "s16", "mono"
    )
    frame.sample_rate = 48_000
    packets = [bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]]
    decoder = Decoder(Format("opus", 48_000))

    heard = b"".join(decoder.decode(packet) for packet in [b"", b"\xff\xff\xff", *packets])

    assert len(heard) / 32_000 == pytest.approx(0.5, abs=0.05)


def test_other_encodings_are_unknown():
    with pytest.raises(UnknownEncoding):
        Decoder(Format("flac", 48_000))


@pytest.mark.parametrize(("encoding", "bits"), [("linear16", 16), ("mulaw", 8), ("alaw", 8)])
def test_a_wav_header_says_what_follows(encoding, bits):
    header = wav_header(Format(encoding, 16000))

    assert (len(header), header[:4], header[8:16]) == (44, b"RIFF", b"WAVEfmt ")
    assert int.from_bytes(header[24:28], "little") == 16000
    assert int.from_bytes(header[34:36], "little") == bits
