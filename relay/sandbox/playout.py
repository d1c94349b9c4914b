"""Playing a reply out: texts and audio of its sentences at their pace, until it is over or cut.
Pure."""

from __future__ import annotations

from collections.abc import Sequence

from relay.protocol import deepgram
from relay.sandbox.audio import Audio, Tone, tone_seconds, wav_header
from relay.sandbox.events import SendAudio, Synthesize
from relay.sandbox.options import Options
from relay.sandbox.output import Output
from relay.sandbox.reply import Reply
from relay.sandbox.scheduler import Scheduler, Step


class Playout:
    """One reply at a time. `over` is called when all of it has been sent, not when it was cut."""

    def __init__(
        self, options: Options, scheduler: Scheduler, output: Output, *, over: Step
    ) -> None:
        self._options = options
        self._scheduler = scheduler
        self._output = output
        self._over = over
        self._reply: Reply | None = None
        self._frames = 0  # of the session

    def __repr__(self) -> str:
        return f"<Playout {self._reply} frames={self._frames}>"

    def begin(
        self,
        reply: Reply,
        now: float,
        *,
        delay: float | None = None,
        seconds: float | None = None,
    ) -> None:
        """Get voices for the sentences. Without an engine these are tones of `seconds` each, and
        the first begins after `delay`."""
        self._reply = reply
        if self._options.speech is not None:
            for index, text in enumerate(reply.sentences):
                self._output.do(Synthesize(reply, index, text))
            return
        stamp = self._options.script is not None and self._options.script.stamp
        for index, text in enumerate(reply.sentences):
            length = tone_seconds(text) if seconds is None else seconds
            tone = Tone(length, self._output.settings.output, self._options.frame_ms, stamp=stamp)
            reply.audio_ready(index, tone)
        wait = self._options.voice_delay if delay is None else delay
        self._scheduler.add(now + wait, self._sentence)

    def audio_ready(self, reply: Reply, index: int, audio: Audio, now: float) -> None:
        reply.audio_ready(index, audio)
        if reply is not self._reply or not reply.can_begin(index):
            return
        played = reply.played if reply.index >= 0 else now
        self._scheduler.add(max(now, played), self._sentence)

    def cut(self) -> bool:
        """Forget the reply; True if audio was under way."""
        audible = self._reply is not None and self._reply.index >= 0
        self._reply = None
        return audible

    def late_frames(self, now: float) -> Sequence[bytes]:
        """What still slips out when the user barges in."""
        reply = self._reply
        if reply is None or reply.index < 0 or reply.is_sent:
            return ()
        count = min(self._options.late_frames, reply.audio.frames - reply.sent)
        return [self._next_frame(reply, now) for _ in range(count)]

    def _sentence(self, now: float) -> None:
        """The text of a sentence, then its audio; before the first one come the latencies."""
        reply = self._reply
        if reply is None or not reply.can_begin(reply.index + 1):
            return
        text = reply.begin(now)
        self._output.say("assistant", text)
        if reply.asked is not None and reply.index == 0:
            self._output.report_voice(now - reply.asked)
        if self._output.settings.container == "wav" and reply.index == 0:
            self._output.do(SendAudio(wav_header(self._output.settings.output)))
        self._stream(now)

    def _stream(self, now: float) -> None:
        reply = self._reply
        if reply is None:
            return
        while not reply.is_sent and reply.next_due <= now:
            self._output.do(SendAudio(self._next_frame(reply, now)))
        if not reply.is_sent:
            self._scheduler.add(reply.next_due, self._stream)
        elif not reply.is_last:
            self._scheduler.add(reply.played, self._sentence)
        else:
            self._reply = None
            self._output.send(deepgram.AgentAudioDone())
            self._over(now)

    def _next_frame(self, reply: Reply, now: float) -> bytes:
        self._frames += 1
        return reply.next_frame(self._frames - 1, now)
