"""What is kept of one session: its records in the journal, its lines in the log, its figures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

import msgspec

from relay.core.admitted import Admitted
from relay.core.events import EndReason
from relay.core.records import Figures, MessageSaid, SessionBegan, SessionEnded, TicketIssued
from relay.journal.journal import Journal
from relay.live.tickets import hash_ticket
from relay.telemetry.log_limit import LogLimit
from relay.telemetry.metrics import Metrics
from relay.telemetry.session_timing import SessionTiming
from relay.transport.connection import Connection

log = logging.getLogger(__name__)

# Another relay is about to go on, or may be.
_WAITED_FOR = (EndReason.MOVED, EndReason.SUPERSEDED, EndReason.SHUTDOWN)


class SessionRecord:
    """Written as the session goes on; `timing` is its stop-watch."""

    def __init__(
        self, admitted: Admitted, journal: Journal, metrics: Metrics, log_limit: LogLimit
    ) -> None:
        self.timing = SessionTiming(metrics)
        self._admitted = admitted
        self._journal = journal
        self._metrics = metrics
        self._log_limit = log_limit
        self._began = asyncio.get_running_loop().time()

    def refused(self, code: str) -> None:
        """Something of the browser went nowhere."""
        self._metrics.refusals.labels(code=code).inc()

    def note(self, what: str, detail: str) -> None:
        """A fact for log and metrics."""
        self._metrics.notes.labels(what=what).inc()
        more = ""
        if what in ("agent_redialled", "agent_unknown"):  # to all and again and again
            left_out = self._log_limit.count(detail, asyncio.get_running_loop().time())
            if left_out is None:
                return
            more = f" (and {left_out} more since)" if left_out else ""
        log.warning("%s session=%s %s%s", what, self._admitted.session_id, detail, more)

    def message(self, message: MessageSaid, frame: int, saved: Callable[[], None]) -> None:
        """Somebody said this, which the browser is told in its text frame of that number."""
        self._journal.append(msgspec.structs.replace(message, frame=frame), saved)

    def ticket(self, ticket: str) -> None:
        """So that the browser may come to another relay with it. The first is stored already."""
        if self._admitted.resume_ticket not in (None, ticket):
            issued = TicketIssued(
                session_id=self._admitted.session_id,
                hash=hash_ticket(ticket),
                epoch=self._admitted.epoch,
            )
            self._journal.append(issued, in_a_hurry=True)

    def began(self, agent_request_id: str | None) -> None:
        """The agent applied the Settings."""
        self.timing.applied(asyncio.get_running_loop().time())
        self._journal.append(
            SessionBegan(
                session_id=self._admitted.session_id,
                agent_request_id=agent_request_id,
                at=datetime.now(UTC),
                epoch=self._admitted.epoch,
            )
        )

    def figures(self, browser: Connection, agent: Connection) -> Figures:
        """What was carried so far, and how long it took."""
        return Figures(
            browser_frames=browser.frames,
            browser_bytes=browser.bytes,
            agent_frames=agent.frames,
            agent_bytes=agent.bytes,
            latency=self.timing.latency,
            agent_seconds=round(agent.open_time.seconds(monotonic()), 3),
        )

    def ended(self, reason: str, detail: str, browser: Connection, agent: Connection) -> None:
        """It is over, once."""
        seconds = asyncio.get_running_loop().time() - self._began
        figures = self.figures(browser, agent)
        dropped = agent.queue.dropped, browser.queue.dropped
        self._journal.append(
            SessionEnded(
                session_id=self._admitted.session_id,
                reason=reason,
                detail=detail,
                browser_code=browser.closed_code,
                agent_code=agent.closed_code,
                figures=figures,
                at=datetime.now(UTC),
                epoch=self._admitted.epoch,
            ),
            in_a_hurry=reason in _WAITED_FOR,
        )
        self.timing.end()
        self._metrics.sessions_ended.labels(reason=reason).inc()
        self._metrics.frames.labels(source="browser").inc(browser.frames)
        self._metrics.frames.labels(source="agent").inc(agent.frames)
        self._metrics.audio_dropped.labels(towards="agent").inc(dropped[0])
        self._metrics.audio_dropped.labels(towards="browser").inc(dropped[1])
        log.info(
            "session_ended session=%s reason=%s browser_code=%d agent_code=%d seconds=%.1f"
            " agent_seconds=%.1f browser_frames=%d agent_frames=%d dropped=%d detail=%r",
            self._admitted.session_id,
            reason,
            browser.closed_code,
            agent.closed_code,
            seconds,
            figures.agent_seconds,
            browser.frames,
            agent.frames,
            sum(dropped),
            detail,
        )
