"""Voice activity: frames of any size in, "the user speaks" and whole utterances out.

Voice activity is Silero's, on 32 ms of 16 kHz at a time: 1.3 ms of processor time each, and, unlike
a threshold on the level, it is not fooled by a fan or a microphone with a high gain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np

from relay.sandbox.audio import BYTES_PER_SAMPLE, Format
from relay.sandbox.codec import (
    OPUS_RATE,
    SPEECH_RATE,
    OpusPackets,
    Resampler,
    Samples,
    decode,
    encode,
)
from relay.sandbox.events import SpeechStarted

CHUNK = 512  # samples that the detector takes at a time
CHUNK_SECONDS = CHUNK / SPEECH_RATE
SPEECH = 0.5  # probability from which a chunk is speech
STARTING_CHUNKS = 4  # of the last STARTING_WINDOW: 130 ms of speech are a beginning, a click is not
STARTING_WINDOW = 6
KEPT_BEFORE = 0.4  # seconds before the beginning that belong to the utterance
LONGEST = 30.0  # seconds of one utterance: what the recogniser takes

SpeechProbability = Callable[[bytes], float]
"""The probability of speech in one chunk of 16-bit samples."""


class Utterance(msgspec.Struct, frozen=True):
    """What the user said in one turn: 16 kHz samples."""

    samples: Samples


class UtteranceDetector:
    """`silence` seconds without speech end an utterance."""

    def __init__(self, input: Format, detector: SpeechProbability, *, silence: float) -> None:
        self._input = input
        self._detector = detector
        self._quiet_chunks = max(round(silence / CHUNK_SECONDS), 1)
        self._opus = OpusPackets() if input.encoding == "opus" else None
        self._resampler = Resampler(OPUS_RATE if self._opus else input.rate, SPEECH_RATE)
        self._bytes = b""  # less than a sample
        self._pending = np.zeros(0, np.float32)  # less than a chunk
        self._recent: deque[bool] = deque(maxlen=STARTING_WINDOW)
        self._before: deque[Samples] = deque(maxlen=round(KEPT_BEFORE / CHUNK_SECONDS))
        self._speech: list[Samples] | None = None  # None: the user is silent
        self._quiet = 0

    def hear(self, frame: bytes) -> list[SpeechStarted | Utterance]:
        """A binary frame, of any size; with Opus, one packet."""
        fresh = self._resampler.feed(self._opus.decode(frame) if self._opus else self._read(frame))
        self._pending = np.concatenate((self._pending, fresh))
        events: list[SpeechStarted | Utterance] = []
        while len(self._pending) >= CHUNK:
            chunk, self._pending = self._pending[:CHUNK], self._pending[CHUNK:]
            events += self._take(chunk)
        return events

    def _read(self, frame: bytes) -> Samples:
        data = self._bytes + frame
        whole = len(data) - len(data) % BYTES_PER_SAMPLE[self._input.encoding]
        self._bytes = data[whole:]
        return decode(data[:whole], self._input.encoding)

    def finish(self) -> list[SpeechStarted | Utterance]:
        """End the utterance now, if there is one."""
        if self._speech is None:
            return []
        samples = np.concatenate(self._speech)
        self._speech = None
        self._recent.clear()
        self._quiet = 0
        return [Utterance(samples)]

    def _take(self, chunk: Samples) -> list[SpeechStarted | Utterance]:
        speaks = self._detector(encode(chunk, "linear16")) >= SPEECH
        if self._speech is None:
            self._before.append(chunk)
            self._recent.append(speaks)
            if sum(self._recent) < STARTING_CHUNKS:
                return []
            self._speech = list(self._before)
            self._before.clear()
            return [SpeechStarted()]
        self._speech.append(chunk)
        self._quiet = 0 if speaks else self._quiet + 1
        too_long = len(self._speech) * CHUNK_SECONDS >= LONGEST
        return self.finish() if self._quiet >= self._quiet_chunks or too_long else []
