"""Samples: from the client's encoding and rate to 16 kHz for recognition, and from the voice's
rate to what the client wants to hear. Pure; numpy is used here and in voice_activity.py only."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import numpy.typing as npt

from relay.sandbox.audio import Format

Samples = npt.NDArray[np.float32]
"""Mono, -1 to 1."""

SPEECH_RATE = 16_000
OPUS_RATE = 48_000  # what the library gives out, whatever went in
_FULL = 32_768.0


class UnknownEncoding(ValueError):
    """An encoding that the sandbox cannot read or write."""


def decode(data: bytes, encoding: str) -> Samples:
    """Whole samples of linear16, linear32, mulaw or alaw. Raises UnknownEncoding."""
    match encoding:
        case "linear16":
            return np.frombuffer(data, "<i2").astype(np.float32) / _FULL
        case "linear32":
            return np.frombuffer(data, "<f4").astype(np.float32)
        case "mulaw":
            return _MULAW[np.frombuffer(data, np.uint8)]
        case "alaw":
            return _ALAW[np.frombuffer(data, np.uint8)]
    raise UnknownEncoding(encoding)


def encode(samples: Samples, encoding: str) -> bytes:
    """Raises UnknownEncoding."""
    clipped = np.clip(samples, -1.0, 32_767 / _FULL)
    match encoding:
        case "linear16":
            return np.round(clipped * _FULL).astype("<i2").tobytes()
        case "mulaw":
            return _nearest(clipped, _MULAW)
        case "alaw":
            return _nearest(clipped, _ALAW)
    raise UnknownEncoding(encoding)


def resample(samples: Samples, source: int, target: int) -> Samples:
    """Linear interpolation, after a moving average when the rate goes down: good enough for speech
    and without a filter library."""
    if source == target or not len(samples):
        return samples
    samples = _smooth(samples, max(round(source / target), 1))
    count = max(round(len(samples) * target / source), 1)
    at = np.arange(count) * (source / target)
    result: Samples = np.interp(at, np.arange(len(samples)), samples).astype(np.float32)
    return result


class Resampler:
    """The same for a stream: no seam between one piece and the next."""

    def __init__(self, source: int, target: int) -> None:
        self._step = source / target
        self._width = max(round(self._step), 1)
        self._kept = np.zeros(0, np.float32)
        self._at = 0.0  # where the next sample is taken, in what is kept

    def feed(self, samples: Samples) -> Samples:
        if self._step == 1:
            return samples
        kept = np.concatenate((self._kept, samples))
        # The last samples wait: what follows them belongs into their average.
        count = max(int((len(kept) - self._width - 1 - self._at) / self._step), 0)
        at = self._at + np.arange(count) * self._step
        heard: Samples = np.interp(at, np.arange(len(kept)), _smooth(kept, self._width)).astype(
            np.float32
        )
        self._at += count * self._step
        past = max(int(self._at) - self._width, 0)
        self._kept = kept[past:]
        self._at -= past
        return heard


def _smooth(samples: Samples, width: int) -> Samples:
    """A moving average."""
    if width == 1 or len(samples) < width:
        return samples
    window = np.ones(width, np.float32) / np.float32(width)
    return np.convolve(samples, window, "same").astype(np.float32)


def to_format(samples: Samples, rate: int, output: Format) -> bytes:
    return encode(resample(samples, rate, output.rate), output.encoding)


class OpusPackets:
    """A decoder with the memory that the codec needs from one packet to the next; one packet is
    one binary message."""

    def __init__(self) -> None:
        self._decoder = av.AudioCodecContext.create("libopus", "r")
        self._decoder.sample_rate = OPUS_RATE
        self._decoder.layout = "mono"
        self._decoder.open()

    def decode(self, packet: bytes) -> Samples:
        """What is no packet is silence of no length, as for a service that throws it away."""
        if not packet:
            return np.zeros(0, np.float32)  # to the library that would be the end
        try:
            frames = self._decoder.decode(av.Packet(packet))
        except av.FFmpegError:
            return np.zeros(0, np.float32)
        parts = [frame.to_ndarray().reshape(-1) for frame in frames]
        if not parts:
            return np.zeros(0, np.float32)
        return np.concatenate(parts).astype(np.float32) / _FULL


def _mulaw_table() -> Samples:
    codes = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (codes >> 4) & 7, codes & 15
    size = (((mantissa.astype(np.int32) << 3) + 0x84) << exponent) - 0x84
    return _signed(size, (codes & 0x80) != 0)


def _alaw_table() -> Samples:
    codes = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((codes >> 4) & 7).astype(np.int32), (codes & 15).astype(np.int32)
    low = (mantissa << 4) + 8
    high = ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0)
    return _signed(np.where(exponent == 0, low, high), (codes & 0x80) == 0)


def _signed(size: npt.NDArray[Any], negative: npt.NDArray[np.bool_]) -> Samples:
    return (np.where(negative, -size, size) / _FULL).astype(np.float32)


def _nearest(samples: Samples, table: Samples) -> bytes:
    """For each sample the code whose value is nearest."""
    order = np.argsort(table, kind="stable")
    values = table[order]
    middles = (values[1:] + values[:-1]) / 2
    return order[np.searchsorted(middles, samples)].astype(np.uint8).tobytes()


_MULAW = _mulaw_table()
_ALAW = _alaw_table()
