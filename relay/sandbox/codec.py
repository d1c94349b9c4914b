"""Sound from the client's encoding to 16 kHz for recognition, and from a voice to what the client
wants to hear: FFmpeg's codecs and resampler, by way of the library `av`. Pure."""

from __future__ import annotations

from typing import Any, Literal

import av

from relay.sandbox.audio import BYTES_PER_SAMPLE, Format

SPEECH_RATE = 16_000
OPUS_RATE = 48_000  # what the library gives out, whatever went in

_CODECS = {
    "linear16": "pcm_s16le",
    "linear32": "pcm_f32le",
    "mulaw": "pcm_mulaw",
    "alaw": "pcm_alaw",
    "opus": "libopus",
}


class UnknownEncoding(ValueError):
    """An encoding that the sandbox cannot read."""


class Decoder:
    """A stream from the client, read to sound at SPEECH_RATE. Raises UnknownEncoding."""

    def __init__(self, input: Format) -> None:
        if input.encoding not in _CODECS:
            raise UnknownEncoding(f"Audio in {input.encoding} cannot be decoded here.")
        rate = OPUS_RATE if input.encoding == "opus" else input.rate
        self._codec = _open(input.encoding, "r", rate)
        self._resampler = av.AudioResampler("s16", "mono", SPEECH_RATE)
        self._sample = BYTES_PER_SAMPLE.get(input.encoding)
        self._rest = b""  # less than a sample

    def decode(self, data: bytes) -> bytes:
        """Bytes of any number; with Opus, one packet. What is no packet is thrown away."""
        if self._sample is not None:
            data = self._rest + data
            whole = len(data) - len(data) % self._sample
            data, self._rest = data[:whole], data[whole:]
        if not data:
            return b""  # to the library that would be the end
        try:
            frames = self._codec.decode(av.Packet(data))
        except av.FFmpegError:
            return b""
        return b"".join(_bytes(out) for frame in frames for out in self._resampler.resample(frame))


def convert(sound: bytes, rate: int, output: Format) -> bytes:
    """Sound at this rate in one of the formats that clients may ask for."""
    resampler = av.AudioResampler("s16", "mono", output.rate)
    encoder = _open(output.encoding, "w", output.rate)
    frames = _open("linear16", "r", rate).decode(av.Packet(sound)) if sound else []
    resampled = [out for frame in (*frames, None) for out in resampler.resample(frame)]
    return b"".join(bytes(packet) for frame in resampled for packet in encoder.encode(frame))


def _open(encoding: str, mode: Literal["r", "w"], rate: int) -> Any:
    codec: Any = av.AudioCodecContext.create(_CODECS[encoding], mode)
    codec.sample_rate = rate
    codec.layout = "mono"
    if mode == "w":
        codec.format = "s16"
    codec.open()
    return codec


def _bytes(frame: av.AudioFrame) -> bytes:
    """Without what the library keeps behind the samples."""
    return bytes(frame.planes[0])[: frame.samples * 2]
