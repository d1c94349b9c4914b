"""Runs one session of the real core: does what it asks for, as relay/live/session_runner.py."""

from __future__ import annotations

import msgspec

from relay.core import actions, events
from relay.core.agent_lifecycle import State
from relay.core.records import (
    Figures,
    SessionBegan,
    SessionEnded,
    TicketIssued,
)
from relay.core.resume import ReplayBuffer
from relay.core.session import Session
from relay.core.user_context import UserContext
from relay.live.session_record import _WAITED_FOR
from relay.protocol import deepgram, relay_events
from relay.telemetry.histogram import SessionLatency
from tests.simulation.promises import Broken
from tests.simulation.wire import End

CONTEXT_SECONDS = 0.05, 0.8
_NOTHING = Figures(
    browser_frames=0, browser_bytes=0, agent_frames=0, agent_bytes=0, latency=SessionLatency()
)


class Runner:
    """Of a relay process, for one session; `told` is every text that the browser was told."""

    def __init__(self, relay, admitted, session: Session, browser: End) -> None:
        self.relay = relay
        self.session = session
        self.admitted = admitted
        self.told: list[bytes] = []
        self.is_live = True
        self._texts = ReplayBuffer()
        self._browser: End | None = None
        self._frames = 0  # of audio
        self._agent: End | None = None
        self._dials = 0
        self._held: list[tuple[str, bytes, bool]] | None = []
        self._frame = b"", False
        self._timer: list | None = None
        self._attach(browser)

    def __repr__(self) -> str:
        return f"<Runner {self.relay.world.names[self.admitted.session_id]} {self.session!r}>"

    # --- the browser -------------------------------------------------------------------------

    def _attach(self, end: End) -> None:
        end.hear = lambda kind, payload: self._hear_browser(end, kind, payload)
        end.about = self
        self._browser = end

    def _hear_browser(self, end: End, kind: str, payload) -> None:
        if end is not self._browser:
            return
        if kind == "text":
            self.hear(payload, is_from_agent=False)
        elif kind == "audio":
            self._frames += 1
            self._to_agent("audio", payload, for_this_end=False)
        else:
            self.handle(events.BrowserClosed(*payload))

    def resume(self, ticket: str, received: int, end: End) -> bool:
        if not self.is_live or not self.session.admits(ticket, self._frames):
            return False
        if self.admitted.brings_nothing(ticket):
            received = 0
        if received > self._texts.count:
            raise Broken("events once", f"the browser counts {received} of {self._texts.count}")
        self.handle(events.BrowserReturning())
        self._attach(end)
        self.handle(events.BrowserAttached(ticket, received, self._frames))
        return True

    def begin(self) -> None:
        self.relay.calls.adopt(self.relay.world.registry, self.admitted, self.handle)
        self._act(self.session.begin())

    def hang_up(self, reason: events.EndReason) -> None:
        self.handle(events.HangUp(reason))

    # --- what happens ------------------------------------------------------------------------

    def hear(self, text: bytes, *, is_from_agent: bool) -> None:
        if not self.is_live:
            return
        self._frame = text, is_from_agent
        if is_from_agent:
            self.handle(events.FromAgent(deepgram.decode_server(text)))
        else:
            self.handle(events.FromBrowser(self.session.decode(text)))

    def handle(self, event: events.Event) -> None:
        if self.is_live:
            self._act(self.session.handle(event, self.relay.clock.now))

    def _act(self, asked: list[actions.Action]) -> None:
        for action in asked:
            if not self.is_live:
                raise Broken("nothing after the end", f"{action}")
            _DEEDS[type(action)](self, action)
        if self.is_live:
            self._arm()

    def _arm(self) -> None:
        due = self.session.deadline
        timer = self._timer
        if due is None:
            raise Broken("a deadline always", f"{self}")
        if timer is not None:
            if timer[0] <= due:
                return  # it looks again when it rings
            self.relay.clock.forget(timer)
        self._timer = self.relay.process.later(due - self.relay.clock.now, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if not self.is_live:
            return
        due, now = self.session.deadline, self.relay.clock.now
        if due is not None and due <= now + 1e-6:
            self._act(self.session.handle(events.Woken(self._frames), max(now, due)))
        else:
            self._arm()

    # --- the agent ---------------------------------------------------------------------------

    def _dial_agent(self, _) -> None:
        self._dials += 1
        relay, dial = self.relay, self._dials
        relay.world.moment("dial")

        def opened(end: End) -> None:
            if dial != self._dials or not self.is_live:
                end.close(1000)
                return
            end.hear = lambda kind, payload: self._hear_agent(end, kind, payload)
            self._agent = end
            self.handle(events.AgentOpened())

        def failed(detail: str) -> None:
            if dial == self._dials:
                self.handle(events.AgentUnreachable(detail))

        relay.world.agents.dial(relay.process, opened, failed)
        if relay.world.plan.asks:
            seconds = relay.world.between(*CONTEXT_SECONDS, relay.chance)
            relay.process.later(seconds, self._learn, dial)

    def _learn(self, dial: int) -> None:
        if dial == self._dials:
            self.handle(events.ContextLearned(UserContext(facts={"name": "Jo"})))

    def _hear_agent(self, end: End, kind: str, payload) -> None:
        if end is not self._agent:
            return
        if kind == "text":
            self.hear(payload, is_from_agent=True)
        elif kind == "audio":
            if self._browser is not None:
                self._browser.send("audio", payload)
        else:
            self.relay.world.moment("lost")
            self.handle(events.AgentClosed(*payload))

    def _drop_agent(self, _) -> None:
        self._dials += 1
        if self._agent is not None:
            self._agent.close(1000)
        self._agent = None
        self._held = [one for one in self._held or () if not one[2]]

    def _to_agent(self, kind: str, payload: bytes, *, for_this_end: bool = True) -> None:
        if self._held is not None:
            self._held.append((kind, payload, for_this_end))
        elif self._agent is not None:
            self._agent.send(kind, payload)

    def _send_settings(self, action: actions.SendSettings) -> None:
        if self._agent is not None:
            self._agent.send("text", deepgram.encode(action.settings))

    def _release_held(self, action: actions.ReleaseHeld) -> None:
        held, self._held = self._held or [], None
        for kind, payload, _ in held:
            self._to_agent(kind, payload)
        began = SessionBegan(
            session_id=self.admitted.session_id,
            agent_request_id=action.agent_request_id,
            at=self.relay.world.began,
            epoch=self.admitted.epoch,
        )
        self.relay.journal.append(began)

    def _send_agent(self, action: actions.SendAgent) -> None:
        self._to_agent("text", deepgram.encode(action.message))

    def _keep_agent_alive(self, _) -> None:
        self._to_agent("text", deepgram.encode(deepgram.KeepAlive()))

    # --- what the browser is told --------------------------------------------------------------

    def _tell(self, text: bytes, *, kept: bool = True) -> None:
        self._texts.append(text, kept=kept)
        self.told.append(text)
        if self._browser is not None:
            self._browser.send("text", text)

    def _forward(self, action: actions.Forward) -> None:
        text, is_from_agent = self._frame
        if is_from_agent:
            self._tell(text, kept=action.kept)
        else:
            self._to_agent("text", text)

    def _send_browser(self, action: actions.SendBrowser) -> None:
        event = action.event
        if not isinstance(event, relay_events.RelaySession):
            self._tell(deepgram.encode(event))
            return
        if self.admitted.resume_ticket != event.resume_ticket:
            issued = TicketIssued(
                session_id=self.admitted.session_id,
                hash=event.resume_ticket.encode(),
                epoch=self.admitted.epoch,
            )
            self.relay.journal.append(issued, in_a_hurry=True)
        self.relay.world.moment("attach")
        if self._browser is not None:
            self._browser.send("text", deepgram.encode(event))

    def _refuse(self, action: actions.Refuse) -> None:
        if action.code != "not_waiting":  # a card that was decided meanwhile
            raise Broken("nothing is refused", f"{action}")
        self._tell(deepgram.encode(action.error))

    def _detach_browser(self, action: actions.DetachBrowser) -> None:
        if self._browser is not None:
            self._browser.close(action.code, action.reason)
        self._browser = None

    def _replay(self, action: actions.Replay) -> None:
        for text in self._texts.since(action.received):
            if self._browser is not None:
                self._browser.send("text", text)

    # --- what is stored, and called ------------------------------------------------------------

    def _store(self, action: actions.Store) -> None:
        message = action.message
        self.relay.journal.append(
            msgspec.structs.replace(message, frame=self._texts.count + 1),
            lambda: self.handle(events.MessageStored(message)),
        )

    def _call_function(self, asked: actions.CallFunction) -> None:
        self.relay.calls.start(
            self.relay.world.registry,
            self.admitted,
            asked.call,
            asked.after_seq,
            self.handle,
            row_id=asked.id,
        )

    def _cancel_function(self, action: actions.CancelFunction) -> None:
        self.relay.calls.cancel(action.id)

    def _decide_call(self, action: actions.DecideCall) -> None:
        self.relay.calls.decide(action.id, action.wanted)

    def _note(self, action: actions.Note) -> None:
        if action.what in ("agent_unexpected", "agent_malformed"):
            raise Broken("the agent is understood", f"{action}")

    def _over(self, action: actions.End) -> None:
        if self._browser is not None:
            self._browser.close(*action.browser)
        if self._agent is not None:
            self._agent.close(*action.agent)
        self._dials += 1
        self.is_live = False
        ended = SessionEnded(
            session_id=self.admitted.session_id,
            reason=action.reason,
            detail=action.detail,
            browser_code=action.browser[0],
            agent_code=action.agent[0],
            figures=_NOTHING,
            at=self.relay.world.began,
            epoch=self.admitted.epoch,
        )
        self.relay.journal.append(ended, in_a_hurry=action.reason in _WAITED_FOR)
        self.relay.clock.say(self.relay.name, f"session ended: {action.reason} {action.detail}")
        self.relay.world.ends.append(action.reason)
        self.relay.calls.forget(self.admitted.session_id)
        self.relay.ended(self)
        if self.session.state is not State.CLOSED:
            raise Broken("nothing after the end", f"{self}")

    def _nothing(self, _) -> None:
        pass


_DEEDS = {
    actions.Forward: Runner._forward,
    actions.SendBrowser: Runner._send_browser,
    actions.Refuse: Runner._refuse,
    actions.BlockAudio: Runner._nothing,
    actions.SendAgent: Runner._send_agent,
    actions.KeepAgentAlive: Runner._keep_agent_alive,
    actions.DialAgent: Runner._dial_agent,
    actions.DropAgent: Runner._drop_agent,
    actions.SendSettings: Runner._send_settings,
    actions.ReleaseHeld: Runner._release_held,
    actions.ClearAudio: Runner._nothing,
    actions.Store: Runner._store,
    actions.AwaitReply: Runner._nothing,
    actions.Reported: Runner._nothing,
    actions.PlayedOut: Runner._nothing,
    actions.CallFunction: Runner._call_function,
    actions.CancelFunction: Runner._cancel_function,
    actions.DecideCall: Runner._decide_call,
    actions.DetachBrowser: Runner._detach_browser,
    actions.Replay: Runner._replay,
    actions.Note: Runner._note,
    actions.End: Runner._over,
}
