"""Who watches a session: hears what its rules were told, and what they asked for. Pure.

It is called in the session's own task between two frames: it waits for nothing, and leaves what
takes time to somebody else. One that raises is not told any more. What it is given is frozen and
may be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar
from uuid import UUID

import msgspec

from relay.core.actions import Action
from relay.core.beginning import Beginning, Chance
from relay.core.events import Event
from relay.core.records import SessionEnded

_Drawn = TypeVar("_Drawn", UUID, float, str)


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a session has carried so far: audio frames and bytes by the side that they came from,
    and the frames that were thrown away on the way to a side."""

    browser_frames: int
    browser_bytes: int
    agent_frames: int
    agent_bytes: int
    dropped_to_agent: int
    dropped_to_browser: int


class Watcher(Protocol):
    """Of one session. Seconds are monotonic, and those that the rules were told."""

    def drew(self, value: UUID | float | str) -> None:
        """The rules took this from chance, for what they are told next."""

    def told(self, now: float, event: Event | None, text: bytes, asked: list[Action]) -> None:
        """The rules were told of this event and asked for these actions, which are done next.
        `event` None: the browser's socket is open. `text` is the frame of a `FromAgent` or a
        `FromBrowser` as it came, and empty for every other event."""

    def replied(self, now: float) -> None:
        """The first audio since the user's words came as text goes to the browser."""

    def counted(self, now: float, counts: Counts) -> None:
        """So much was carried: at every wake-up, and at the end."""

    def ended(self, now: float, ended: SessionEnded) -> None:
        """It is over; nothing follows."""


class Listener(Watcher, Protocol):
    """A watcher that hears the audio, too, frame by frame. A frame is a view into a buffer that is
    used again."""

    def from_browser(self, payload: bytes | memoryview) -> None:
        """This came from the browser and is for the agent."""

    def to_browser(self, payload: bytes | memoryview) -> None:
        """This is sent to the browser, now."""


Watch = Callable[[Beginning], Watcher]
"""Begins to watch a session that is about to begin."""

Listen = Callable[[Beginning], Listener | None]
"""The same for who hears its audio; None: nobody may."""


def watched(chance: Chance, watcher: Watcher) -> Chance:
    """This chance; the watcher hears what is taken from it."""

    def tell(draw: Callable[[], _Drawn]) -> Callable[[], _Drawn]:
        def drawn() -> _Drawn:
            value = draw()
            watcher.drew(value)
            return value

        return drawn

    return Chance(tell(chance.new_id), tell(chance.jitter), tell(chance.new_ticket))
