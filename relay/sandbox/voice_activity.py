"""Voice activity: frames of any size in, "the user speaks", pauses and whole utterances out.

Voice activity is Silero's, on 32 ms of 16 kHz at a time: 1.3 ms of processor time each, and, unlike
a threshold on the level, it is not fooled by a fan or a microphone with a high gain.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from relay.sandbox.audio import SPEECH_RATE, Decoder, Format

CHUNK = 512  # samples that the detector takes at a time
CHUNK_BYTES = 2 * CHUNK
CHUNK_SECONDS = CHUNK / SPEECH_RATE
SPEECH = 0.5  # probability from which a chunk is speech
STARTING_CHUNKS = 4  # of the last STARTING_WINDOW: 130 ms of speech are a beginning, a click is not
STARTING_WINDOW = 6
KEPT_BEFORE = 0.4  # seconds before the beginning that belong to the utterance
LONGEST = 30.0  # seconds of one utterance: what the recogniser takes

Samples = npt.NDArray[np.float32]
"""Mono, -1 to 1, at SPEECH_RATE."""

SpeechProbability = Callable[[bytes], float]
"""The probability of speech in one chunk of 16-bit samples."""


class SpeechStarted(msgspec.Struct, frozen=True):
    """The user begins to speak, or goes on after a pause."""


class Utterance(msgspec.Struct, frozen=True):
    """What the user said in one turn, at SPEECH_RATE; until now, if it `is_over` only perhaps."""

    sound: bytes
    is_over: bool = True

    @property
    def samples(self) -> Samples:
        return np.frombuffer(self.sound, "<i2").astype(np.float32) / np.float32(32_768)


class UtteranceDetector:
    """`silence` seconds without speech end an utterance, fewer than that may be a `pause`. Raises
    UnknownEncoding."""

    def __init__(
        self,
        input: Format,
        detector: SpeechProbability,
        *,
        silence: float,
        pause: float = math.inf,
    ) -> None:
        self._decoder = Decoder(input)
        self._detector = detector
        self._quiet_chunks = max(round(silence / CHUNK_SECONDS), 1)
        self._pause_chunks = max(round(min(pause, silence) / CHUNK_SECONDS), 1)
        self._pending = b""  # less than a chunk
        self._recent: deque[bool] = deque(maxlen=STARTING_WINDOW)
        self._before: deque[bytes] = deque(maxlen=round(KEPT_BEFORE / CHUNK_SECONDS))
        self._speech: list[bytes] | None = None  # None: the user is silent
        self._quiet = 0

    def hear(self, frame: bytes) -> list[SpeechStarted | Utterance]:
        """A binary frame, of any size; with Opus, one packet."""
        self._pending += self._decoder.decode(frame)
        events: list[SpeechStarted | Utterance] = []
        while len(self._pending) >= CHUNK_BYTES:
            chunk, self._pending = self._pending[:CHUNK_BYTES], self._pending[CHUNK_BYTES:]
            events += self._take(chunk)
        return events

    def finish(self) -> list[SpeechStarted | Utterance]:
        """End the utterance now, if there is one."""
        if self._speech is None:
            return []
        sound = b"".join(self._speech)
        self._speech = None
        self._recent.clear()
        self._quiet = 0
        return [Utterance(sound)]

    def _take(self, chunk: bytes) -> list[SpeechStarted | Utterance]:
        speaks = self._detector(chunk) >= SPEECH
        if self._speech is None:
            self._before.append(chunk)
            self._recent.append(speaks)
            if sum(self._recent) < STARTING_CHUNKS:
                return []
            self._speech = list(self._before)
            self._before.clear()
            return [SpeechStarted()]
        if speaks or self._quiet < self._pause_chunks:  # the recogniser forgets words over silence
            self._speech.append(chunk)
        goes_on = speaks and self._quiet >= self._pause_chunks
        self._quiet = 0 if speaks else self._quiet + 1
        too_long = len(self._speech) * CHUNK_SECONDS >= LONGEST
        if self._quiet >= self._quiet_chunks or too_long:
            return self.finish()
        if self._quiet == self._pause_chunks:
            return [Utterance(b"".join(self._speech), is_over=False)]
        return [SpeechStarted()] if goes_on else []
