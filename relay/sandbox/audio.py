"""Audio formats of a session and the audio of a sentence, cut into frames. Pure.

A sentence is either real samples (`Recorded`) or a tone that is made while it is sent (`Tone`): an
hour of it takes one frame of memory, and a frame may carry a stamp for those who measure.
"""

from __future__ import annotations

import math
import struct
from array import array
from typing import Protocol

import msgspec

STAMP = struct.Struct("<4sIQ")
"""At the start of a stamped frame: MAGIC, number of the frame in the session, monotonic time in
nanoseconds at which it was sent."""

MAGIC = b"\x01VR\x01"

BYTES_PER_SAMPLE = {"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}
SILENCE = {"linear16": b"\x00", "linear32": b"\x00", "mulaw": b"\xff", "alaw": b"\xd5"}

OUTPUT_RATES = {
    "linear16": (8000, 16000, 24000, 32000, 48000),
    "mulaw": (8000, 16000),
    "alaw": (8000, 16000),
}
"""What the sandbox can send: Deepgram's own list, without the compressed encodings."""

TONE_HZ = 400  # a whole number of waves in 20 ms at every rate
TONE_LEVEL = 3000
SECONDS_PER_LETTER = 0.065  # how long a tone takes in the place of a sentence


class Format(msgspec.Struct, frozen=True):
    encoding: str = "linear16"
    rate: int = 24000

    @property
    def bytes_per_second(self) -> int:
        return self.rate * BYTES_PER_SAMPLE.get(self.encoding, 1)

    def frame_bytes(self, frame_ms: int) -> int:
        return max(self.rate * frame_ms // 1000, 1) * BYTES_PER_SAMPLE[self.encoding]


_WAV = struct.Struct("<4sI4s4sIHHIIHH4sI")
_WAV_CODES = {"linear16": 1, "alaw": 6, "mulaw": 7}
_ENDLESS = 0xFFFFFFFF


def wav_header(audio: Format) -> bytes:
    """The header of a WAV file of unknown length, mono."""
    size = BYTES_PER_SAMPLE[audio.encoding]
    code, second = _WAV_CODES[audio.encoding], audio.bytes_per_second
    about = (b"WAVE", b"fmt ", 16, code, 1, audio.rate, second, size, 8 * size)
    return _WAV.pack(b"RIFF", _ENDLESS, *about, b"data", _ENDLESS)


class Audio(Protocol):
    """The audio of one sentence."""

    @property
    def seconds(self) -> float: ...

    @property
    def frames(self) -> int: ...

    def frame(self, index: int, number: int, now: float) -> bytes:
        """Frame `index` of the sentence, the `number`-th of the session."""
        ...


class Recorded:
    """Samples that are there already."""

    def __init__(self, samples: bytes, audio: Format, frame_ms: int) -> None:
        self.samples = samples
        self.size = audio.frame_bytes(frame_ms)
        self.seconds = len(samples) / audio.bytes_per_second
        self.frames = -(-len(samples) // self.size)

    def frame(self, index: int, number: int, now: float) -> bytes:
        return self.samples[index * self.size : (index + 1) * self.size]


class Tone:
    """A tone of some length, in linear16; one sound of silence in the other encodings."""

    def __init__(self, seconds: float, audio: Format, frame_ms: int, *, stamp: bool) -> None:
        self.frames = max(round(seconds * 1000 / frame_ms), 1)
        self.seconds = self.frames * frame_ms / 1000
        self.stamp = stamp
        self._frame = _tone_frame(audio, frame_ms)
        self._rest = self._frame[STAMP.size :]

    def frame(self, index: int, number: int, now: float) -> bytes:
        if not self.stamp:
            return self._frame
        return STAMP.pack(MAGIC, number & 0xFFFFFFFF, int(now * 1e9)) + self._rest


def tone_seconds(text: str) -> float:
    """How long the tone for this sentence is."""
    return max(len(text) * SECONDS_PER_LETTER, 0.4)


def _tone_frame(audio: Format, frame_ms: int) -> bytes:
    size = audio.frame_bytes(frame_ms)
    if audio.encoding != "linear16":
        return SILENCE[audio.encoding] * size
    step = 2 * math.pi * TONE_HZ / audio.rate
    return array("h", [round(TONE_LEVEL * math.sin(step * n)) for n in range(size // 2)]).tobytes()
