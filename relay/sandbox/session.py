"""One session as seen from outside: what came and how it ended.

Tests look at it through `Running.sessions`; nothing of the sandbox itself depends on what is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

KEPT_MESSAGES = 10_000  # of a session; older ones are forgotten


class AgentSession:
    """`close_code` and `close_reason` are what the client's close frame said (1005: no status,
    1006: no close frame); None while the session lives."""

    def __init__(self, *, request_id: str, scheme: str | None, keep_audio: bool) -> None:
        self.request_id = request_id
        self.scheme = scheme  # `token` or `bearer`, as the client authorized itself
        self.frames = 0  # binary
        self.audio_bytes = 0
        self.audio: bytearray | None = bytearray() if keep_audio else None
        self.seconds: float | None = None  # from the 101 to the close, once that has come
        self.close_code: int | None = None
        self.close_reason = ""
        self._messages: deque[dict[str, Any]] = deque(maxlen=KEPT_MESSAGES)
        self._changed = asyncio.Event()
        self._began = time.monotonic()

    def __repr__(self) -> str:
        state = "live" if self.close_code is None else f"closed {self.close_code}"
        return f"<AgentSession {self.request_id[:8]} {state} messages={len(self._messages)}>"

    @property
    def settings(self) -> dict[str, Any] | None:
        """The first Settings that came, among the messages that are kept."""
        return next(iter(self.messages("Settings")), None)

    @property
    def types(self) -> list[str]:
        """Types of the messages received, in order; "" for what is not JSON with a type."""
        return [message.get("type", "") for message in self._messages]

    def messages(self, name: str) -> list[dict[str, Any]]:
        """The received messages of this type."""
        return [message for message in self._messages if message.get("type") == name]

    @property
    def closed(self) -> bool:
        return self.close_code is not None

    async def until(self, predicate: Callable[[AgentSession], bool]) -> None:
        """Return as soon as the predicate holds; looked at after each frame and at the end."""
        while not predicate(self):
            self._changed.clear()
            await self._changed.wait()

    async def received(self, name: str, count: int = 1) -> dict[str, Any]:
        """Wait for the `count`-th message of this type."""
        await self.until(lambda session: session.types.count(name) >= count)
        return self.messages(name)[count - 1]

    # --- for the loop that runs the session ----------------------------------------------------

    def note_text(self, text: str) -> None:
        try:
            message = msgspec.json.decode(text)
        except msgspec.DecodeError:
            message = None
        self._messages.append(message if isinstance(message, dict) else {})
        self._changed.set()

    def note_audio(self, frame: bytes) -> None:
        self.frames += 1
        self.audio_bytes += len(frame)
        if self.audio is not None:
            self.audio += frame
        self._changed.set()

    def note_close(self, code: int, reason: str) -> None:
        self.seconds = time.monotonic() - self._began
        self.close_code = code
        self.close_reason = reason
        self._changed.set()
