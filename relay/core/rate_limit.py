"""How a browser behaves: how much it sends, how often it is refused, how long nobody speaks. Pure.

One for each session. Texts are judged one by one; audio is not looked at frame by frame: its bytes
and frames are counted by the connection, and once a second `look` holds the counts against what
real time allows. Seconds are monotonic and passed in.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

import msgspec

from config.agent import AudioInput
from config.policy import Abuse, Limited, Messages
from relay.core import message_policy
from relay.protocol import deepgram, relay_events
from relay.protocol.audio_bytes import bytes_per_second
from relay.token_bucket import TokenBucket

LOOK_SECONDS = 2.0  # at the audio of a browser; a look costs some 20 µs
NOTICE_SECONDS = 30.0  # before a session ends because nobody speaks, or because it is long
COMPRESSED = 4  # bytes a sample that no codec reaches
# Frames of an AudioWorklet (128 samples at 48 kHz) come 375 a second; nobody needs smaller ones.
FRAMES_A_SECOND = 500
# Seconds of debt at which a browser is not just too fast: it does something else than speaking.
GROSS = 30.0


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What one session may take. 0 seconds: without end; `audio_speed` 0: as fast as it likes."""

    messages: Messages = Messages()
    abuse: Abuse = Abuse()
    messages_per_second: float = 20.0
    audio_speed: float = 2.0  # times real time
    audio_burst_seconds: float = 20.0
    idle_seconds: float = 0.0
    longest_seconds: float = 0.0


class Flow(Enum):
    """What becomes of the browser's audio."""

    PASS = "pass"
    BLOCK = "block"  # it is thrown away until there is an allowance again
    FLOOD = "flood"  # so much that the session ends


class Look(msgspec.Struct, frozen=True):
    """What a look at the audio found; `changed` says whether `flow` is news."""

    flow: Flow
    changed: bool
    refusal: relay_events.RelayError | None


