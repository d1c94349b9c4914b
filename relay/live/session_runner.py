"""Runs one session: what the core decides is done to the two sides.

Audio goes from connection to connection without passing here. A session runner is good for one
session and owns every task, timer and socket of it: when `run` returns or raises, both sockets are
closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from config.intents import Registry
from relay.core import actions, events
from relay.core.actions import Action
from relay.core.admitted import Admitted
from relay.core.agent_lifecycle import State
from relay.core.deepgram_session import SessionRules
from relay.core.events import EndReason
from relay.core.records import AgentTime, Figures
from relay.functions.executor import Functions
from relay.live.agent_side import AgentSide
from relay.live.alarms import EARLY_SECONDS, Alarm, Alarms
from relay.live.browser_side import BrowserSide
from relay.live.dial_ahead import Ask
from relay.live.quotas import AgentQuota
from relay.live.redial_sound import RedialSound
from relay.live.session_record import SessionRecord
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.audio_formats import silence
from relay.protocol.refusal import Refused
from relay.supervisor import Contained
from relay.telemetry.log_context import current
from relay.transport.connection import Connection
from relay.transport.dial import Dial

log = logging.getLogger(__name__)

SILENCE_SECONDS = 0.1

Decided = tuple[float, events.Event | None, list[Action]]
"""When the session was told what, None for its beginning, and what it asks for."""


class SessionRunner:
    """One live session. The browser's connection is attached or about to be; the agent's is
    dialled."""

    def __init__(
        self,
        session: SessionRules,
        record: SessionRecord,
        *,
        connections: tuple[Connection, Connection],
        dials: tuple[Dial, Dial],
        asks: tuple[Ask, Ask] | None,
        tasks: Contained,
        calls: tuple[Functions, Registry],
        share: AgentQuota,
        alarms: Alarms,
        redial_tone: bytes = b"",
    ) -> None:
        """`connections` are the browser's and the agent's; `calls` runs its calls, of the functions
        that it has told its agent; `dials`, `asks`, `tasks` and `share` are as of an `AgentSide`,
        `redial_tone` is as of a `RedialSound`."""
        browser, agent = connections
        self._session = session
        self._record = record
        self._calls = calls
        self._clock = asyncio.get_running_loop().time
        self.is_live = True  # False: it has ended and only its sockets are still there
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm = Alarm(alarms, self._wake)
        # The text being handled and whether the agent sent it: what `Forward` speaks of.
        self._frame = b"", False
        agent.queue.waited, browser.queue.waited = record.timing.up, record.timing.down
        if listener := record.watchers.listener:
            browser.queue.on_sent = listener.to_browser
        self._agent = AgentSide(
            self,
            agent,
            dials=dials,
            asks=asks,
            tasks=tasks,
            browser_queue=browser.queue,
            record=record,
            share=share,
        )
        self._sound = RedialSound(browser.queue, redial_tone)
        # It listens now, and not in `run`: frames may follow the 101 before that has its turn.
        self._browser = BrowserSide(
            self, browser, session=session, agent_queue=agent.queue, record=record
        )

    def __repr__(self) -> str:
        return f"<SessionRunner {self._session.admitted.session_id} {self._session!r}>"

    @property
    def admitted(self) -> Admitted:
        """Whose session it is, and in which conversation."""
        return self._session.admitted

    @property
    def state(self) -> State:
        """What its agent does."""
        return self._session.state

    @property
    def figures(self) -> Figures:
        """What was carried so far, and how long it took."""
        return self._record.figures(self._browser.connection, self._agent.connection)

    @property
    def agent_time(self) -> AgentTime:
        """For how long its agents were connected so far."""
        return self._record.agent_time(self._agent.connection)

    async def run(self) -> None:
        """Relay until someone hangs up; both sockets are closed on return."""
        self.settle()  # it may be over already
        try:
            self._agent.listen()
            browser = self._browser.connection
            if browser.is_closed or not browser.is_open:
                # It left during the handshake and has no ticket to come back with.
                browser.close(close_codes.ABNORMAL, "")
                self.hang_up(EndReason.BROWSER_LOST)
            await self._finished
        finally:
            self._agent.stop_dialling()
            self._alarm.stop()
            if self.is_live:  # we are being cancelled, or something broke
                self.handle(events.HangUp(EndReason.INTERNAL_ERROR))
            self._browser.release()
            self._agent.release()

    def resume(self, ticket: str, received: int) -> Connection | None:
        """The connection for a browser that comes back with `ticket`; the one before is let go.

        None: the ticket is not for this session as it is. Raises `Refused` when the browser cannot
        have `received` so much.
        """
        frames = self._browser.connection.frames
        if not self.is_live or not self._session.admits(ticket, frames):
            return None
        if self._session.admitted.brings_nothing(ticket):
            received = 0  # what it counted came from another relay
        told = self._browser.text_count
        if received > told:
            detail = f"expected received to be at most {told}, got {received}"
            raise Refused(400, "received", detail)
        self.handle(events.BrowserReturning())
        return self._browser.attach(ticket, received)

    def hang_up(self, reason: EndReason) -> None:
        """End the session; `run` returns soon after."""
        self.handle(events.HangUp(reason))

    # --- what happens ------------------------------------------------------------------------

    def begin(self) -> None:
        """The browser's socket is open."""
        functions, registry = self._calls
        functions.adopt(registry, self.admitted, self.handle)
        self._act(lambda now: (now, None, self._session.begin()))

    def hear(self, text: bytes, *, is_from_agent: bool) -> None:
        """One side said this."""

        def decide(now: float) -> Decided:
            self._frame = text, is_from_agent
            event: events.Event
            if is_from_agent:
                message = deepgram.decode_server(text)
                self._record.heard(message)
                event = events.FromAgent(message)
            else:
                event = events.FromBrowser(self._session.decode(text))
            return now, event, self._session.handle(event, now)

        self._act(decide, text)

    def handle(self, event: events.Event) -> None:
        """Give the core an event and do what it asks. Does not raise: a defect ends the session."""
        self._act(lambda now: (now, event, self._session.handle(event, now)))

    def settle(self) -> None:
        """When both sockets are gone after the end, `run` may return."""
        sides = self._browser, self._agent
        is_gone = not any(side.connection.has_socket for side in sides)
        if is_gone and not self.is_live and not self._finished.done():
            self._finished.set_result(None)

    def _act(self, decide: Callable[[float], Decided | None], text: bytes = b"") -> None:
        """Every way into the session from a socket, a timer or somebody else's task."""
        if not self.is_live:
            return
        outside = current.set(self._record.log_context)
        try:
            if (decided := decide(self._clock())) is not None:
                now, event, asked = decided
                if self._record.watchers:
                    self._record.watchers.told(now, event, text, asked)
                self._do(asked)
            due = self._session.deadline
            if due is not None:
                self._alarm.set(due)
        except Exception as error:
            # The edge of the session: who called us has others to serve.
            log.exception("session_failed session=%s", self._session.admitted.session_id)
            self._give_up(error)
        finally:
            current.reset(outside)

    def _give_up(self, error: Exception) -> None:
        """End the session for a defect of ours; `run` cleans up if not even that works."""
        why, detail = EndReason.INTERNAL_ERROR, type(error).__name__
        try:
            try:
                now, event = self._clock(), events.HangUp(why, detail)
                asked = self._session.handle(event, now)
                self._record.watchers.told(now, event, b"", asked)
                self._do(asked)
            finally:
                if self.is_live:  # the core cannot any more, or it was ending when it broke
                    self._browser.connection.close(close_codes.INTERNAL, "internal error")
                    self._agent.connection.close(close_codes.NORMAL, "")
                    self._end(why, detail)
        except Exception as another:
            log.exception("session_failed session=%s", self._session.admitted.session_id)
            if self.is_live and not self._finished.done():
                self._finished.set_exception(another)

    def _wake(self) -> None:
        def decide(now: float) -> Decided | None:
            due = self._session.deadline
            if due is None or due > now + EARLY_SECONDS:
                return None  # it was put off
            heard = self._browser.connection
            woken = events.Woken(heard.frames, heard.bytes, self._browser.thrown_away)
            now = max(now, due)
            asked = self._session.handle(woken, now)
            self._browser.most = self._session.most
            if self._record.watchers:
                self._record.counted(now, heard, self._agent.connection)
            return now, woken, asked

        self._act(decide)

    # --- actions -----------------------------------------------------------------------------

    def _do(self, asked: list[Action]) -> None:
        for action in asked:
            _DEEDS[type(action)](self, action)

    def _forward(self, action: actions.Forward) -> None:
        text, is_from_agent = self._frame
        if is_from_agent:
            self._browser.tell(text, kept=action.kept)
        else:  # what is lost with this agent the core tells the next one
            self._agent.connection.queue.send_text(text, for_this_end=True)

    def _send_browser(self, action: actions.SendBrowser) -> None:
        self._say(action.event)

    def _refuse(self, action: actions.Refuse) -> None:
        self._record.refused(action.code)
        self._say(action.error)

    def _block_audio(self, action: actions.BlockAudio) -> None:
        self._browser.block(action.blocked)

    def _send_agent(self, action: actions.SendAgent) -> None:
        text = deepgram.encode(action.message)
        self._agent.connection.queue.send_text(text, for_this_end=True)

    def _keep_agent_alive(self, _: actions.KeepAgentAlive) -> None:
        to_agent = self._agent.connection.queue
        to_agent.send_text(deepgram.encode(deepgram.KeepAlive()), for_this_end=True)
        if frame := silence(self._session.admitted.audio.input, SILENCE_SECONDS):
            to_agent.send_audio(frame)

    def _dial_agent(self, _: actions.DialAgent) -> None:
        self._agent.dial()

    def _drop_agent(self, _: actions.DropAgent) -> None:
        self._agent.drop()

    def _send_settings(self, action: actions.SendSettings) -> None:
        self._record.timing.settings_sent(self._clock())
        self._agent.connection.queue.send_first(deepgram.encode(action.settings))

    def _release_held(self, action: actions.ReleaseHeld) -> None:
        self._agent.connection.queue.release()
        self._record.began(action.agent_request_id)

    def _clear_audio(self, _: actions.ClearAudio) -> None:
        self._browser.connection.queue.clear_audio()

    def _store(self, action: actions.Store) -> None:
        # It is told in the next text frame.
        message, frame = action.message, self._browser.text_count + 1
        self._record.message(message, frame, lambda: self.handle(events.MessageStored(message)))

    def _await_reply(self, _: actions.AwaitReply) -> None:
        self._agent.await_reply(self._clock())

    def _reported(self, action: actions.Reported) -> None:
        self._record.timing.reported(action.seconds)

    def _played_out(self, action: actions.PlayedOut) -> None:
        self._record.timing.played_out(action.seconds)

    def _call_function(self, asked: actions.CallFunction) -> None:
        functions, registry = self._calls
        functions.start(
            registry, self.admitted, asked.call, asked.after_seq, self.handle, row_id=asked.id
        )

    def _cancel_function(self, action: actions.CancelFunction) -> None:
        self._calls[0].cancel(action.id)

    def _decide_call(self, action: actions.DecideCall) -> None:
        self._calls[0].decide(action.id, action.wanted)

    def _detach_browser(self, action: actions.DetachBrowser) -> None:
        self._browser.detach(action.code, action.reason)
        self._agent.hear_all()  # no reply is heard, none is measured

    def _replay(self, action: actions.Replay) -> None:
        self._browser.replay_texts(action.received)

    def _note(self, action: actions.Note) -> None:
        self._record.note(action.what, action.detail)

    def _over(self, action: actions.End) -> None:
        self._browser.connection.close(*action.browser)
        self._agent.connection.close(*action.agent)
        self._end(action.reason, action.detail)

    def _say(self, event: deepgram.Message) -> None:
        """Tell the browser."""
        if isinstance(event, relay_events.RelayReconnecting):
            self._sound.begin()
        elif isinstance(event, relay_events.RelayReconnected):
            self._sound.end()
        if isinstance(event, relay_events.RelaySession):  # of this socket alone
            self._record.ticket(event.resume_ticket)
            self._browser.connection.queue.send_text(deepgram.encode(event))
        else:
            self._browser.tell(deepgram.encode(event))

    def _end(self, reason: str, detail: str) -> None:
        browser, agent = self._browser.connection, self._agent.connection
        self._record.ended(reason, detail, browser, agent)
        self._calls[0].forget(self._session.admitted.session_id)
        self.is_live = False
        self._sound.end()
        self._agent.stop_dialling()
        self.settle()


