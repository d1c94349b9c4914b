"""Whether the browser is here, how long it is waited for, and what lets it come back. Pure.

A ticket of a session is good for one attach. It is used up when the browser is heard on the socket
that it opened: until then the browser may not have got its next one, because the network that broke
once breaks again, and may come with the same.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable


class Presence:
    """The browser of one session; it is here at first."""

    def __init__(
        self,
        grace: float,
        new_ticket: Callable[[], str],
        *,
        first: str | None = None,
        came_with: str | None = None,
    ) -> None:
        """`grace`: seconds that the browser is waited for; 0: it cannot come back.

        `first` is its first ticket; `came_with` the one that it brought from another relay.
        """
        self.grace = grace
        self.ticket = first or new_ticket()
        self.until = math.inf  # the monotonic second at which the wait is over
        self._new_ticket = new_ticket
        # Ticket and frames of the last attach.
        self._unheard: tuple[str, int] | None = (came_with, 0) if came_with else None

    def __repr__(self) -> str:
        return f"<Presence {'away' if self.is_away else 'here'}>"

    @property
    def is_away(self) -> bool:
        """Whether it is being waited for."""
        return self.until < math.inf

    def leave(self, now: float) -> None:
        """It is waited for, from now on."""
        self.until = now + self.grace

    def admits(self, ticket: str, frames: int) -> bool:
        """Whether this ticket lets a browser in, which has sent so many audio frames so far."""
        if not self.grace:
            return False
        again = self._unheard is not None and self._unheard[1] == frames
        known = [self.ticket, self._unheard[0]] if again and self._unheard else [self.ticket]
        return any([hmac.compare_digest(ticket.encode(), one.encode()) for one in known])

    def arrive(self, ticket: str, frames: int) -> None:
        """It is here again, by this ticket, and gets another."""
        self._unheard = ticket, frames
        self.ticket = self._new_ticket()
        self.until = math.inf

    def hear(self) -> None:
        """It said something: it has its new ticket."""
        self._unheard = None
