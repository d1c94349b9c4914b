"""How much a browser may send, and how often it may be refused. Pure.

One for each session. Texts are judged one by one; audio is not looked at frame by frame: its bytes
and frames are counted by the connection, and every other second `check` holds the counts against
what real time allows. Seconds are monotonic and passed in.
"""

from __future__ import annotations

import math
from collections import deque

from config.agent import AudioInput
from config.limits import Limits
from config.policy import Limited, Policy
from relay.core import message_policy
from relay.protocol import relay_events
from relay.protocol.audio_formats import bytes_per_second
from relay.token_bucket import TokenBucket

CHECK_SECONDS = 2.0  # between two checks of the audio
TOGETHER_SECONDS = 0.25  # those of all sessions that are due within the same quarter go in one pass
COMPRESSED = 4  # bytes a sample that no codec reaches
# Frames of an AudioWorklet (128 samples at 48 kHz) come 375 a second; nobody needs smaller ones.
FRAMES_A_SECOND = 500
# Seconds of debt at which a browser is not just too fast: it does something else than speaking.
GROSS = 30.0


class AudioLimit:
    """The audio of one browser since second `now`: frames and bytes, against real time.

    `is_blocked`: it is thrown away until there is an allowance again; `is_flood`: it is so much
    that the session ends.
    """

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
        self.is_blocked = self.is_flood = False
        self.next_check = now + CHECK_SECONDS if speed else math.inf

    def check(self, frames: int, size: int, now: float) -> relay_events.RelayError | None:
        """Hold what has come so far, `frames` of `size` bytes together, against what is allowed;
        what the browser is to be told of the newest."""
        new_frames, new_bytes = frames - self._seen[0], size - self._seen[1]
        self._seen = frames, size
        self.next_check = now - now % TOGETHER_SECONDS + CHECK_SECONDS
        left = self._bytes.spend(new_bytes, now), self._frames.spend(new_frames, now)
        self.is_flood = left[0] < self._gross[0] or left[1] < self._gross[1]
        self.is_blocked = min(left) < 0
        if self.is_blocked and new_frames:
            speed = f"{self._speed:g} times real time"
            detail = f"expected audio at no more than {speed}; it is thrown away for now"
            return relay_events.RelayError(code="too_fast", detail=detail)
        if new_bytes % self._sample:
            detail = "expected linear16: an even number of bytes in each binary message"
            return relay_events.RelayError(code="not_audio", detail=detail)
        return None

    @property
    def most(self) -> tuple[float, float]:
        """Frames and bytes, counted as for `check`, that are a flood before the next check."""
        if self.next_check == math.inf:
            return math.inf, math.inf
        frames = self._seen[0] + self._frames.level - self._gross[1]
        return frames, self._seen[1] + self._bytes.level - self._gross[0]


class TextLimits:
    """How many texts one browser may send since second `now`, and how often it may be refused."""

    def __init__(self, limits: Limits, policy: Policy, now: float) -> None:
        self.policy = policy
        self._rate = limits.messages_per_second
        self._texts = TokenBucket(self._rate, 2 * self._rate, now)
        self._kinds: dict[str, TokenBucket] = {}
        self._refusals: deque[float] = deque(maxlen=policy.abuse.refusals)

    def __repr__(self) -> str:
        return f"<TextLimits refusals={len(self._refusals)}>"

    def judge(
        self, message: relay_events.FromBrowser, now: float
    ) -> relay_events.RelayError | None:
        """Why this text goes nowhere; None: it may pass."""
        if refusal := self.count(now) or message_policy.refusal(message, self.policy.messages):
            return refusal
        kind = type(message).__name__
        rule = self.policy.messages.rule(kind)
        if not isinstance(rule, Limited):
            return None
        if kind not in self._kinds:
            self._kinds[kind] = TokenBucket(rule.per_minute / 60, rule.per_minute, now)
        if self._kinds[kind].take(1, now):
            return None
        detail = f"{kind}: expected at most {rule.per_minute} a minute"
        return relay_events.RelayError(code="too_often", detail=detail)

    def count(self, now: float) -> relay_events.RelayError | None:
        """A text came, or a ping, which counts as one. Why it should not have come."""
        if self._texts.take(1, now):
            return None
        detail = f"expected at most {self._rate:g} messages a second"
        return relay_events.RelayError(code="too_often", detail=detail)

    def refused(self, now: float) -> bool:
        """Count a refusal, of audio too; whether there were so many of late that it may not go
        on."""
        self._refusals.append(now)
        full = len(self._refusals) == self.policy.abuse.refusals
        return full and now - self._refusals[0] <= self.policy.abuse.seconds
