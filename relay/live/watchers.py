"""Those who watch one session, as one watcher: who fails hears no more, and the session goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

from relay.core.actions import Action
from relay.core.events import Event
from relay.core.records import SessionEnded
from relay.core.watcher import Counts, Listener, Watcher

log = logging.getLogger(__name__)

_Begun = TypeVar("_Begun")


class Watchers:
    """A `Watcher`; false when nobody watches. What one of them misses must not cost a session.

    `begin`: each begins to watch. `listen`: this one hears the audio as well, if it gives one:
    the `listener`.
    """

    def __init__(
        self,
        begin: Iterable[Callable[[], Watcher]] = (),
        listen: Callable[[], Listener | None] | None = None,
    ) -> None:
        self._watchers: list[Watcher] = []
        for watch in begin:
            if (watcher := _begin(watch)) is not None:
                self._watchers.append(watcher)
        self.listener: Listener | None = _begin(listen) if listen else None
        if self.listener is not None:
            self._watchers.append(self.listener)

    def __repr__(self) -> str:
        return f"<Watchers {self._watchers!r}>"

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def drew(self, value: UUID | float | str) -> None:
        """As of a `Watcher`."""
        self._tell(lambda watcher: watcher.drew(value))

    def told(self, now: float, event: Event | None, text: bytes, asked: list[Action]) -> None:
        """As of a `Watcher`."""
        self._tell(lambda watcher: watcher.told(now, event, text, asked))

    def replied(self, now: float) -> None:
        """As of a `Watcher`."""
        self._tell(lambda watcher: watcher.replied(now))

    def counted(self, now: float, counts: Counts) -> None:
        """As of a `Watcher`."""
        self._tell(lambda watcher: watcher.counted(now, counts))

    def ended(self, now: float, ended: SessionEnded) -> None:
        """As of a `Watcher`."""
        self._tell(lambda watcher: watcher.ended(now, ended))

    def _tell(self, tell: Callable[[Watcher], None]) -> None:
        for watcher in tuple(self._watchers):
            try:
                tell(watcher)
            except Exception:
                log.exception("watcher_failed")
                self._watchers.remove(watcher)


def _begin(watch: Callable[[], _Begun]) -> _Begun | None:
    """None: it did not want to, or could not."""
    try:
        return watch()
    except Exception:
        # The edge of somebody else's code: who cannot watch must not cost the session.
        log.exception("watcher_failed")
        return None
