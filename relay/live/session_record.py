"""What is kept of one session: its records in the journal, its lines in the log, its figures."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

import msgspec

from relay.core.admitted import Admitted
from relay.core.events import EndReason
from relay.core.records import (
    AgentTime,
    Figures,
    MessageSaid,
    SessionBegan,
    SessionEnded,
    TicketIssued,
)
from relay.core.watcher import Counts
from relay.journal.journal import Journal
from relay.live.tickets import hash_ticket
from relay.live.watchers import Watchers
from relay.protocol import close_codes, deepgram
from relay.telemetry.log_context import LogContext, current
from relay.telemetry.log_limit import LogLimit
from relay.telemetry.metrics import Metrics
from relay.telemetry.session_timing import SessionTiming
from relay.transport.connection import Connection

log = logging.getLogger(__name__)

MAX_ID = 80  # characters of what the agent calls its session

# Another relay is about to go on, or may be.
_WAITED_FOR = (EndReason.MOVED, EndReason.SUPERSEDED, EndReason.SHUTDOWN)


class SessionRecord:
    """Written as the session goes on; `timing` is its stop-watch, `log_context` what each of its
    lines has, `watchers` who else hears what happens."""

    def __init__(
        self,
        admitted: Admitted,
        journal: Journal,
        metrics: Metrics,
        log_limit: LogLimit,
        watchers: Watchers,
    ) -> None:
        self.timing = SessionTiming(metrics)
        self.watchers = watchers
        self._admitted = admitted
        self._journal = journal
        self._metrics = metrics
        self._log_limit = log_limit
        self._began = asyncio.get_running_loop().time()
        self._noted = Counter[str]()
        self._counted = 0.0  # agent seconds that the metrics have
        asked = current.get()
        fields = asked.fields | {"session": str(admitted.session_id)}
        self.log_context = LogContext(asked.ids, fields)

    def attached(self, transport: str) -> None:
        """The browser was let in; `transport` is which protocol it speaks."""
        self._metrics.sessions_begun.labels(transport=transport).inc()
        log.info(
            "session_began session=%s conversation=%s transport=%s epoch=%d",
            self._admitted.session_id,
            self._admitted.conversation_id,
            transport,
            self._admitted.epoch,
        )

    def heard(self, message: deepgram.FromServer) -> None:
        """The agent said this."""
        match message:
            case deepgram.LatencyReport():
                self.timing.reported_part("agent_listens", message.stt_latency)
                self.timing.reported_part("agent_thinks", message.ttt_token_latency)
                self.timing.reported_part("agent_speaks", message.tts_latency)
            case deepgram.Welcome(request_id=request_id):
                self.timing.welcomed(asyncio.get_running_loop().time())
                self.log_context.fields["agent_request"] = request_id[:MAX_ID]
            case deepgram.Error(code=code) | deepgram.Warning(code=code):
                known = code if code in deepgram.KNOWN_CODES else "other"
                said = type(message).__name__
                self._metrics.agent_problems.labels(message=said, code=known).inc()

    def replied(self) -> None:
        """The first audio since the user's words came as text goes to the browser."""
        now = asyncio.get_running_loop().time()
        self.timing.replied(now)
        self.watchers.replied(now)

    def counted(self, now: float, browser: Connection, agent: Connection) -> None:
        """For the watchers: what these two and their queues have carried so far."""
        counts = Counts(
            browser_frames=browser.frames,
            browser_bytes=browser.bytes,
            agent_frames=agent.frames,
            agent_bytes=agent.bytes,
            dropped_to_agent=agent.queue.dropped,
            dropped_to_browser=browser.queue.dropped,
        )
        self.watchers.counted(now, counts)

    def closed(self, side: str, code: int) -> None:
        """The other end of this side has closed, or was lost."""
        known = str(code) if code in close_codes.KNOWN else "other"
        self._metrics.closes.labels(side=side, code=known).inc()

    def refused(self, code: str) -> None:
        """Something of the browser went nowhere."""
        self._metrics.refusals.labels(code=code).inc()

    def note(self, what: str, detail: str) -> None:
        """A fact for log and metrics."""
        self._metrics.notes.labels(what=what).inc()
        self._noted[what] += 1
        left_out: int | None = 0
        if what in ("agent_redialled", "agent_unknown"):  # to all and again and again
            left_out = self._log_limit.count(detail, asyncio.get_running_loop().time())
            if left_out is None:
                return
        said = detail or None, left_out or None
        log.warning(f"{what} session=%s detail=%s left_out=%s", self._admitted.session_id, *said)

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
            agent_seconds=self._seconds(agent),
        )

    def agent_time(self, agent: Connection) -> AgentTime:
        """For how long its agents were connected so far; the metrics have that, too."""
        seconds = self._seconds(agent)
        self._metrics.agent_seconds.inc(seconds - self._counted)
        self._counted = seconds
        return AgentTime(
            session_id=self._admitted.session_id,
            epoch=self._admitted.epoch,
            seconds=seconds,
            at=datetime.now(UTC),
        )

    @staticmethod
    def _seconds(agent: Connection) -> float:
        return round(agent.open_time.seconds(monotonic()), 3)

    def ended(self, reason: str, detail: str, browser: Connection, agent: Connection) -> None:
        """It is over, once."""
        ended = SessionEnded(
            session_id=self._admitted.session_id,
            reason=reason,
            detail=detail,
            browser_code=browser.closed_code,
            agent_code=agent.closed_code,
            figures=self.figures(browser, agent),
            at=datetime.now(UTC),
            epoch=self._admitted.epoch,
        )
        self._journal.append(ended, in_a_hurry=reason in _WAITED_FOR)
        if self.watchers:
            now = asyncio.get_running_loop().time()
            self.counted(now, browser, agent)
            self.watchers.ended(now, ended)
        self._count(reason, browser, agent)
        self._say(reason, detail, browser, agent)

    def _count(self, reason: str, browser: Connection, agent: Connection) -> None:
        self.timing.end()
        self.agent_time(agent)
        self._metrics.sessions_ended.labels(reason=reason).inc()
        self._metrics.frames.labels(source="browser").inc(browser.frames)
        self._metrics.frames.labels(source="agent").inc(agent.frames)
        self._metrics.audio_dropped.labels(towards="agent").inc(agent.queue.dropped)
        self._metrics.audio_dropped.labels(towards="browser").inc(browser.queue.dropped)

    def _say(self, reason: str, detail: str, browser: Connection, agent: Connection) -> None:
        """The one line of the session that has all of it."""
        latency = self.timing.latency
        reply = latency.reply
        log.info(
            "session_ended session=%s conversation=%s reason=%s seconds=%.1f agent_seconds=%.1f"
            " browser_code=%d agent_code=%d browser_frames=%d agent_frames=%d dropped=%d"
            " redials=%d returns=%d connect_ms=%s settings_ms=%s replies=%d reply_p50_ms=%s"
            " reply_p99_ms=%s detail=%s",
            self._admitted.session_id,
            self._admitted.conversation_id,
            reason,
            asyncio.get_running_loop().time() - self._began,
            self._seconds(agent),
            browser.closed_code,
            agent.closed_code,
            browser.frames,
            agent.frames,
            agent.queue.dropped + browser.queue.dropped,
            self._noted["agent_redialled"],
            self._noted["browser_back"],
            latency.connect_ms,
            latency.settings_ms,
            reply.count if reply else 0,
            reply.p50 if reply else None,
            reply.p99 if reply else None,
            detail or None,
        )
