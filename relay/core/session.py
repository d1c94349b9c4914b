"""The rules of one session: event in, actions out.

Pure: no clock, no I/O, no await; time is an argument and `deadline` is when the core wants to be
woken. Audio does not come through here: it goes from connection to connection, and what is for the
agent is held in its send queue until `ReleaseHeld`. docs/architecture.md shows the states.

Invariants (tests/relay/core/test_session.py plays any order of events against them): nothing is
sent to an agent before Settings, each agent gets them once, each function call gets at most one
answer and exactly one while the session lives, nothing is asked for after `End`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from config.limits import Limits
from config.policy import Policy
from relay.core import actions, events, message_policy
from relay.core.actions import Action
from relay.core.admitted import Admitted, Takeover
from relay.core.agent_lifecycle import AgentLifecycle, State
from relay.core.briefing import Briefing, MakeSettings
from relay.core.events import HANG_UP, EndReason, Event
from relay.core.function_calls import FunctionCalls, respond
from relay.core.open_turn import OpenTurn
from relay.core.rate_limit import AudioLimit, TextLimits
from relay.core.reconnect import FINAL_ERRORS, is_lost
from relay.core.resume import ResumeWindow
from relay.core.session_timeouts import SessionTimeouts
from relay.core.transcript import Transcript
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.relay_events import RelayError

GO_AWAY_PATIENCE = 5.0  # how long a turn may run on when the relay stops

# What a leaving client may say of itself, and the codes that are free for all (RFC 6455 sections
# 7.4.1 and 7.4.2). A frame may carry any other number up to 65535; none of those is passed on.
_CLIENTS_OWN = {close_codes.NORMAL, close_codes.GOING_AWAY, *range(3000, 5000)}
# A browser that closes with one of these, or with a code from 3000 up, does not come back: 1005 is
# `close()` without arguments. 1001 is a page that is left, or loaded again.
_GOODBYES = {close_codes.NORMAL, close_codes.NO_STATUS}

# What the browser is told of the end for want of an agent.
_NO_AGENT = {
    EndReason.AGENT_UNREACHABLE: RelayError(
        code="agent_unreachable", detail="the voice agent cannot be reached"
    ),
    EndReason.AGENT_LOST: RelayError(code="agent_lost", detail="the voice agent was lost"),
    EndReason.SETUP_TIMEOUT: RelayError(
        code="setup_timeout", detail="the voice agent did not get ready in time"
    ),
}
_NOT_WAITING = RelayError(
    code="not_waiting", detail="there is no call with this id that waits for a decision"
)
_TEXT_AS_AUDIO = RelayError(
    code="not_audio",
    detail="expected audio in binary messages, got a message that belongs into a text one",
)


class Session:
    """One live voice connection of a conversation, from attach to hang-up."""

    def __init__(
        self,
        admitted: Admitted,
        make_settings: MakeSettings,
        *,
        now: float,
        began: datetime,
        limits: Limits,
        policy: Policy,
        new_id: Callable[[], UUID],
        jitter: Callable[[], float],
        new_ticket: Callable[[], str],
        asks: bool = False,
    ) -> None:
        """`began` is the wall-clock instant (UTC) of `now`; `new_id` and `new_ticket` give a fresh
        UUID and a fresh secret a call, `jitter` a number from 0 to 1. `asks`: `ContextLearned`
        comes back after each `DialAgent`."""
        self.admitted = admitted  # whose session it is, of which conversation, with which audio
        self._briefing = Briefing(make_settings, asks=asks)
        self._resume = ResumeWindow(admitted, limits.grace_seconds, new_ticket)
        self._texts = TextLimits(limits, policy, now)
        self._audio = AudioLimit(limits, admitted.audio.input, now)
        self._timeouts = SessionTimeouts(limits.idle_seconds, limits.session_seconds, now)
        self._timeouts.allow(admitted.seconds, now)
        self._transcript = Transcript(admitted, began - timedelta(seconds=now), new_id)
        self._calls = FunctionCalls(new_id, admitted.open_calls)
        self._open_turn = OpenTurn()
        if admitted.takeover:
            self._open_turn.take_up(admitted.history)
        self._agent = AgentLifecycle(limits, jitter, now)
        self._in_turn = False  # somebody speaks, or an answer is due
        # As the browser was told; it does not have to be told when it comes from another relay.
        self._reconnecting = admitted.takeover is not None

    def __repr__(self) -> str:
        last_seq = self._transcript.last_seq
        return f"<Session {self.state.name} calls={len(self._calls)} last_seq={last_seq}>"

    @property
    def state(self) -> State:
        """Of the agent, until the session is closed."""
        return self._agent.state

    @property
    def deadline(self) -> float | None:
        """The monotonic second at which `Woken` is wanted; None once closed."""
        agent = self._agent
        if agent.state is State.CLOSED:
            return None
        # After every event: nothing is looked at that is not there.
        due = min(
            agent.deadline,
            agent.roll_over_deadline(self._is_quiet),
            self._resume.closes_at,
            self._audio.next_check,
            self._timeouts.deadline,
        )
        if self._calls and agent.state is State.OPEN:  # before, nobody could say anything
            due = min(due, self._calls.deadline)
        return due

    @property
    def most(self) -> tuple[float, float]:
        """Audio frames and bytes of the browser in all that need not wait for `Woken`: hang up."""
        return self._audio.most

    def decode(self, text: bytes) -> relay_events.FromBrowser:
        """A text message of the browser, for `FromBrowser`."""
        return message_policy.read(text, self._texts.policy.messages)

    def accepts_audio(self, payload: bytes | memoryview) -> bool:
        """Whether a binary message of the browser is audio and may pass; else `NotAudio` is due."""
        return not message_policy.is_text(payload, self._texts.policy.messages)

    def knows(self, line: deepgram.History) -> bool:
        """Whether an agent repeats what the one before it was told."""
        return self._open_turn.knows(line)

    def begin(self) -> list[Action]:
        """The browser's WebSocket is open: what it is told first, and who is called."""
        return [self._introduce(0, self.admitted.takeover), actions.DialAgent()]

    def admits(self, ticket: str, browser_frames: int) -> bool:
        """Whether a browser with this ticket may take this session on."""
        return self.state is not State.CLOSED and self._resume.admits(ticket, browser_frames)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Apply one event at monotonic second `now`; what has to be done, in order."""
        if self._agent.state is State.CLOSED:
            return []
        return _RULES[type(event)](self, event, now)

    # --- the agent speaks ----------------------------------------------------------------

    def _from_agent(self, event: events.FromAgent, now: float) -> list[Action]:
        message = event.message
        return _AGENT_RULES.get(type(message), Session._pass_on)(self, message, now)

    def _pass_on(self, _: object, now: float) -> list[Action]:
        return [actions.Forward()]

    def _told_already(self, _: object, now: float) -> list[Action]:
        return []

    def _said(self, said: deepgram.ConversationText, now: float) -> list[Action]:
        return self._store(said, actions.Forward(), now)

    def _mended(self, mended: deepgram.Mended, now: float) -> list[Action]:
        note = actions.Note("agent_malformed", f"ConversationText: {mended.reason}")
        return [note, *self._store(mended.message, actions.SendBrowser(mended.message), now)]

    def _reported(self, report: deepgram.LatencyReport, now: float) -> list[Action]:
        # One may come with every frame of audio: not for later.
        told: list[Action] = [] if self._resume.is_detached else [actions.Forward(False)]
        seconds = report.total_latency
        return told if seconds is None else [*told, actions.Reported(seconds)]

    def _user_speaks(self, _: deepgram.UserStartedSpeaking, now: float) -> list[Action]:
        self._in_turn = self._transcript.words_due = True
        self._timeouts.touch(now)
        self._close_turn()
        return [actions.ClearAudio(), actions.Forward()]

    def _agent_finished(self, _: deepgram.AgentAudioDone, now: float) -> list[Action]:
        self._in_turn = False
        self._timeouts.touch(now)
        self._close_turn()
        return [actions.Forward(), *(self._maybe_go(now) or self._maybe_roll_over(now))]

    def _warned(self, warning: deepgram.Warning, now: float) -> list[Action]:
        return [
            actions.SendBrowser(message_policy.for_browser(warning)),
            actions.Note("agent_warning", f"{warning.code}: {warning.description}"),
        ]

    def _prompt_updated(self, _: deepgram.PromptUpdated, now: float) -> list[Action]:
        return [] if self._calls.news.answered() else [actions.Forward()]

    def _thinks(self, _: deepgram.AgentThinking, now: float) -> list[Action]:
        if self._texts.policy.shown.thinking:
            return [actions.Forward()]
        return [actions.SendBrowser(deepgram.AgentThinking())]

    def _unknown(self, message: deepgram.Unknown, now: float) -> list[Action]:
        if self._texts.policy.shown.unknown:
            return [actions.Forward()]
        return [actions.Note("agent_unknown", message.type[:40])]

    def _malformed(self, message: deepgram.Malformed, now: float) -> list[Action]:
        note = actions.Note("agent_malformed", f"{message.type}: {message.reason}")
        return [note] if message.type in message_policy.PRIVATE else [note, actions.Forward()]

    def _welcomed(self, welcome: deepgram.Welcome, now: float) -> list[Action]:
        if self.state is not State.WELCOMING:
            return [actions.Note("agent_unexpected", "Welcome a second time")]
        first = self._agent.request_id is None and self.admitted.takeover is None
        self._agent.welcome(welcome.request_id)
        shown: list[Action] = [actions.Forward()] if first else []
        return shown + self._brief()

    def _brief(self) -> list[Action]:
        """Settings, once the agent has said Welcome and what they take from elsewhere is here."""
        if self.state is not State.BRIEFING or self._briefing.is_awaited:
            return []
        self._agent.state = State.APPLYING
        self._calls.news.renew()
        self._transcript.add_calls(self._calls.take_parked())
        history = self._transcript.history
        told = self._open_turn.leave_out(history)
        made = self._briefing.settings(told)
        if len(told) < len(history):  # of nothing that was said it might greet
            made = message_policy.without_greeting(made)
        return [actions.SendSettings(made)]

    def _applied(self, _: deepgram.SettingsApplied, now: float) -> list[Action]:
        if self.state is not State.APPLYING:
            return [actions.Note("agent_unexpected", f"SettingsApplied while {self.state.value}")]
        asked: list[Action] = [] if self._agent.was_open else [actions.Forward()]
        if self._reconnecting:
            asked = [actions.SendBrowser(relay_events.RelayReconnected())]
            self._reconnecting = False
        self._transcript.words_due = False  # what the agent before heard nobody puts into words
        self._agent.apply(now)
        unanswered = self._open_turn.ask()
        self._in_turn = bool(unanswered)
        released = actions.ReleaseHeld(self._agent.request_id)
        return [*asked, released, *self._calls.news.take(), *unanswered]

    def _store(self, said: deepgram.ConversationText, shown: Action, now: float) -> list[Action]:
        """A line: what is `shown` to the browser is stored, each once."""
        self._timeouts.touch(now)
        if self._open_turn.knows(said):
            return []  # it was stored and shown when it was said
        self._open_turn.add(said)
        asked = [actions.Store(self._transcript.add(said, now)), shown]
        if said.is_turn:
            self._in_turn = True
            if said.role == "user" and not self._resume.is_detached:
                asked.append(actions.AwaitReply())
        return asked

    def _called(self, request: deepgram.FunctionCallRequest, now: float) -> list[Action]:
        if self.state not in (State.APPLYING, State.OPEN):
            # An answer would be something before Settings.
            return [actions.Note("agent_unexpected", f"FunctionCallRequest {self.state.value}")]
        begun = self._calls.begin(request.functions, self._transcript.place)
        if self._calls:
            self._open_turn.call()
        return _note_unreadable(request) + begun

    def _taken_back(self, cancelled: deepgram.FunctionCallCancelled, now: float) -> list[Action]:
        asked = _note_unreadable(cancelled)
        for id, answered in self._calls.take_back(cancelled.functions):
            if answered is not None:
                self._transcript.change_call(answered, None)
            asked.append(actions.CancelFunction(id))
        self._close_turn(is_cut=True)
        return asked

    def _close_turn(self, *, is_cut: bool = False) -> None:
        if not self._calls:  # or the answer is still to come
            self._open_turn.close(is_cut=is_cut)

    # --- the agent comes, and is lost --------------------------------------------------------

    def _agent_opened(self, _: events.AgentOpened, now: float) -> list[Action]:
        if self.state is State.DIALLING:
            self._agent.state = State.WELCOMING
        return []

    def _learned(self, event: events.ContextLearned, now: float) -> list[Action]:
        self._briefing.learn(event.context)
        return self._brief()

    def _unreachable(self, event: events.AgentUnreachable, now: float) -> list[Action]:
        why = EndReason.AGENT_UNREACHABLE
        if event.final:
            return self._fail(why, event.detail)
        return self._lost(now, why, event.detail, at_least=event.retry_after)

    def _agent_closed(self, event: events.AgentClosed, now: float) -> list[Action]:
        detail = f"{event.code} {event.reason}".strip()
        if is_lost(event.code):
            return self._lost(now, EndReason.AGENT_LOST, detail)
        return self._end(EndReason.AGENT_LEFT, detail, event.code, event.reason)

    def _agent_erred(self, error: deepgram.Error, now: float) -> list[Action]:
        # The description is for us; it may quote the prompt.
        detail = f"{error.code}: {error.description}"
        if error.code in FINAL_ERRORS:
            return self._fail(EndReason.AGENT_ERROR, detail, error)
        return self._lost(now, EndReason.AGENT_ERROR, detail, error=error)

    def _fail(
        self, why: EndReason, detail: str, error: deepgram.Error | None = None
    ) -> list[Action]:
        """The end for want of an agent, or because of its `error`."""
        if error is None:
            return [actions.SendBrowser(_NO_AGENT[why]), *self._hang_up(why, detail)]
        end = self._end(why, detail, close_codes.INTERNAL, error.code)
        return [actions.SendBrowser(message_policy.for_browser(error)), *end]

    def _lost(
        self,
        now: float,
        why: EndReason,
        detail: str,
        *,
        error: deepgram.Error | None = None,
        at_least: float = 0.0,
    ) -> list[Action]:
        """Dial again in a while, in `at_least` so many seconds; `_fail` when that was done often
        enough."""
        if not self._agent.retry(now, at_least):
            return self._fail(why, detail, error)
        asked: list[Action] = [actions.DropAgent()]
        if self._agent.was_open and not self._reconnecting:
            self._reconnecting = True
            asked.append(actions.SendBrowser(relay_events.RelayReconnecting()))
        self._calls.park()
        return [*asked, actions.Note("agent_redialled", detail)]

    @property
    def _is_quiet(self) -> bool:
        """Nobody would be interrupted."""
        return not (self._in_turn or self._calls)

    def _maybe_roll_over(self, now: float) -> list[Action]:
        """A new agent before Deepgram ends the session of this one; the browser is not told."""
        if self.state is not State.OPEN or now < self._agent.roll_over_deadline(self._is_quiet):
            return []
        self._calls.park()
        return [actions.DropAgent(), self._dial(now)]

    def _dial(self, now: float) -> Action:
        self._agent.dial(now)
        self._briefing.ask()
        return actions.DialAgent()

    # --- the browser comes, speaks and goes --------------------------------------------------

    def _introduce(self, received: int, takeover: Takeover | None) -> Action:
        event = relay_events.RelaySession(
            session_id=self.admitted.session_id,
            conversation_id=self.admitted.conversation_id,
            resume_ticket=self._resume.ticket,
            resume_within=self._resume.grace,
            last_seq=None if received else self.admitted.last_seq,
            taken_over=takeover is not None,
            messages=takeover.messages if takeover else [],
        )
        return actions.SendBrowser(event)

    def _returning(self, _: events.BrowserReturning, now: float) -> list[Action]:
        self._resume.detach(now)
        return [actions.DetachBrowser(*HANG_UP[EndReason.SUPERSEDED])]

    def _attached(self, event: events.BrowserAttached, now: float) -> list[Action]:
        self._resume.attach(event.ticket, event.browser_frames)
        takeover = self.admitted.takeover if self.admitted.brings_nothing(event.ticket) else None
        told = self._introduce(event.received, takeover)
        return [told, actions.Replay(event.received), actions.Note("browser_back", "")]

    def _browser_closed(self, event: events.BrowserClosed, now: float) -> list[Action]:
        code, reason = event.code, event.reason
        if self._resume.grace and code < 3000 and code not in _GOODBYES:
            return self._detach(code, reason, now)
        why = EndReason.BROWSER_LOST if code == close_codes.ABNORMAL else EndReason.BROWSER_LEFT
        return self._end(why, f"{code} {reason}".strip(), code, reason)

    def _detach(self, code: int, reason: str, now: float) -> list[Action]:
        """The agent lives on for a while and what it says is remembered: the browser may return."""
        if self._timeouts.go_by < math.inf:
            return self._hang_up(EndReason.SHUTDOWN, "browser lost")
        self._resume.detach(now)
        away = actions.Note("browser_away", f"{code} {reason}".strip())
        sent = close_codes.sendable(code, instead=close_codes.NORMAL)
        return [actions.DetachBrowser(sent, close_codes.short(reason)), away]

    def _from_browser(self, event: events.FromBrowser, now: float) -> list[Action]:
        message = event.message
        self._resume.confirm()
        if refusal := self._texts.judge(message, now):
            return self._refuse(refusal, now)
        if isinstance(message, relay_events.Decision):
            self._timeouts.touch(now)
            if not self._calls.decide(message.id):
                return self._refuse(_NOT_WAITING, now)
            is_wanted = isinstance(message, relay_events.RelayConfirm)
            return [actions.DecideCall(message.id, "submit" if is_wanted else "cancel")]
        if isinstance(message, relay_events.RelayPlayout):
            return [actions.PlayedOut(message.seconds)]
        if isinstance(message, deepgram.InjectUserMessage):
            self._timeouts.touch(now)
            self._open_turn.type(message.content)
            if self.state is not State.OPEN:
                return []  # the next agent is asked
        return [actions.Forward()]

    def _not_audio(self, _: events.NotAudio, now: float) -> list[Action]:
        return self._refuse(_TEXT_AS_AUDIO, now)

    def _pinged(self, _: events.ControlFrame, now: float) -> list[Action]:
        refusal = self._texts.count(now)
        return self._refuse(refusal, now) if refusal else []

    def _refuse(self, refusal: RelayError, now: float) -> list[Action]:
        """Tell the browser; once too often is the end."""
        refused = actions.Refuse(refusal, refusal.code)
        if not self._texts.refused(now):
            return [refused]
        return [refused, *self._hang_up(EndReason.ABUSE, refusal.code)]

    def _check_audio(self, woken: events.Woken, now: float) -> list[Action]:
        was_blocked = self._audio.is_blocked
        refusal = self._audio.check(woken.browser_frames, woken.browser_bytes, now)
        if self._audio.is_flood:
            return self._hang_up(EndReason.ABUSE, "flood")
        asked: list[Action] = []
        if self._audio.is_blocked != was_blocked:
            asked.append(actions.BlockAudio(self._audio.is_blocked))
        return asked + (self._refuse(refusal, now) if refusal else [])

    def _stored(self, event: events.MessageStored, now: float) -> list[Action]:
        stored = event.message
        return [
            actions.SendBrowser(
                relay_events.RelayMessageSaved(
                    seq=stored.seq, message_id=stored.id, role=stored.role
                )
            )
        ]

    def _function_started(self, event: events.FunctionStarted, now: float) -> list[Action]:
        if event.say:
            self._calls.promise(event.shown.id, event.say, now + event.say_after)
        return [actions.SendBrowser(event.shown)]

    def _function_returned(self, event: events.FunctionReturned, now: float) -> list[Action]:
        asked: list[Action] = [actions.SendBrowser(event.shown)]
        if finished := self._calls.answer(event.shown.id, event.content):
            self._transcript.add_calls([finished])
            self._open_turn.respond()
            self._in_turn = True
            asked.append(respond(finished.call))
        if changed := self._calls.hear(event.shown, event.content):
            before, after = changed
            if not self._transcript.change_call(before.call, after.call):
                self._transcript.add_calls([after])
            if self.state is State.OPEN:
                asked += self._calls.news.take()
        return asked

    # --- time and the end --------------------------------------------------------------------

    def _allowed(self, event: events.Allowed, now: float) -> list[Action]:
        self._timeouts.allow(event.seconds, now)
        return []

    def _go_away(self, _: events.GoAway, now: float) -> list[Action]:
        if self._timeouts.go_by < math.inf:
            return []  # a second time
        self._timeouts.go_by = now + GO_AWAY_PATIENCE
        event = relay_events.RelayGoAway(
            resume_ticket=self._resume.ticket, reconnect_within=self._resume.grace
        )
        return [actions.SendBrowser(event), *self._maybe_go(now)]

    def _maybe_go(self, now: float) -> list[Action]:
        """The end, at a turn boundary or when there is no more time, if the relay stops."""
        wait = self._timeouts.go_by - now
        if wait == math.inf or (wait > 0 and not (self._is_quiet or self._resume.is_detached)):
            return []
        return self._hang_up(EndReason.SHUTDOWN)

    def _woken(self, woken: events.Woken, now: float) -> list[Action]:
        asked: list[Action] = []
        if now >= self._timeouts.deadline:
            if expired := self._timeouts.expired(now):
                return self._hang_up(EndReason(expired))
            if warning := self._timeouts.warning(now):
                asked.append(actions.SendBrowser(warning))
        if now >= self._audio.next_check:
            asked += self._check_audio(woken, now)
        return asked if self.state is State.CLOSED else asked + self._due(woken, now)

    def _due(self, woken: events.Woken, now: float) -> list[Action]:
        if now >= self._resume.closes_at:
            return self._end(EndReason.BROWSER_LOST, "did not come back", close_codes.ABNORMAL, "")
        if now >= self._timeouts.go_by:
            return self._maybe_go(now)
        if self.state is not State.OPEN and now < self._agent.deadline:
            return []
        if self.state is State.RETRYING:
            return [self._dial(now)]
        if self.state is not State.OPEN:
            late = f"setup timeout while {self.state.value}"
            return self._lost(now, EndReason.SETUP_TIMEOUT, late)
        asked = self._calls.speak(now)
        if self._agent.needs_keepalive(woken.browser_frames - woken.thrown_away, now):
            asked.append(actions.KeepAgentAlive())
        return asked + self._maybe_roll_over(now)

    def _end(self, why: EndReason, detail: str, code: int, reason: str) -> list[Action]:
        """`code` and `reason` go to the side that did not end it. The agent hears a browser's code
        only where it is one of a client's own: the rest is between us two."""
        self._agent.state = State.CLOSED
        short = close_codes.short(reason)
        browser = close_codes.sendable(code, instead=close_codes.NORMAL), short
        is_its_own = why is EndReason.BROWSER_LEFT and code in _CLIENTS_OWN
        agent = (code, short) if is_its_own else (close_codes.NORMAL, "")
        return [actions.End(why.value, detail, browser, agent)]

    def _asked_to_end(self, event: events.HangUp, now: float) -> list[Action]:
        if event.reason is EndReason.BROWSER_TOO_SLOW and self._resume.grace:
            return self._detach(*HANG_UP[event.reason], now)
        return self._hang_up(event.reason, event.detail)

    def _hang_up(self, why: EndReason, detail: str = "") -> list[Action]:
        return self._end(why, detail, *HANG_UP[why])


