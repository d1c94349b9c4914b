"""What both sides of a session have in common: connections, one after another, on one way out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.core.events import EndReason, HangUp
from relay.transport.connection import Connection
from relay.transport.connection_handler import Handler

if TYPE_CHECKING:
    from relay.live.session_runner import SessionRunner


class Side(Handler):
    """Listens to `connection`, the newest one of this side."""

    def __init__(self, runner: SessionRunner, connection: Connection) -> None:
        self.connection = connection
        self._runner = runner

    def on_gone(self) -> None:
        self._runner.settle()

    def release(self) -> None:
        """The session is over: cut what is left. Side and session know one another till then."""
        self.connection.abort()
        self.connection.forget()
        self.connection.queue.detach()
        del self._runner

    def _succeed(self) -> None:
        """The next connection takes the place of this one, which may linger."""
        self.connection.forget()
        self.connection = self.connection.successor()

    def _hang_up(self, reason: EndReason) -> None:
        # Not at once: we are inside a send.
        asyncio.get_running_loop().call_soon(self._runner.handle, HangUp(reason))
