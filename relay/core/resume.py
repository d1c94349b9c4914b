"""What a browser may resume a session with: its tickets, how long it is waited for, what it missed.

Pure. A ticket of a session is good for one attach. It is used up when the browser is heard on the
socket that it opened: until then the browser may not have got its next one, because the network
that broke once breaks again, and may come with the same.
"""

from __future__ import annotations

import hmac
import math
from collections import deque
from collections.abc import Callable

from relay.core.admitted import Admitted
from relay.protocol import deepgram, relay_events

KEPT_BYTES = 64 * 1024  # some minutes of conversation
KEPT_FRAMES = 4096  # reports come with every frame of audio: more than until a loss is noticed
# Takes the place of a report that is of no use later, so that the counting goes on.
REPORT = deepgram.encode(deepgram.LatencyReport())


class ResumeWindow:
    """Open from `detach` for `grace` seconds; the browser of the session is attached at first."""

    def __init__(self, admitted: Admitted, grace: float, new_ticket: Callable[[], str]) -> None:
        """`grace`: seconds that the browser is waited for; 0: it cannot come back."""
        takeover = admitted.takeover
        self.grace = grace
        self.ticket = admitted.resume_ticket or new_ticket()
        self.closes_at = math.inf  # the monotonic second at which the wait is over
        self._new_ticket = new_ticket
        # Ticket and frames of the last attach.
        self._unheard: tuple[str, int] | None = (takeover.ticket, 0) if takeover else None

    def __repr__(self) -> str:
        return f"<ResumeWindow {'detached' if self.is_detached else 'attached'}>"

    @property
    def is_detached(self) -> bool:
        """Whether it is being waited for."""
        return self.closes_at < math.inf

    def detach(self, now: float) -> None:
        """It is waited for, from now on."""
        self.closes_at = now + self.grace

    def admits(self, ticket: str, frames: int) -> bool:
        """Whether this ticket lets a browser in, which has sent so many audio frames so far."""
        if not self.grace:
            return False
        again = self._unheard is not None and self._unheard[1] == frames
        known = [self.ticket, self._unheard[0]] if again and self._unheard else [self.ticket]
        return any([hmac.compare_digest(ticket.encode(), one.encode()) for one in known])

    def attach(self, ticket: str, frames: int) -> None:
        """It is here again, by this ticket, and gets another."""
        self._unheard = ticket, frames
        self.ticket = self._new_ticket()
        self.closes_at = math.inf

    def confirm(self) -> None:
        """It said something: it has its new ticket."""
        self._unheard = None


class ReplayBuffer:
    """The newest text frames of one session as they went over the wire, at most `limit` bytes.

    `count` is of all so far, as the browser counts them: without `RelaySession`.
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit = limit
        self.count = 0
        self._frames: deque[bytes] = deque()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<ReplayBuffer count={self.count} kept={len(self._frames)} bytes={self._bytes}>"

    def append(self, text: bytes, *, kept: bool = True) -> None:
        """This is what the browser is told next, if it is here. Not `kept`: a report."""
        self.count += 1
        self._frames.append(text if kept else b"")
        self._bytes += len(self._frames[-1])
        while self._bytes > self.limit or len(self._frames) > KEPT_FRAMES:
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
            text = deepgram.encode(missed)
            self._frames.appendleft(text)
            self._bytes += len(text)
            self.count = received + len(self._frames)
            first = received
        return [text or REPORT for text in self._frames][received - first :]
