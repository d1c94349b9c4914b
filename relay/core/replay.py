"""What a session told its browser last, for a browser that comes back. Pure.

Text frames are counted as the browser counts them: all but `RelaySession`. The newest are kept, as
they went over the wire.
"""

from __future__ import annotations

from collections import deque

from relay.protocol import relay_events

KEPT_BYTES = 64 * 1024  # some minutes of conversation


class ReplayBuffer:
    """The newest text frames of one session, at most `limit` bytes; `count` is of all so far."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit = limit
        self.count = 0
        self._frames: deque[bytes] = deque()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<ReplayBuffer count={self.count} kept={len(self._frames)} bytes={self._bytes}>"

    def append(self, text: bytes) -> None:
        """This is what the browser is told next, if it is here."""
        self.count += 1
        self._frames.append(text)
        self._bytes += len(text)
        while self._bytes > self.limit:
            self._bytes -= len(self._frames.popleft())

    def since(self, received: int) -> list[bytes]:
        """What a browser missed that has got `received` frames, at most `count`.

        When a part is not there any more, a `RelayError` takes its place, and the counting goes on
        from what the browser has then.
        """
        first = self.count - len(self._frames)
        if received < first:
            missed = relay_events.RelayError(
                code="events_missed", detail="events are gone; REST has the history"
            )
            told = relay_events.encode(missed)
            self._frames.appendleft(told)
            self._bytes += len(told)
            self.count = received + len(self._frames)
            first = received
        return list(self._frames)[received - first :]
