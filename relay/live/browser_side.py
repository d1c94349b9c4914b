"""The browser's side of a session: it may leave and come back, and is told what it missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.core import events
from relay.core.deepgram_session import SessionRules
from relay.core.events import EndReason
from relay.core.resume import KEPT_BYTES, ReplayBuffer
from relay.live.session_record import SessionRecord
from relay.live.session_side import Side
from relay.protocol import close_codes
from relay.transport.connection import SAMPLE_MASK, Connection
from relay.transport.connection_handler import Payload
from relay.transport.send_queue import SendQueue

if TYPE_CHECKING:
    from relay.live.session_runner import SessionRunner


class BrowserSide(Side):
    """`thrown_away` counts audio frames that the agent did not get; more frames and bytes of audio
    than `most` are a flood."""

    def __init__(
        self,
        runner: SessionRunner,
        connection: Connection,
        *,
        session: SessionRules,
        agent_queue: SendQueue,
        record: SessionRecord,
    ) -> None:
        super().__init__(runner, connection)
        self.thrown_away = 0
        self._session = session
        self._agent_queue = agent_queue
        self._record = record
        self._listener = record.watchers.listener  # who has to hear each frame, if there is one
        self._texts = ReplayBuffer(min(KEPT_BYTES, connection.queue.limit))
        self._is_blocked = False  # its audio is thrown away
        self._is_checked = False  # until then the session looks at each frame
        self._returned_with: tuple[str, int] | None = None  # ticket, texts that it has
        self._listen()

    @property
    def text_count(self) -> int:
        """How many texts the browser was told, or would have been."""
        return self._texts.count

    def tell(self, text: bytes, *, kept: bool = True) -> None:
        """Now, or if it is `kept` when it comes back."""
        self._texts.append(text, kept=kept)
        self.connection.queue.send_text(text)

    def replay_texts(self, received: int) -> None:
        """Every text after the first `received` ones."""
        for text in self._texts.since(received):
            self.connection.queue.send_text(text)

    def detach(self, code: int, reason: str) -> None:
        """It may linger until the session is over, or come back."""
        self.connection.close(code, reason)
        self.connection.queue.detach()

    def attach(self, ticket: str, received: int) -> Connection:
        """The connection for a browser that comes back."""
        self._returned_with = ticket, received
        self._succeed()
        self._listen()
        return self.connection

    def block(self, blocked: bool) -> None:
        """Throw its audio away, or let it pass again."""
        self._is_blocked = blocked
        self._feed()

    def _listen(self) -> None:
        self.most = self._session.most
        self._feed()
        self.connection.listen(self)

    def _feed(self) -> None:
        self._agent_queue.is_pcm = self._session.admitted.audio.input.encoding == "linear16"
        passes = self._is_checked and not self._is_blocked and self._listener is None
        self.connection.feed(self._agent_queue if passes else None)

    # --- what its connection and its send queue tell ------------------------------------------

    def on_opened(self) -> None:
        if self._returned_with is None:
            self._runner.begin()
            return
        arrived = events.BrowserAttached(*self._returned_with, self.connection.frames)
        self._runner.handle(arrived)

    def on_text(self, text: bytes) -> None:
        self._runner.hear(text, is_from_agent=False)

    def on_audio(self, payload: Payload) -> bool:
        """Programs that send texts the wrong way do so from the beginning: looked at until the
        first audio has come."""
        if self._is_blocked:
            self._agent_queue.dropped += 1
            self.thrown_away += 1
            return False
        if not self._is_checked:
            if not self._session.accepts_audio(payload):
                self.thrown_away += 1
                self._runner.handle(events.NotAudio())
                return False
            self._is_checked = True
            self._feed()
        if self._listener is not None:
            self._listener.from_browser(payload)
        return self._agent_queue.send_audio(payload)

    def on_sample(self, seconds: float | None) -> None:
        if seconds is not None:
            self._record.timing.up.record(seconds, SAMPLE_MASK + 1)
        frames, size = self.most
        if self.connection.frames > frames or self.connection.bytes > size:
            self._hang_up(EndReason.ABUSE)

    def on_control(self) -> None:
        self._runner.handle(events.ControlFrame())

    def on_closed(self, code: int, reason: str) -> None:
        if close_codes.TOO_BIG in (code, self.connection.said):
            self._record.refused("too_big")
        self._record.closed("browser", code)
        self._runner.handle(events.BrowserClosed(code, reason))

    def on_overflow(self) -> None:
        self._hang_up(EndReason.BROWSER_TOO_SLOW)

    def on_stalled(self) -> None:
        self._runner.handle(events.BrowserClosed(close_codes.TRY_AGAIN, "reads nothing"))
