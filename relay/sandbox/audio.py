"""Audio formats of a session, and the tone that takes the place of a voice. Pure.

Sound that has no `Format` beside it is mono, 16-bit little-endian samples.
"""

from __future__ import annotations

import math
import struct
from array import array

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
