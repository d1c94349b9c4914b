"""Recordings as speech for a session: WAV files in and out, and their sample rate.

For the terminal client (cli.py) only: it needs numpy, which production does not have.
"""

from __future__ import annotations

import wave
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

FRAME = 0.02  # seconds of audio in one frame, as from a browser's microphone
LONGEST_WAV = 600.0  # seconds
VOICED = 0.02  # of the loudest sample: what is below is the silence after the words

Samples = npt.NDArray[np.float64]


class UsageError(Exception):
    """What was asked for cannot be done: exit code 2."""


class Recording(msgspec.Struct, frozen=True):
    """Mono samples in -1..1."""

    name: str
    rate: int
    samples: Samples


def read_wav(path: Path) -> Recording:
    """8- or 16-bit PCM, any rate, any number of channels. Raises `UsageError`."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, count = file.getparams()[:4]
            if width not in (1, 2):
                raise UsageError(f"{path}: {8 * width}-bit samples, expected 8 or 16 bit")
            if rate <= 0 or count / rate > LONGEST_WAV:
                raise UsageError(f"{path}: longer than {LONGEST_WAV:.0f} s")
            raw = file.readframes(count)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except (wave.Error, EOFError) as error:
        raise UsageError(f"{path}: not a PCM WAV file: {error or 'it ends early'}") from error
    whole = raw[: len(raw) - len(raw) % (channels * width)]
    if not whole:
        raise UsageError(f"{path}: holds no audio")
    if width == 1:  # the one unsigned width of WAV
        samples = (np.frombuffer(whole, np.uint8).astype(np.float64) - 128.0) / 128.0
    else:
        samples = np.frombuffer(whole, "<i2").astype(np.float64) / 32768.0
    return Recording(path.name, rate, samples.reshape(-1, channels).mean(axis=1))


def resample(samples: Samples, source: int, target: int) -> Samples:
    """The same sound at another rate: its spectrum, cut where one of the two can hold no more."""
    if source == target or not len(samples):
        return samples
    spectrum = np.fft.rfft(samples)
    count = max(1, round(len(samples) * target / source))
    made: Samples = np.fft.irfft(spectrum[: count // 2 + 1], count) * (count / len(samples))
    return made


class Speech(msgspec.Struct, frozen=True):
    """A recording as frames for the wire; after `voiced` of them only silence follows."""

    name: str
    frames: list[bytes]
    voiced: int


def make_speech(recording: Recording, rate: int) -> Speech:
    """Linear16 frames of 20 ms at the session's rate; the last one is filled up with silence."""
    samples = np.clip(resample(recording.samples, recording.rate, rate), -1.0, 1.0)
    size = round(rate * FRAME)
    samples = np.pad(samples, (0, -len(samples) % size))
    peaks = np.abs(samples).reshape(-1, size).max(axis=1)
    loud = np.flatnonzero(peaks > max(VOICED * float(peaks.max()), 1e-4))
    wire = np.round(samples * 32767.0).astype("<i2").tobytes()
    frames = [wire[at : at + 2 * size] for at in range(0, len(wire), 2 * size)]
    return Speech(recording.name, frames, int(loud[-1]) + 1 if len(loud) else len(frames))


def write_wav(path: Path, rate: int, audio: bytes) -> None:
    """Raises `OSError`."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(audio)
