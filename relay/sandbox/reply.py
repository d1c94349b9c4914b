"""What the agent is saying: sentences, their audio, and how much of it has been sent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from relay.sandbox.audio import Audio


class Reply:
    """A run of sentences. Audio of a sentence goes out faster than real time; the text of the next
    one waits until the sentence before has been played."""

    def __init__(self, sentences: Sequence[str], *, pace: float, asked: float | None) -> None:
        self.sentences = tuple(sentences)
        self.pace = pace
        self.asked = asked  # when the user's turn ended, for the latency figures
        self.index = -1  # the sentence being sent; -1: none yet
        self.sent = 0  # frames of it
        self.started = 0.0  # when its first frame was due
        self._audio: dict[int, Audio] = {}

    def __repr__(self) -> str:
        return f"<Reply {self.index + 1}/{len(self.sentences)} frame={self.sent}>"

    def audio_ready(self, index: int, audio: Audio) -> None:
        self._audio[index] = audio

    def can_begin(self, index: int) -> bool:
        """Whether sentence `index` is the next one and has its audio."""
        return index == self.index + 1 and index in self._audio

    def begin(self, now: float) -> str:
        """Go to the next sentence and return its text."""
        self.index += 1
        self.sent = 0
        self.started = now
        return self.sentences[self.index]

    @property
    def audio(self) -> Audio:
        return self._audio[self.index]

    @property
    def is_last(self) -> bool:
        return self.index == len(self.sentences) - 1

    @property
    def is_sent(self) -> bool:
        """Whether all audio of this sentence is out."""
        return self.sent >= self.audio.frames

    @property
    def played(self) -> float:
        """When the sentence has been heard, if it is played from its first frame on."""
        return self.started + self.audio.seconds

    @property
    def next_due(self) -> float:
        """When the next frame of the sentence is to be sent."""
        audio = self.audio
        return self.started + self.sent * (audio.seconds / audio.frames) / self.pace

    def next_frame(self, number: int, now: float) -> bytes:
        frame = self.audio.frame(self.sent, number, now)
        self.sent += 1
        return frame
