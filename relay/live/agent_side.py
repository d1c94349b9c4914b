"""The agent's side of a session: dialled, let go, dialled again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.core import events
from relay.core.events import EndReason
from relay.core.reconnect import FINAL_STATUSES
from relay.live.dial_ahead import Ask
from relay.live.quotas import AgentQuota
from relay.live.session_record import SessionRecord
from relay.live.session_side import Side
from relay.protocol import close_codes
from relay.supervisor import Contained
from relay.transport.connection import SAMPLE_MASK, Connection
from relay.transport.connection_handler import NOBODY, Payload
from relay.transport.dial import Dial, DialFailed
from relay.transport.send_queue import SendQueue

if TYPE_CHECKING:
    from relay.live.session_runner import SessionRunner


class AgentSide(Side):
    """`dials` are the way to the agent the first time (it may be on its way already) and every
    other time, in a task of `tasks`; `asks` is the same for what is known of the user, None if
    nobody is asked."""

    def __init__(
        self,
        runner: SessionRunner,
        connection: Connection,
        *,
        dials: tuple[Dial, Dial],
        asks: tuple[Ask, Ask] | None,
        tasks: Contained,
        browser_queue: SendQueue,
        record: SessionRecord,
        share: AgentQuota,
    ) -> None:
        super().__init__(runner, connection)
        self._dial, self._redial = dials
        self._asks = asks
        self._browser_queue = browser_queue
        self._record = record
        self._timing = record.timing
        self._share = share
        self._tasks = tasks
        self._dialling: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None

    def stop_dialling(self) -> None:
        """It is not dialled any more, and nobody is asked what to tell it."""
        for task in (self._dialling, self._asking):
            if task is not None:
                task.cancel()

    def dial(self) -> None:
        """Open a WebSocket to the next agent, or to the first; ask meanwhile what to tell it."""
        dial, self._dial = self._dial, self._redial
        if self.connection.is_closed or self._dialling is not None:
            self._succeed()
            self.listen()
        self._timing.dialled(asyncio.get_running_loop().time())
        self._dialling = self._tasks.start(self._open(dial), name="dial agent")
        if self._asks is not None:
            ask, again = self._asks
            self._asks = again, again
            self._asking = self._tasks.start(self._ask(ask), name="ask context")

    async def _open(self, dial: Dial) -> None:
        try:
            await dial(self.connection)
        except DialFailed as error:
            final = error.status in FINAL_STATUSES
            self._runner.handle(events.AgentUnreachable(str(error), final, error.retry_after))

    async def _ask(self, ask: Ask) -> None:
        try:
            context = await ask()
        except Exception:
            # A defect: the agent begins without it, and the task's owner writes it down.
            self._runner.handle(events.ContextLearned(None))
            raise
        self._runner.handle(events.ContextLearned(context))

    def listen(self) -> None:
        """Hear it, first what it has said already: when it is dialled, and not when it has been,
        because Welcome may come with the 101 in one piece."""
        self.hear_all()
        self.connection.listen(self)

    def drop(self) -> None:
        """Let go of this agent; what is for the next one is held."""
        self.stop_dialling()
        self.connection.queue.hold()
        self.connection.queue.handler = NOBODY  # what waits is not this one's fault
        if self.connection.has_socket:  # it counts beside the next one until that is gone
            self.connection.on_freed = self._share.linger()
        self.connection.close(close_codes.NORMAL, "")

    def hear_all(self) -> None:
        """Its audio goes straight to the browser."""
        self.connection.feed(self._browser_queue)

    def await_reply(self, now: float) -> None:
        """The user's words came as text: its next audio is what the user waits for."""
        self._timing.asked(now)
        self.connection.feed(None)

    # --- what its connection and its send queue tell ------------------------------------------

    def on_opened(self) -> None:
        self._timing.opened(asyncio.get_running_loop().time())
        self._runner.handle(events.AgentOpened())

    def on_text(self, text: bytes) -> None:
        self._runner.hear(text, is_from_agent=True)

    def on_audio(self, payload: Payload) -> bool:
        self.hear_all()
        sent = self._browser_queue.send_audio(payload)
        self._record.replied()
        return sent

    def on_sample(self, seconds: float | None) -> None:
        if seconds is not None:
            self._timing.down.record(seconds, SAMPLE_MASK + 1)

    def on_closed(self, code: int, reason: str) -> None:
        self._record.closed("agent", code)
        self._runner.handle(events.AgentClosed(code, reason))

    def on_overflow(self) -> None:
        self._hang_up(EndReason.AGENT_TOO_SLOW)

    def on_stalled(self) -> None:
        self._runner.handle(events.AgentClosed(close_codes.ABNORMAL, "reads nothing"))
