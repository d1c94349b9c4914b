"""How much a browser may send, and how often it may be refused. Pure.

One for each session. Texts are judged one by one; audio is not looked at frame by frame: its bytes
and frames are counted by the connection, and every other second `check` holds the counts against
what real time allows. Seconds are monotonic and passed in.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

import msgspec

from config.agent import AudioInput
from config.limits import Limits
from config.policy import Limited, Policy
from relay.core import message_policy
from relay.protocol import deepgram, relay_events
from relay.protocol.audio_formats import bytes_per_second
from relay.token_bucket import TokenBucket

CHECK_SECONDS = 2.0  # between two checks of the audio; one costs some 20 µs
COMPRESSED = 4  # bytes a sample that no codec reaches
# Frames of an AudioWorklet (128 samples at 48 kHz) come 375 a second; nobody needs smaller ones.
FRAMES_A_SECOND = 500
# Seconds of debt at which a browser is not just too fast: it does something else than speaking.
GROSS = 30.0


class AudioVerdict(Enum):
    """What becomes of the browser's audio."""

    PASS = "pass"
    BLOCK = "block"  # it is thrown away until there is an allowance again
    FLOOD = "flood"  # so much that the session ends


class AudioCheck(msgspec.Struct, frozen=True):
    """What a check of the audio found; `changed` says whether `verdict` is news."""

    verdict: AudioVerdict
    changed: bool
    refusal: relay_events.RelayError | None


class AudioLimit:
    """The audio of one browser since second `now`: frames and bytes, against real time."""

    def __init__(self, limits: Limits, audio: AudioInput, now: float) -> None:
        self._speed = speed = limits.audio_speed
        rate = (bytes_per_second(audio) or COMPRESSED * audio.sample_rate) * speed
        frames = FRAMES_A_SECOND * speed
        seconds = limits.audio_burst_seconds / (speed or 1)
        self._sample = 2 if audio.encoding == "linear16" else 1  # bytes: whole samples only
        self._bytes = TokenBucket(rate, rate * seconds, now)
        self._frames = TokenBucket(frames, frames * seconds, now)
        self._gross = -GROSS * rate, -GROSS * frames
        self._seen = 0, 0
        self._verdict = AudioVerdict.PASS
        self.next_check = now + CHECK_SECONDS if speed else math.inf

    def check(self, frames: int, size: int, now: float) -> AudioCheck:
        """Hold what has come so far, `frames` of `size` bytes together, against what is allowed."""
        new_frames, new_bytes = frames - self._seen[0], size - self._seen[1]
        self._seen = frames, size
        self.next_check = now + CHECK_SECONDS
        left = self._bytes.spend(new_bytes, now), self._frames.spend(new_frames, now)
        before = self._verdict
        if left[0] < self._gross[0] or left[1] < self._gross[1]:
            self._verdict = AudioVerdict.FLOOD
        else:
            self._verdict = AudioVerdict.BLOCK if min(left) < 0 else AudioVerdict.PASS
        refusal = None
        if self._verdict is not AudioVerdict.PASS and new_frames:
            speed = f"{self._speed:g} times real time"
            detail = f"expected audio at no more than {speed}; it is thrown away for now"
            refusal = relay_events.RelayError(code="too_fast", detail=detail)
        elif new_bytes % self._sample:
            detail = "expected linear16: an even number of bytes in each binary message"
            refusal = relay_events.RelayError(code="not_audio", detail=detail)
        return AudioCheck(self._verdict, self._verdict is not before, refusal)

    @property
    def most(self) -> tuple[float, float]:
        """Frames and bytes, counted as for `check`, that are a flood before the next check."""
        if self.next_check == math.inf:
            return math.inf, math.inf
        frames = self._seen[0] + self._frames.level - self._gross[1]
        return frames, self._seen[1] + self._bytes.level - self._gross[0]


class BrowserLimits:
    """What one browser may send since second `now`."""

    def __init__(self, limits: Limits, policy: Policy, audio: AudioInput, now: float) -> None:
        self._rate = limits.messages_per_second
        self._policy = policy
        self._texts = TokenBucket(self._rate, 2 * self._rate, now)
        self._kinds: dict[str, TokenBucket] = {}
        self._refusals: deque[float] = deque(maxlen=policy.abuse.refusals)
        self.audio = AudioLimit(limits, audio, now)

    def __repr__(self) -> str:
        return f"<BrowserLimits refusals={len(self._refusals)}>"

    def decode(self, text: bytes) -> deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed:
        """A text message of the browser, if it is not too long to be one."""
        return message_policy.read(text, self._policy.messages)

    def is_text(self, payload: bytes | memoryview) -> bool:
        """Whether a binary message is a text one that was sent the wrong way."""
        return message_policy.is_text(payload, self._policy.messages)

    def refuse_text(
        self, message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed, now: float
    ) -> relay_events.RelayError | None:
        """Why this text goes nowhere; None: it may pass."""
        return self._noted(self._judge(message, now), now)

    def _judge(
        self, message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed, now: float
    ) -> relay_events.RelayError | None:
        if refusal := self._count(now):
            return refusal
        if refusal := message_policy.refusal(message, self._policy.messages):
            return refusal
        kind = type(message).__name__
        rule = self._policy.messages.rule(kind)
        if not isinstance(rule, Limited):
            return None
        limit = self._kinds.get(kind)
        if limit is None:
            limit = self._kinds[kind] = TokenBucket(rule.per_minute / 60, rule.per_minute, now)
        if limit.take(1, now):
            return None
        detail = f"{kind}: expected at most {rule.per_minute} a minute"
        return relay_events.RelayError(code="too_often", detail=detail)

    def _count(self, now: float) -> relay_events.RelayError | None:
        if self._texts.take(1, now):
            return None
        most = f"{self._rate:g} messages a second"
        return relay_events.RelayError(code="too_often", detail=f"expected at most {most}")

    def refuse_control(self, now: float) -> relay_events.RelayError | None:
        """A ping or a pong came; it counts as a message. Why it should not have come."""
        return self._noted(self._count(now), now)

    def refuse_binary_text(self, now: float) -> relay_events.RelayError:
        """A text came as a binary message."""
        self._refusals.append(now)
        detail = "expected audio in binary messages, got a message that belongs into a text one"
        return relay_events.RelayError(code="not_audio", detail=detail)

    def check_audio(self, frames: int, size: int, now: float) -> AudioCheck:
        """See `AudioLimit.check`; a refusal counts like one of a text."""
        checked = self.audio.check(frames, size, now)
        self._noted(checked.refusal, now)
        return checked

    def _noted(
        self, refusal: relay_events.RelayError | None, now: float
    ) -> relay_events.RelayError | None:
        if refusal is not None:
            self._refusals.append(now)
        return refusal

    def is_abuse(self, now: float) -> bool:
        """Whether it was refused so often of late that it may not go on."""
        abuse = self._policy.abuse
        full = len(self._refusals) == abuse.refusals
        return full and now - self._refusals[0] <= abuse.seconds