class BrowserLimits:
    """The behaviour of one browser since second `now`."""

    def __init__(self, bounds: Bounds, audio: AudioInput, now: float) -> None:
        self._bounds = bounds
        rate = (bytes_per_second(audio) or COMPRESSED * audio.sample_rate) * bounds.audio_speed
        frames = FRAMES_A_SECOND * bounds.audio_speed
        seconds = bounds.audio_burst_seconds / (bounds.audio_speed or 1)
        self._odd = 2 if audio.encoding == "linear16" else 1  # whole samples only
        self._bytes = TokenBucket(rate, rate * seconds, now)
        self._frames = TokenBucket(frames, frames * seconds, now)
        self._gross = -GROSS * rate, -GROSS * frames
        self._seen = 0, 0
        self._flow = Flow.PASS
        per_second = bounds.messages_per_second
        self._texts = TokenBucket(per_second, 2 * per_second, now)
        self._kinds: dict[str, TokenBucket] = {}
        self._refusals: deque[float] = deque(maxlen=bounds.abuse.refusals)
        self._stirred = now
        self._ends_at = now + bounds.longest_seconds if bounds.longest_seconds else math.inf
        self._told: set[str] = set()
        self.look_at = now + LOOK_SECONDS if bounds.audio_speed else math.inf
        self.deadline = math.inf  # when the next of `notice` or `over` is due; not the next look
        self._plan()

    def __repr__(self) -> str:
        return f"<BrowserLimits {self._flow.value} refusals={len(self._refusals)}>"

    # --- texts -------------------------------------------------------------------------------

    def decode(self, text: bytes) -> deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed:
        """A text message of the browser, if it is not too long to be one."""
        return message_policy.read(text, self._bounds.messages)

    def is_text(self, payload: bytes | memoryview) -> bool:
        """Whether a binary message is a text one that was sent the wrong way."""
        return message_policy.is_text(payload, self._bounds.messages)

    def hear(
        self, message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed, now: float
    ) -> relay_events.RelayError | None:
        """Why this text goes nowhere; None: it may pass."""
        refusal = self._judge(message, now)
        if refusal is not None:
            self._refusals.append(now)
        elif isinstance(message, deepgram.InjectUserMessage):
            self.stir(now)
        return refusal

    def _judge(
        self, message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed, now: float
    ) -> relay_events.RelayError | None:
        if refusal := self._count(now):
            return refusal
        if refusal := message_policy.refusal(message, self._bounds.messages):
            return refusal
        kind = type(message).__name__
        rule = self._bounds.messages.rule(kind)
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
        most = f"{self._bounds.messages_per_second:g} messages a second"
        return relay_events.RelayError(code="too_often", detail=f"expected at most {most}")

    def control(self, now: float) -> relay_events.RelayError | None:
        """A ping or a pong came; it counts as a message. What is said against it."""
        refusal = self._count(now)
        if refusal is not None:
            self._refusals.append(now)
        return refusal

    def mistake(self, now: float) -> relay_events.RelayError:
        """A text came as a binary message."""
        self._refusals.append(now)
        detail = "expected audio in binary messages, got a message that belongs into a text one"
        return relay_events.RelayError(code="not_audio", detail=detail)

    def is_abuse(self, now: float) -> bool:
        """Whether it was refused so often of late that it may not go on."""
        abuse = self._bounds.abuse
        full = len(self._refusals) == abuse.refusals
        return full and now - self._refusals[0] <= abuse.seconds

    # --- audio -------------------------------------------------------------------------------

    def look(self, frames: int, size: int, now: float) -> Look:
        """Hold what has come so far, `frames` of `size` bytes together, against what is allowed."""
        new_frames, new_bytes = frames - self._seen[0], size - self._seen[1]
        self._seen = frames, size
        self.look_at = now + LOOK_SECONDS
        left = self._bytes.spend(new_bytes, now), self._frames.spend(new_frames, now)
        before = self._flow
        if left[0] < self._gross[0] or left[1] < self._gross[1]:
            self._flow = Flow.FLOOD
        else:
            self._flow = Flow.BLOCK if min(left) < 0 else Flow.PASS
        refusal = None
        if self._flow is not Flow.PASS and new_frames:
            speed = f"{self._bounds.audio_speed:g} times real time"
            detail = f"expected audio at no more than {speed}; it is thrown away for now"
            refusal = relay_events.RelayError(code="too_fast", detail=detail)
        elif new_bytes % self._odd:
            detail = "expected linear16: an even number of bytes in each binary message"
            refusal = relay_events.RelayError(code="not_audio", detail=detail)
        if refusal is not None:
            self._refusals.append(now)
        return Look(self._flow, self._flow is not before, refusal)

    @property
    def most(self) -> tuple[float, float]:
        """Frames and bytes, counted as for `look`, that are a flood before the next look."""
        if self.look_at == math.inf:
            return math.inf, math.inf
        frames = self._seen[0] + self._frames.level - self._gross[1]
        return frames, self._seen[1] + self._bytes.level - self._gross[0]

    # --- time --------------------------------------------------------------------------------

    def stir(self, now: float) -> None:
        """Somebody speaks."""
        self._stirred = now
        self._told.discard("idle")
        self._plan()

    def _plan(self) -> None:
        self.deadline = min(
            at if code in self._told else at - self._notice(code) for code, at in self._ends
        )

    def over(self, now: float) -> str | None:
        """Why the session is over by now."""
        return next((code for code, at in self._ends if now >= at), None)

    def notice(self, now: float) -> relay_events.RelayNotice | None:
        """What the browser has to be told before; once each."""
        for code, at in self._ends:
            if code not in self._told and now >= at - self._notice(code):
                self._told.add(code)
                self._plan()
                return relay_events.RelayNotice(code=code, ends_in=round(at - now, 1))
        return None

    @property
    def _ends(self) -> tuple[tuple[str, float], ...]:
        idle = self._bounds.idle_seconds
        return (
            ("idle", self._stirred + idle if idle else math.inf),
            ("longest", self._ends_at),
        )

    def _notice(self, code: str) -> float:
        whole = self._bounds.idle_seconds if code == "idle" else self._bounds.longest_seconds
        return min(NOTICE_SECONDS, whole / 2)
