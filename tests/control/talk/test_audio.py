"""WAV files in and out, another sample rate, and frames for the wire."""

import wave
from pathlib import Path

import numpy as np
import pytest

from control.talk.audio import UsageError, make_speech, read_wav, resample, write_wav

AUDIO = Path(__file__).parents[2] / "audio"
RATE = 16000


def write(path, samples, *, rate=RATE, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples)
    return path


def tone(rate, seconds=0.2, hertz=440.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


@pytest.fixture
def spoken(tmp_path):
    """0.2 s of sound, then 0.1 s of silence."""
    samples = np.concatenate([tone(RATE), np.zeros(RATE // 10)])
    return write(tmp_path / "spoken.wav", (samples * 32767).astype("<i2").tobytes())


@pytest.mark.parametrize("name", ["hello", "yes"])
def test_the_speech_files_are_read(name):
    recording = read_wav(AUDIO / f"{name}.wav")

    assert recording.rate == RATE
    assert np.abs(recording.samples).max() > 0.1


def test_stereo_becomes_mono(tmp_path):
    both = np.array([[0.5, -0.5], [0.5, 0.0]])
    path = write(tmp_path / "a.wav", (both * 32768).astype("<i2").tobytes(), channels=2)

    assert read_wav(path).samples == pytest.approx([0.0, 0.25])


def test_8_bit_samples_are_unsigned(tmp_path):
    path = write(tmp_path / "a.wav", bytes([0, 128, 192]), width=1)

    assert read_wav(path).samples == pytest.approx([-1.0, 0.0, 0.5])


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda path: path.write_bytes(b"no wav at all"), "not a PCM WAV file"),
        (lambda path: path.write_bytes(b""), "not a PCM WAV file"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: write(path, b""), "holds no audio"),
        (lambda path: write(path, bytes(30), width=3), "24-bit"),
        (lambda path: write(path, bytes(1202), rate=1), "longer than"),
    ],
)
def test_a_file_that_is_no_speech_is_named(tmp_path, make, wrong):
    path = tmp_path / "bad.wav"
    make(path)

    with pytest.raises(UsageError, match=wrong) as caught:
        read_wav(path)

    assert "bad.wav" in str(caught.value)


@pytest.mark.parametrize("source", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("target", [16000, 24000, 44100])
def test_a_tone_stays_a_tone_at_another_rate(source, target):
    made = resample(tone(source), source, target)

    wanted = tone(target)
    assert len(made) == pytest.approx(len(wanted), abs=1)
    middle = slice(len(wanted) // 5, -len(wanted) // 5)
    assert np.abs(made[: len(wanted)][middle] - wanted[: len(made)][middle]).max() < 0.01


def test_what_the_lower_rate_cannot_hold_is_cut_and_not_folded():
    made = resample(tone(48000, hertz=15000), 48000, 16000)

    assert np.abs(made[200:-200]).max() < 0.01


def test_speech_knows_where_its_words_end(spoken):
    speech = make_speech(read_wav(spoken), RATE)

    assert len(speech.frames) == 15
    assert speech.voiced == 10


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_all_frames_have_the_same_whole_number_of_samples(spoken, rate):
    speech = make_speech(read_wav(spoken), rate)

    assert {len(frame) for frame in speech.frames} == {2 * round(rate * 0.02)}


def test_silence_is_speech_too(tmp_path):
    path = write(tmp_path / "silence.wav", bytes(3200))

    speech = make_speech(read_wav(path), RATE)

    assert speech.voiced == len(speech.frames) == 5


def test_what_is_saved_can_be_said_again(tmp_path):
    write_wav(tmp_path / "a.wav", 24000, bytes([1, 1]) * 2400)

    recording = read_wav(tmp_path / "a.wav")
    assert (recording.rate, len(recording.samples)) == (24000, 2400)
