"""Where the sound of one side stands in time, so that both sides together are the conversation.

Pure. A second is one of the session, from 0. What a side does not say is silence. Nothing is
written here: what has come since the last time waits in `pieces`.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate
from math import inf

from relay.recorder.sound import Piece, Sound

SLACK_SECONDS = 0.05  # a side that is later than the clock by less is not late
# A network that stalls gives back what it held at once: for so long it is waited for what follows,
# and for so long a gap may yet be filled. A browser keeps 8 s while it is away.
BURST_SECONDS = 1.0
STALL_SECONDS = 12.0


class Track:
    """`start` ticks are in the file; with `pieces` behind them there are `end`."""

    def __init__(self, sound: Sound) -> None:
        self.sound = sound
        self.pieces: list[Piece] = []
        self.start = 0
        self.end = 0
        self.is_changed = True  # the file is to be there from the beginning

    def hear(self, at: float, frame: bytes) -> None:
        """This came at that second."""

    def settle(self, now: float) -> None:
        """Everything until that second was heard."""
        if self._behind(now) > 2 * STALL_SECONDS:
            self._rest(now - STALL_SECONDS)

    def finish(self, at: float) -> None:
        """The session is over."""
        self._rest(at)

    def written(self, sound: Sound) -> None:
        """The pieces are in the file, and `sound` knows it."""
        self.sound = sound
        self.start = self.end
        self.pieces.clear()
        self.is_changed = False

    def lose(self) -> None:
        """The pieces cannot be written: silence takes their place, when that is possible."""
        self.end -= (self.end - self.start) % self.sound.step
        self.pieces = [self.end - self.start]

    def _behind(self, at: float) -> float:
        """Seconds from its end to that one."""
        return at - self.end / self.sound.rate

    def _rest(self, until: float) -> None:
        """Silence, up to that second."""
        ticks = int(until * self.sound.rate) - self.end
        ticks -= ticks % self.sound.step
        if ticks > 0:
            self._add(ticks, ticks)

    def _add(self, piece: Piece, ticks: int) -> None:
        self.pieces.append(piece)
        self.end += ticks
        self.is_changed = True


class Microphone(Track):
    """What a browser sends. It was said when it came, or before: a frame that is late because the
    network held it is followed by others that are less late, and stands where they want it."""

    def __init__(self, sound: Sound) -> None:
        super().__init__(sound)
        self._pending = deque[tuple[float, bytes]]()

    def hear(self, at: float, frame: bytes) -> None:
        # As the agent gets it: each begins with a whole sample.
        frame += bytes(-len(frame) % self.sound.width)
        if self.sound.ticks(frame):
            self._pending.append((at, frame))

    def settle(self, now: float) -> None:
        self._place(now - BURST_SECONDS)
        if not self._pending:
            super().settle(now)

    def finish(self, at: float) -> None:
        self._place(inf)
        super().finish(at)

    def _place(self, until: float) -> None:
        """What came until then."""
        ends = accumulate((self.sound.ticks(frame) for _, frame in self._pending), initial=self.end)
        next(ends)
        behind = [
            at - end / self.sound.rate for (at, _), end in zip(self._pending, ends, strict=True)
        ]
        least = list(accumulate(reversed(behind), min))  # of this one and all that follow
        rested = 0.0
        while self._pending and self._pending[0][0] <= until:
            _, frame = self._pending.popleft()
            wanted = least.pop()
            if wanted - rested > SLACK_SECONDS:
                before = self.end
                self._rest(self.end / self.sound.rate + wanted - rested)
                rested += (self.end - before) / self.sound.rate
            self._add(frame, self.sound.ticks(frame))


class Loudspeaker(Track):
    """What a browser gets. It comes faster than it is heard: each frame is heard behind the one
    before, and what is left of it at a barge-in is never heard."""

    def __init__(self, sound: Sound) -> None:
        super().__init__(sound)
        self._half = b""  # of a sample of which the rest is to come

    def hear(self, at: float, frame: bytes) -> None:
        if self._behind(at) > SLACK_SECONDS:
            self._rest(at)
            self._half = b""
        frame = self._half + frame
        odd = len(frame) % self.sound.width
        self._half = frame[len(frame) - odd :]
        frame = frame[: len(frame) - odd]
        if ticks := self.sound.ticks(frame):
            self._add(frame, ticks)

    def clear(self, at: float) -> None:
        """Nothing is heard after that second that has come before it."""
        most = int(at * self.sound.rate)
        self._half = b""
        while self.end > most:
            self.is_changed = True
            if not self.pieces:
                self.start = self.end = most
                return
            piece = self.pieces.pop()
            self.end -= piece if isinstance(piece, int) else self.sound.ticks(piece)
            if (left := most - self.end) > 0:
                part = left if isinstance(piece, int) else piece[: left * self.sound.width]
                self._add(part, left)

    def finish(self, at: float) -> None:
        self.clear(at)
        super().finish(at)