def _note_unreadable(
    message: deepgram.FunctionCallRequest | deepgram.FunctionCallCancelled,
) -> list[Action]:
    """That entries of a message have no id: nobody can answer them."""
    if not message.unreadable:
        return []
    detail = f"{type(message).__name__}: {message.unreadable} entries without an id"
    return [actions.Note("agent_malformed", detail)]


_Rule = Callable[[Session, Any, float], list[Action]]
# By type, so that none costs more because it comes late in a list. test_session.py holds them
# against all events and messages that there are.
_RULES: dict[type[Event], _Rule] = {
    events.FromAgent: Session._from_agent,
    events.FromBrowser: Session._from_browser,
    events.NotAudio: Session._not_audio,
    events.ControlFrame: Session._pinged,
    events.AgentOpened: Session._agent_opened,
    events.ContextLearned: Session._learned,
    events.AgentUnreachable: Session._unreachable,
    events.AgentClosed: Session._agent_closed,
    events.BrowserClosed: Session._browser_closed,
    events.BrowserReturning: Session._returning,
    events.BrowserAttached: Session._attached,
    events.GoAway: Session._go_away,
    events.HangUp: Session._asked_to_end,
    events.Allowed: Session._allowed,
    events.Woken: Session._woken,
    events.MessageStored: Session._stored,
    events.FunctionStarted: Session._function_started,
    events.FunctionReturned: Session._function_returned,
}
# Of what no rule is about (a `Notice`) the browser is told.
_AGENT_RULES: dict[type[deepgram.FromServer], _Rule] = {
    deepgram.Welcome: Session._welcomed,
    deepgram.SettingsApplied: Session._applied,
    deepgram.ConversationText: Session._said,
    deepgram.Mended: Session._mended,
    deepgram.LatencyReport: Session._reported,
    deepgram.UserStartedSpeaking: Session._user_speaks,
    deepgram.FunctionCallRequest: Session._called,
    deepgram.FunctionCallCancelled: Session._taken_back,
    deepgram.Error: Session._agent_erred,
    deepgram.AgentAudioDone: Session._agent_finished,
    deepgram.Warning: Session._warned,
    deepgram.History: Session._told_already,
    deepgram.FunctionCallResponse: Session._told_already,  # the echo of our own answer (2026)
    deepgram.PromptUpdated: Session._prompt_updated,
    deepgram.AgentThinking: Session._thinks,
    deepgram.Unknown: Session._unknown,
    deepgram.Malformed: Session._malformed,
}
