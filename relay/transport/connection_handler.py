"""Who listens to a connection and to its send queue: live, buffering, or nobody."""

from __future__ import annotations

from collections.abc import Callable

Payload = bytes | memoryview

MAX_KEPT = 16  # before Settings an agent says Welcome, and nothing else


class Handler:
    """Told what happens on a connection and in its send queue. This one ignores everything."""

    def on_opened(self) -> None:
        """The WebSocket is open; once."""

    def on_text(self, text: bytes) -> None:
        """A whole text message, UTF-8."""

    def on_audio(self, payload: Payload) -> bool:
        """A binary message, while the connection is fed to no send queue; whether it was sent at
        once. `payload` is a view into a buffer that is used again: whoever keeps it copies it."""
        return False

    def on_sample(self, seconds: float | None) -> None:
        """One binary message in some was passed on, which took so long; None: it was not sent."""

    def on_control(self) -> None:
        """A ping, which is answered already, or a pong that nobody waits for."""

    def on_closed(self, code: int, reason: str) -> None:
        """The other side closed, or the connection was lost; at most once."""

    def on_gone(self) -> None:
        """The socket is gone."""

    def on_overflow(self) -> None:
        """Text alone is over the limit of the send queue; called inside a send."""

    def on_stalled(self) -> None:
        """The other end reads nothing for too long."""

    def replay(self, handler: Handler) -> None:
        """Tell the next handler what happened that it has to know, in order."""


NOBODY = Handler()


class BufferingHandler(Handler):
    """Remembers what happens until somebody listens; too much to remember is the end."""

    def __init__(self, abort: Callable[[], None]) -> None:
        self._abort = abort
        self._happened: list[Callable[[Handler], None]] = []

    def on_opened(self) -> None:
        self._happened.append(lambda handler: handler.on_opened())

    def on_text(self, text: bytes) -> None:
        self._happened.append(lambda handler: handler.on_text(text))
        if len(self._happened) > MAX_KEPT:
            self._abort()

    def on_closed(self, code: int, reason: str) -> None:
        self._happened.append(lambda handler: handler.on_closed(code, reason))

    def replay(self, handler: Handler) -> None:
        for tell in self._happened:
            tell(handler)