# By type: see the rules of a `Session`, and test_session_runner.py.
_DEEDS: dict[type[Action], Callable[[SessionRunner, Any], None]] = {
    actions.Forward: SessionRunner._forward,
    actions.SendBrowser: SessionRunner._send_browser,
    actions.Refuse: SessionRunner._refuse,
    actions.BlockAudio: SessionRunner._block_audio,
    actions.SendAgent: SessionRunner._send_agent,
    actions.KeepAgentAlive: SessionRunner._keep_agent_alive,
    actions.DialAgent: SessionRunner._dial_agent,
    actions.DropAgent: SessionRunner._drop_agent,
    actions.SendSettings: SessionRunner._send_settings,
    actions.ReleaseHeld: SessionRunner._release_held,
    actions.ClearAudio: SessionRunner._clear_audio,
    actions.Store: SessionRunner._store,
    actions.AwaitReply: SessionRunner._await_reply,
    actions.Reported: SessionRunner._reported,
    actions.PlayedOut: SessionRunner._played_out,
    actions.CallFunction: SessionRunner._call_function,
    actions.CancelFunction: SessionRunner._cancel_function,
    actions.DecideCall: SessionRunner._decide_call,
    actions.DetachBrowser: SessionRunner._detach_browser,
    actions.Replay: SessionRunner._replay,
    actions.End: SessionRunner._over,
    actions.Note: SessionRunner._note,
}
