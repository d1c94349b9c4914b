"""Playing a reply out: texts and audio of its sentences at their pace, until it is over or cut.

Pure. Audio of a sentence goes out faster than real time; the text of the next one waits until the
sentence before has been heard.
"""

from __future__ import annotations

from collections import deque

from relay.protocol import deepgram
from relay.sandbox.audio import FRAME_MS, tone, wav_header
from relay.sandbox.options import Options
from relay.sandbox.output import Output, Sentence
from relay.sandbox.scheduler import Scheduler, Step
from relay.sandbox.script import Turn


class Playout:
    """One reply at a time. `over` is called when all of it has been sent, not when it was cut."""

    def __init__(
        self, options: Options, scheduler: Scheduler, output: Output, *, over: Step
    ) -> None:
        self._options = options
        self._scheduler = scheduler
        self._output = output
        self._over = over
        self._sentences: deque[Sentence] = deque()  # that have not begun
        self._frames: deque[bytes] = deque()  # of the one that is being sent
        self._pace = options.pace
        self._due = 0.0  # when the next frame is
        self._heard_at = 0.0  # when the sentence has been heard, if it is played as it comes
        self.is_audible = False  # whether audio of this reply was sent

    def begin(self, turn: Turn, now: float, *, delay: float) -> None:
        """Get voices for the sentences. Without an engine these are tones, and the first begins
        after `delay`."""
        self._pace = turn.pace or self._options.pace
        self._heard_at = now
        for sentence in map(Sentence, turn.say):
            self._sentences.append(sentence)
            if self._options.speech is not None:
                self._output.do(sentence)
                continue
            sentence.audio = tone(sentence.text, self._output.settings.output, turn.seconds)
            self._heard_at = now + delay
        self._scheduler.add(self._heard_at, self._sentence)

    def voice_ready(self, sentence: Sentence, audio: bytes, now: float) -> None:
        sentence.audio = audio
        self._sentence(now)

    def cut(self) -> None:
        """Forget the reply."""
        self._sentences.clear()
        self._frames.clear()
        self.is_audible = False

    def late_frames(self) -> list[bytes]:
        """What still slips out when the user barges in."""
        return list(self._frames)[: self._options.late_frames]

    def _sentence(self, now: float) -> None:
        """If it is time: the text of a sentence, then its audio; before the first one come the
        latencies."""
        if self._frames or not self._sentences or now < self._heard_at:
            return
        audio = self._sentences[0].audio
        if audio is None:
            return
        self._output.say("assistant", self._sentences.popleft().text)
        self._output.report_voice(now)
        settings = self._output.settings
        if settings.container == "wav" and not self.is_audible:
            self._output.do(wav_header(settings.output))
        self.is_audible = True
        size = settings.output.frame_bytes
        self._frames.extend(audio[at : at + size] for at in range(0, len(audio), size))
        self._due = now
        self._heard_at = now + len(audio) / settings.output.bytes_per_second
        self._stream(now)

    def _stream(self, now: float) -> None:
        while self._frames and self._due <= now:
            self._output.do(self._frames.popleft())
            self._due += FRAME_MS / 1000 / self._pace
        if self._frames:
            self._scheduler.add(self._due, self._stream)
        elif self._sentences:
            self._scheduler.add(self._heard_at, self._sentence)
        else:
            self.is_audible = False
            self._output.send(deepgram.AgentAudioDone())
            self._over(now)
