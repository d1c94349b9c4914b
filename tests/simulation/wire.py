"""A connection between two processes: in order and with a delay, until it breaks.

What breaks: a reset, which both ends see at once and which swallows what was on the way; and a
wire that goes mute, of which nobody hears until a ping stays without an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.clock import Process

ABNORMAL = 1006
PING_SECONDS = 10.0

Hear = Callable[[str, Any], None]
"""`hear(kind, payload)`; `text` and `audio` have bytes, `close` has code and reason."""


class Wire:
    """`delay()` gives the seconds that something takes."""

    def __init__(self, one: Process, other: Process, delay: Callable[[], float]) -> None:
        self.delay = delay
        self.is_broken = False  # nothing passes
        self.ends = End(self, one), End(self, other)
        self.ends[0].peer, self.ends[1].peer = self.ends[1], self.ends[0]

    def reset(self) -> None:
        """Both ends see it; what was on the way is gone."""
        if not self.is_broken:
            self.is_broken = True
            for end in self.ends:
                end.lose_later(self.delay())

    def mute(self, patience: tuple[float, float]) -> None:
        """Nothing passes any more; each end notices after so many seconds."""
        if not self.is_broken:
            self.is_broken = True
            for end, seconds in zip(self.ends, patience, strict=True):
                end.lose_later(seconds)


class End:
    """`about` is what its owner notes there."""

    def __init__(self, wire: Wire, owner: Process) -> None:
        self.wire = wire
        self.owner = owner
        self.peer: End = self
        self.is_open = True
        self.hear: Hear = _ignore
        self.about: Any = None
        self._arrives = 0.0  # the newest of what is on the way to the peer
        owner.ends.append(self)

    def send(self, kind: str, payload: Any) -> None:
        if not self.is_open or self.wire.is_broken:
            return
        clock = self.owner.clock
        at = clock.now + self.wire.delay()
        self._arrives = at = at if at > self._arrives else self._arrives
        peer = self.peer
        clock.at(at, peer._arrive, kind, payload)

    def close(self, code: int, reason: str = "") -> None:
        self.send("close", (code, reason))
        self._shut()

    def lose_later(self, seconds: float) -> None:
        self.owner.later(seconds, self._heard, "close", (ABNORMAL, ""))

    def abandon(self, *, keeps_words: bool) -> None:
        """Its owner is dead."""
        if keeps_words:
            self.send("close", (ABNORMAL, ""))
        elif not self.wire.is_broken:
            self.wire.is_broken = True
            self.peer.lose_later(self.wire.delay())
        self.is_open = False

    def _shut(self) -> None:
        self.is_open = False
        if self in self.owner.ends:
            self.owner.ends.remove(self)

    def _arrive(self, kind: str, payload: Any) -> None:
        if not self.wire.is_broken:
            self.owner.do(self._heard, kind, payload)

    def _heard(self, kind: str, payload: Any) -> None:
        if not self.is_open:
            return
        if kind == "close":
            self._shut()
        self.hear(kind, payload)


def _ignore(kind: str, payload: Any) -> None:
    pass
