"""What a browser hears while its agent is dialled again and that takes long."""

from __future__ import annotations

import asyncio

from relay.transport.send_queue import SendQueue

FIRST_SECONDS = 1.5  # most redials are over by then
AGAIN_SECONDS = 4.0


class RedialSound:
    """Sends `tone`, one message of the session's audio, now and then from `begin` to `end`; empty:
    there is no sound."""

    def __init__(self, queue: SendQueue, tone: bytes) -> None:
        self._queue = queue
        self._tone = tone
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The browser was told that the agent is lost."""
        if self._tone and self._timer is None:
            self._wait(FIRST_SECONDS)

    def end(self) -> None:
        """There is an agent again, or no session any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._play)

    def _play(self) -> None:
        self._queue.send_audio(self._tone)
        self._wait(AGAIN_SECONDS)
