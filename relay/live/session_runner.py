"""Runs one session: a core, two connections, one deadline. Each side's connection may follow
another.

The session runner decodes what the connections receive, lets the core decide and does what it asks
for. Audio goes
from connection to connection without passing here. A session runner is good for one session and
owns every task, timer and socket of it: when `run` returns or raises, both sockets are closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from random import random
from typing import assert_never
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from config.agent import Agent
from relay.core import actions, events
from relay.core.actions import Action
from relay.core.admission import Admitted
from relay.core.deepgram_session import DeepgramSession
from relay.core.events import EndReason
from relay.core.rate_limit import Bounds
from relay.core.reconnect import FINAL_STATUSES
from relay.core.records import Figures, MessageSaid, SessionBegan, SessionEnded, TicketIssued
from relay.core.replay import KEPT_BYTES, ReplayBuffer
from relay.core.session import Session, SessionRules, Settle, Times
from relay.functions.executor import Functions
from relay.journal.journal import Journal
from relay.live.tickets import hash_ticket, new_ticket
from relay.protocol import deepgram, relay_events
from relay.protocol.audio_bytes import silence
from relay.protocol.refusal import Refused
from relay.telemetry.log_limit import LogLimit
from relay.telemetry.metrics import Metrics
from relay.telemetry.session_timing import SessionTiming
from relay.transport.connection import Connection
from relay.transport.dial import Dial, DialFailed
from relay.transport.send_queue import Payload

log = logging.getLogger(__name__)

SILENCE_SECONDS = 0.1
# Another relay is about to go on, or may be.
_WAITED_FOR = (EndReason.MOVED, EndReason.SUPERSEDED, EndReason.SHUTDOWN)


class SessionRunner:
    """One live session. The browser's connection is attached or about to be; the agent's is
    dialled."""

    def __init__(
        self,
        admitted: Admitted,
        settle: Settle,
        *,
        connections: tuple[Connection, Connection],
        dials: tuple[Dial, Dial],
        functions: Functions,
        journal: Journal,
        metrics: Metrics,
        log_limit: LogLimit,
        times: Times,
        bounds: Bounds,
        deepgram_agent: Agent | None = None,
    ) -> None:
        """`connections` are the browser's and the agent's; `dials` are the way to the agent the
        first time (it may be on its way already) and every other time. `deepgram_agent`: the
        browser speaks Deepgram's protocol, and this is the agent that its audio has to fit."""
        self._loop = asyncio.get_running_loop()
        self._browser, self._agent = connections
        self._dial, self._redial = dials
        self._functions = functions
        self._journal = journal
        self._metrics = metrics
        self._log_limit = log_limit
        self.address = ""  # where the browser came from first
        self.on_lingering: Callable[[Connection], None] = lambda connection: None
        self._began = self._loop.time()
        self._timer: asyncio.Handle | None = None
        self._armed: float | None = None  # for this deadline; not every handle of uvloop knows it
        self._is_over = False
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._dialling: asyncio.Task[None] | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._is_dial_due = False  # as soon as `run` has begun
        self._backlog = ReplayBuffer(min(KEPT_BYTES, self._browser.queue.limit))
        # The text being handled and whether the agent sent it: what `Forward` speaks of.
        self._frame = b"", False
        self._hears_audio = False  # the first frame was looked at
        self._is_blocked = False
        self._thrown_away = 0  # audio frames of the browser that the agent did not get
        self._watch = SessionTiming(metrics)

        def begin(admitted: Admitted, now: float) -> Session:
            return Session(
                admitted,
                settle,
                now=now,
                began=datetime.now(UTC),
                times=times,
                bounds=bounds,
                new_id=uuid7,
                jitter=random,
                new_ticket=new_ticket,
            )

        self._session: SessionRules
        if deepgram_agent is None:
            self._session = begin(admitted, self._began)
        else:
            self._session = DeepgramSession(admitted, deepgram_agent, begin, self._began)
        # Now, and not in `run`: frames may follow the 101 before that has its turn.
        self._connect_browser()
        self._browser.on_opened = self._begin

    def __repr__(self) -> str:
        return f"<SessionRunner {self._session.admitted.session_id} {self._session!r}>"

    @property
    def conversation_id(self) -> UUID:
        """The conversation that this session is part of."""
        return self._session.admitted.conversation_id

    @property
    def user_id(self) -> str:
        """Whose session it is."""
        return self._session.admitted.user_id

    @property
    def epoch(self) -> int:
        """Our number among the owners of this session."""
        return self._session.admitted.epoch

    @property
    def is_live(self) -> bool:
        """False once it has ended and only its sockets are still there."""
        return not self._is_over

    @property
    def figures(self) -> Figures:
        """What was carried so far, and how long it took."""
        return Figures(
            browser_frames=self._browser.frames,
            browser_bytes=self._browser.bytes,
            agent_frames=self._agent.frames,
            agent_bytes=self._agent.bytes,
            latency=self._watch.latency,
        )

    async def run(self) -> None:
        """Relay until someone hangs up; both sockets are closed on return."""
        self._connect_agent()
        self._settle()  # it may be over already
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                if self._is_dial_due and not self._is_over:
                    self._dial_agent()
                self._agent.replay()  # it may have been dialled ahead
                if self._browser.is_closed or not self._browser.is_open:
                    # It left during the handshake and has no ticket to come back with.
                    self._browser.close(relay_events.ABNORMAL, "")
                    self.hang_up(EndReason.BROWSER_LOST)
                self._arm()
                await self._finished
        finally:
            self._tasks = None
            self._disarm()
            if not self._is_over:  # we are being cancelled, or something broke
                self.handle(events.HangUp(EndReason.INTERNAL_ERROR))
            self._browser.abort()
            self._agent.abort()
            for connection in (self._browser, self._agent):
                connection.forget()
                connection.queue.detach()

    def resume(self, ticket: str, received: int) -> Connection | None:
        """The connection for a browser that comes back with `ticket`; the one before is let go.

        None: the ticket is not for this session as it is. Raises `Refused` when the browser cannot
        have `received` so much.
        """
        if self._tasks is None or not self._session.admits(ticket, self._browser.frames):
            return None
        if self._session.admitted.brings_nothing(ticket):
            received = 0  # what it counted came from another relay
        if received > self._backlog.count:
            detail = f"expected received to be at most {self._backlog.count}, got {received}"
            raise Refused(400, "received", detail)
        self.handle(events.BrowserReturning())
        self._browser = connection = self._browser.successor()
        self._connect_browser()
        connection.on_opened = lambda: self.handle(
            events.BrowserAttached(ticket, received, connection.frames)
        )
        return connection

    def go_away(self) -> None:
        """The relay is about to stop: end the session at a turn boundary, or in some seconds."""
        self.handle(events.GoAway())

    def hang_up(self, reason: EndReason) -> None:
        """End the session; `run` returns soon after."""
        self.handle(events.HangUp(reason))

    def handle(self, event: events.Event) -> None:
        """Give the core an event and do what it asks. Does not raise: a defect ends the session."""
        self._act(lambda now: self._session.handle(event, now))

    def _act(self, decide: Callable[[float], list[Action]]) -> None:
        """Every way into the session from a socket, a timer or somebody else's task."""
        if self._is_over:
            return
        try:
            self._do(decide(self._loop.time()))
            self._arm()
        except Exception as error:
            # The edge of the session: who called us has others to serve.
            log.exception("session_failed session=%s", self._session.admitted.session_id)
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """End the session for a defect of ours; `run` cleans up if not even that works."""
        why, detail = EndReason.INTERNAL_ERROR, type(error).__name__
        try:
            try:
                self._do(self._session.handle(events.HangUp(why, detail), self._loop.time()))
            finally:
                self._disarm()
                if not self._is_over:  # the core cannot any more, or it was ending when it broke
                    self._browser.close(relay_events.INTERNAL, "internal error")
                    self._agent.close(relay_events.NORMAL, "")
                    self._end(why, detail)
        except Exception as another:
            log.exception("session_failed session=%s", self._session.admitted.session_id)
            if not (self._is_over or self._finished.done()):
                self._finished.set_exception(another)

    # --- the agent comes and goes ------------------------------------------------------------

    def _dial_agent(self) -> None:
        if self._tasks is None:  # not yet, or not any more
            self._is_dial_due = True
            return
        dial, self._dial = self._dial, self._redial
        if self._agent.is_closed or self._agent.was_used:
            self._agent = self._agent.successor()
            self._connect_agent()
        self._agent.was_used = True
        self._watch.dialled(self._loop.time())
        self._dialling = self._tasks.create_task(self._open_agent(dial), name="dial agent")

    async def _open_agent(self, dial: Dial) -> None:
        try:
            await dial(self._agent)
        except DialFailed as error:
            final = error.status in FINAL_STATUSES
            self.handle(events.AgentUnreachable(str(error), final, error.retry_after))

    def _drop_agent(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
        self._agent.queue.hold()
        self._agent.forget()
        if self._agent.has_socket:
            self.on_lingering(self._agent)
        self._agent.close(relay_events.NORMAL, "")

    # --- the browser comes and goes ----------------------------------------------------------

    def _tell(self, text: bytes) -> None:
        """Tell the browser, now or when it comes back."""
        self._backlog.append(text)
        self._browser.queue.send_text(text)

    def _send_browser(self, event: relay_events.Event | relay_events.OfDeepgram) -> None:
        if isinstance(event, relay_events.RelaySession):  # of this socket alone
            self._keep_ticket(event.resume_ticket)
            self._browser.queue.send_text(relay_events.encode(event))
        else:
            self._tell(_encode(event))

    def _keep_ticket(self, ticket: str) -> None:
        """So that the browser may come to another relay with it. The first is stored already."""
        if self._session.admitted.resume_ticket not in (None, ticket):
            issued = TicketIssued(
                session_id=self._session.admitted.session_id,
                hash=hash_ticket(ticket),
                epoch=self.epoch,
            )
            self._journal.append(issued, in_a_hurry=True)

    def _detach_browser(self, code: int, reason: str) -> None:
        self._browser.forget()
        self._browser.on_gone = self._settle  # it may linger until the session is over
        self._browser.close(code, reason)
        self._browser.queue.detach()
        self._agent.feed(self._browser.queue)  # no reply is heard, none is measured

    def _replay(self, received: int) -> None:
        for text in self._backlog.since(received):
            self._browser.queue.send_text(text)

    # --- connections ------------------------------------------------------------------------------

    def _connect_agent(self) -> None:
        self._agent.added = self._watch.down
        self._agent.feed(self._browser.queue)
        self._agent.on_text = self._agent_said
        # Not after the dialling: Welcome may come with the 101 in one piece.
        self._agent.on_opened = self._agent_opened
        self._agent.on_gone = self._settle
        self._agent.on_closed = lambda code, reason: self.handle(events.AgentClosed(code, reason))
        self._agent.queue.on_overflow = lambda: self._overflowed(EndReason.AGENT_TOO_SLOW)
        self._agent.queue.on_stalled = lambda: self.handle(
            events.AgentClosed(relay_events.ABNORMAL, "reads nothing")
        )

    def _connect_browser(self) -> None:
        self._browser.added = self._agent.queue.waited = self._watch.up
        self._browser.queue.waited = self._watch.down
        self._listen()
        self._browser.most = self._session.most
        self._browser.on_flood = lambda: self._overflowed(EndReason.ABUSE)
        self._browser.on_text = self._browser_said
        self._browser.on_control = lambda: self.handle(events.ControlFrame())
        self._browser.on_gone = self._settle
        self._browser.on_closed = self._browser_closed
        self._browser.queue.on_overflow = lambda: self._overflowed(EndReason.BROWSER_TOO_SLOW)
        self._browser.queue.on_stalled = lambda: self.handle(
            events.BrowserClosed(relay_events.TRY_AGAIN, "reads nothing")
        )

    def _begin(self) -> None:
        """The browser's socket is open."""
        self._act(lambda now: self._session.begin())

    def _browser_closed(self, code: int, reason: str) -> None:
        if relay_events.TOO_BIG in (code, self._browser.said):
            self._metrics.refusals.labels(code="too_big").inc()
        self.handle(events.BrowserClosed(code, reason))

    def _listen(self) -> None:
        """What becomes of the browser's audio: nearly always, straight to the agent."""
        self._agent.queue.is_pcm = self._session.admitted.audio.input.encoding == "linear16"
        if self._is_blocked:
            self._browser.hand(self._throw_away)
        elif self._hears_audio:
            self._browser.feed(self._agent.queue)
        else:
            self._browser.hand(self._first_frame)

    def _first_frame(self, payload: Payload) -> bool:
        """Programs that send texts the wrong way do so from the beginning: looked at until the
        first audio has come."""
        if not self._session.accepts_audio(payload):
            self._thrown_away += 1
            self.handle(events.NotAudio())
            return False
        self._hears_audio = True
        self._listen()
        return self._agent.queue.send_audio(payload)

    def _throw_away(self, payload: Payload) -> bool:
        self._agent.queue.dropped += 1
        self._thrown_away += 1
        return False

    def _settle(self) -> None:
        """Both sockets are gone after the end: `run` may return."""
        over = self._is_over and not (self._browser.has_socket or self._agent.has_socket)
        if over and not self._finished.done():
            self._finished.set_result(None)

    def _agent_opened(self) -> None:
        self._watch.opened(self._loop.time())
        self.handle(events.AgentOpened())

    def _first_audio(self, payload: Payload) -> bool:
        """Agent audio after the user's words: what the user waited for."""
        self._agent.feed(self._browser.queue)
        sent = self._agent.on_audio(payload)
        self._watch.replied(self._loop.time())
        return sent

    def _browser_said(self, text: bytes) -> None:
        def decide(now: float) -> list[Action]:
            self._frame = text, False
            return self._session.handle(events.FromBrowser(self._session.decode(text)), now)

        self._act(decide)

    def _agent_said(self, text: bytes) -> None:
        def decide(now: float) -> list[Action]:
            self._frame = text, True
            event = events.FromAgent(deepgram.decode_server(text))
            return self._session.handle(event, now)

        self._act(decide)

    def _overflowed(self, reason: EndReason) -> None:
        # Not at once: we are inside a send.
        self._loop.call_soon(self.hang_up, reason)

    # --- the deadline ------------------------------------------------------------------------

    def _arm(self) -> None:
        deadline = self._session.deadline
        if self._timer is not None:
            if self._armed == deadline:
                return
            self._timer.cancel()
        self._armed = deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._timer = None

        def decide(now: float) -> list[Action]:
            # The clock of the loop counts in milliseconds: do not come too early by a part of one.
            now = max(now, self._session.deadline or 0.0)
            heard = self._browser
            woken = events.Woken(heard.frames, heard.bytes, self._thrown_away)
            asked = self._session.handle(woken, now)
            heard.most = self._session.most
            return asked

        self._act(decide)

    # --- actions -----------------------------------------------------------------------------

    def _do(self, asked: list[Action]) -> None:
        for action in asked:
            match action:
                case actions.Forward():
                    text, is_from_agent = self._frame
                    pass_on = self._tell if is_from_agent else self._agent.queue.send_text
                    pass_on(text)
                case actions.SendBrowser(event=event):
                    self._send_browser(event)
                case actions.Refuse(error=error, code=code):
                    self._metrics.refusals.labels(code=code).inc()
                    self._send_browser(error)
                case actions.BlockAudio(blocked=blocked):
                    self._is_blocked = blocked
                    self._listen()
                case actions.SendAgent(message=message):
                    self._agent.queue.send_text(deepgram.encode(message), for_this_end=True)
                case actions.SendSilence():
                    if frame := silence(self._session.admitted.audio.input, SILENCE_SECONDS):
                        self._agent.queue.send_audio(frame)
                case actions.DialAgent():
                    self._dial_agent()
                case actions.DropAgent():
                    self._drop_agent()
                case actions.SendSettings(settings=settings):
                    self._watch.settings_sent(self._loop.time())
                    self._agent.queue.send_first(deepgram.encode(settings))
                case actions.ReleaseHeld():
                    self._agent.queue.release()
                case actions.ClearAudio():
                    self._browser.queue.clear_audio()
                case actions.Store(message=message):
                    self._store(message)
                case actions.Began(agent_request_id=request_id):
                    self._note_began(request_id)
                case actions.AwaitReply():
                    self._watch.asked(self._loop.time())
                    self._agent.hand(self._first_audio)
                case actions.Reported(seconds=seconds):
                    self._watch.reported(seconds)
                case actions.CallFunction(id=id, call=call, after_seq=after_seq):
                    self._functions.start(
                        self._session.admitted, call, after_seq, self.handle, row_id=id
                    )
                case actions.CancelFunction(id=id):
                    self._functions.cancel(id)
                case actions.DetachBrowser(code=code, reason=reason):
                    self._detach_browser(code, reason)
                case actions.Replay(received=received):
                    self._replay(received)
                case actions.CloseBrowser(code=code, reason=reason):
                    self._browser.close(code, reason)
                case actions.CloseAgent(code=code, reason=reason):
                    self._agent.close(code, reason)
                case actions.End(reason=reason, detail=detail):
                    self._end(reason, detail)
                case actions.Note(what=what, detail=detail):
                    self._note(what, detail)
                case _:
                    assert_never(action)

    def _note(self, what: str, detail: str) -> None:
        self._metrics.notes.labels(what=what).inc()
        more = ""
        if what == "agent_redialled":  # what happens to one happens to all, again and again
            left_out = self._log_limit.count(detail, self._loop.time())
            if left_out is None:
                return
            more = f" (and {left_out} more since)" if left_out else ""
        log.warning("%s session=%s %s%s", what, self._session.admitted.session_id, detail, more)

    def _store(self, message: MessageSaid) -> None:
        def saved() -> None:
            self.handle(events.MessageStored(message))

        # It is told in the next text frame.
        told = msgspec.structs.replace(message, frame=self._backlog.count + 1)
        self._journal.append(told, saved)

    def _note_began(self, request_id: str | None) -> None:
        self._watch.applied(self._loop.time())
        self._journal.append(
            SessionBegan(
                session_id=self._session.admitted.session_id,
                agent_request_id=request_id,
                at=datetime.now(UTC),
                epoch=self.epoch,
            )
        )

    def _end(self, reason: str, detail: str) -> None:
        seconds = self._loop.time() - self._began
        dropped = self._agent.queue.dropped, self._browser.queue.dropped
        self._journal.append(
            SessionEnded(
                session_id=self._session.admitted.session_id,
                reason=reason,
                detail=detail,
                browser_code=self._browser.closed_code,
                agent_code=self._agent.closed_code,
                figures=self.figures,
                at=datetime.now(UTC),
                epoch=self.epoch,
            ),
            in_a_hurry=reason in _WAITED_FOR,
        )
        self._functions.forget(self._session.admitted.session_id)
        self._watch.end()
        self._metrics.sessions_ended.labels(reason=reason).inc()
        self._metrics.frames.labels(source="browser").inc(self._browser.frames)
        self._metrics.frames.labels(source="agent").inc(self._agent.frames)
        self._metrics.dropped.labels(towards="agent").inc(dropped[0])
        self._metrics.dropped.labels(towards="browser").inc(dropped[1])
        log.info(
            "session_ended session=%s reason=%s browser_code=%d agent_code=%d seconds=%.1f"
            " browser_frames=%d agent_frames=%d dropped=%d detail=%r",
            self._session.admitted.session_id,
            reason,
            self._browser.closed_code,
            self._agent.closed_code,
            seconds,
            self._browser.frames,
            self._agent.frames,
            sum(dropped),
            detail,
        )
        self._is_over = True
        if self._dialling is not None:
            self._dialling.cancel()
        self._settle()


def _encode(event: relay_events.Event | relay_events.OfDeepgram) -> bytes:
    if isinstance(event, relay_events.OfDeepgram):
        return deepgram.encode(event)
    return relay_events.encode(event)
