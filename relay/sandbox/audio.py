"""Audio of a session: formats, the tone that takes the place of a voice, and conversion from the
client's encoding to 16 kHz for recognition, from a voice to what the client wants to hear. Pure.

Sound that has no `Format` beside it is mono, 16-bit little-endian samples. FFmpeg's codecs and
resampler do the work, by way of the library `av`.
"""

from __future__ import annotations

import math
import struct
from array import array
from typing import Any, Literal

import av
import msgspec

FRAME_MS = 20
BYTES_PER_SAMPLE = {"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}
SILENCE = {"mulaw": b"\xff", "alaw": b"\xd5"}

TONE_HZ = 400  # a whole number of waves in 20 ms at every rate
TONE_LEVEL = 3000
SECONDS_PER_LETTER = 0.065  # how long a tone takes in the place of a sentence


class Format(msgspec.Struct, frozen=True):
    encoding: str = "linear16"
    rate: int = 24000

    @property
    def bytes_per_second(self) -> int:
        return self.rate * BYTES_PER_SAMPLE.get(self.encoding, 1)

    @property
    def frame_bytes(self) -> int:
        """The size of a frame as the sandbox sends it."""
        return self.bytes_per_second * FRAME_MS // 1000


_WAV = struct.Struct("<4sI4s4sIHHIIHH4sI")
_WAV_CODES = {"linear16": 1, "alaw": 6, "mulaw": 7}
_ENDLESS = 0xFFFFFFFF


def wav_header(audio: Format) -> bytes:
    """The header of a WAV file of unknown length, mono."""
    size = BYTES_PER_SAMPLE[audio.encoding]
    code, second = _WAV_CODES[audio.encoding], audio.bytes_per_second
    about = (b"WAVE", b"fmt ", 16, code, 1, audio.rate, second, size, 8 * size)
    return _WAV.pack(b"RIFF", _ENDLESS, *about, b"data", _ENDLESS)


def tone(text: str, audio: Format, seconds: float | None = None) -> bytes:
    """In place of these words: whole frames, audible in linear16, else silence. `seconds` None: as
    long as the words are."""
    if seconds is None:
        seconds = max(len(text) * SECONDS_PER_LETTER, 0.4)
    size = audio.frame_bytes
    if audio.encoding == "linear16":
        step = 2 * math.pi * TONE_HZ / audio.rate
        wave = [round(TONE_LEVEL * math.sin(step * n)) for n in range(size // 2)]
        frame = array("h", wave).tobytes()
    else:
        frame = SILENCE[audio.encoding] * size
    return frame * max(round(seconds * 1000 / FRAME_MS), 1)


# --- encodings ---------------------------------------------------------------------------------

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
