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
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol
from uuid import UUID

import msgspec

from config.limits import Limits
from config.policy import Policy
from relay.core import actions, message_policy
from relay.core.actions import Action
from relay.core.admitted import Admitted, Takeover
from relay.core.agent_lifecycle import AgentLifecycle, State
from relay.core.events import (
    AgentClosed,
    AgentOpened,
    AgentUnreachable,
    BrowserAttached,
    BrowserClosed,
    BrowserReturning,
    ControlFrame,
    EndReason,
    Event,
    FromAgent,
    FromBrowser,
    FunctionReturned,
    FunctionStarted,
    GoAway,
    HangUp,
    MessageStored,
    NotAudio,
    Woken,
)
from relay.core.function_calls import FunctionCalls, respond
from relay.core.rate_limit import AudioVerdict, BrowserLimits
from relay.core.reconnect import FINAL_ERRORS, LOST_CODES
from relay.core.resume import ResumeWindow
from relay.core.session_close import HANG_UP, close, comes_back
from relay.core.session_timeouts import SessionTimeouts
from relay.core.transcript import Transcript
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.relay_events import IntentStatus

GO_AWAY_PATIENCE = 5.0  # how long a turn may run on when the relay stops


class Turn(Enum):
    QUIET = "quiet"  # nobody is in the middle of something
    RUNNING = "running"  # somebody speaks, or an answer is due


MakeSettings = Callable[[Sequence[deepgram.History]], deepgram.Settings]
"""Makes Settings that tell the agent this history."""


class _Failure(msgspec.Struct, frozen=True):
    """Why a session cannot have an agent: the reason, what the browser is told, how it closes."""

    why: EndReason
    event: relay_events.RelayError | deepgram.Error | deepgram.Warning
    code: int
    reason: str


class SessionRules(Protocol):
    """What a session runner needs of a session, whichever protocol its browser speaks."""

    @property
    def admitted(self) -> Admitted: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def most(self) -> tuple[float, float]: ...
    def decode(
        self, text: bytes
    ) -> deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed: ...
    def accepts_audio(self, payload: bytes | memoryview) -> bool: ...
    def begin(self) -> list[Action]: ...
    def admits(self, ticket: str, browser_frames: int) -> bool: ...
    def handle(self, event: Event, now: float) -> list[Action]: ...


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
    ) -> None:
        """`began` is the wall-clock instant (UTC) of `now`; `new_id` and `new_ticket` give a fresh
        UUID and a fresh secret a call, `jitter` a number from 0 to 1."""
        takeover = admitted.takeover
        self._admitted = admitted
        self._make_settings = make_settings
        self._resume = ResumeWindow(
            limits.grace_seconds,
            new_ticket,
            first=admitted.resume_ticket,
            came_with=takeover.ticket if takeover else None,
        )
        self._limits = BrowserLimits(limits, policy, admitted.audio.input, now)
        self._timeouts = SessionTimeouts(limits.idle_seconds, limits.session_seconds, now)
        self._transcript = Transcript(admitted, began - timedelta(seconds=now), new_id)
        self._calls = FunctionCalls(new_id)
        self._agent = AgentLifecycle(limits, jitter, now)
        self._turn = Turn.QUIET
        self._go_by = math.inf  # the relay stops
        # As the browser was told; it does not have to be told when it comes from another relay.
        self._reconnecting = takeover is not None

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
        if self.state is State.CLOSED:
            return None
        # After every event: nothing is looked at that is not there.
        due = min(
            self._agent.deadline,
            self._agent.roll_over_deadline(self._is_quiet),
            self._resume.closes_at,
            self._go_by,
            self._limits.audio.next_check,
            self._timeouts.deadline,
        )
        if self._calls and self.state is State.OPEN:  # before, nobody could say anything
            due = min(due, self._calls.deadline)
        return due

    @property
    def most(self) -> tuple[float, float]:
        """Audio frames and bytes of the browser in all that need not wait for `Woken`: hang up."""
        return self._limits.audio.most

    @property
    def admitted(self) -> Admitted:
        """Whose session it is, of which conversation, and with which audio."""
        return self._admitted

    def decode(self, text: bytes) -> deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed:
        """A text message of the browser, for `FromBrowser`."""
        return self._limits.decode(text)

    def accepts_audio(self, payload: bytes | memoryview) -> bool:
        """Whether a binary message of the browser is audio and may pass; else `NotAudio` is due."""
        return not self._limits.is_text(payload)

    def begin(self) -> list[Action]:
        """The browser's WebSocket is open: what it is told first, and who is called."""
        return [self._introduce(0, self._admitted.takeover), actions.DialAgent()]

    def admits(self, ticket: str, browser_frames: int) -> bool:
        """Whether a browser with this ticket may take this session on."""
        return self.state is not State.CLOSED and self._resume.admits(ticket, browser_frames)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Apply one event at monotonic second `now`; what has to be done, in order."""
        if self.state is State.CLOSED:
            return []
        match event:
            case FromAgent(message):
                return self._from_agent(message, now)
            case FromBrowser(message):
                self._resume.confirm()
                return self._from_browser(message, now)
            case NotAudio():
                return self._refuse(self._limits.refuse_binary_text(now), now)
            case ControlFrame():
                refusal = self._limits.refuse_control(now)
                return self._refuse(refusal, now) if refusal else []
            case AgentOpened():
                if self.state is State.DIALLING:
                    self._agent.state = State.WELCOMING
                return []
            case AgentUnreachable(detail, final, retry_after):
                failure = _no_agent(
                    EndReason.AGENT_UNREACHABLE, "agent_unreachable", "cannot be reached"
                )
                if final:
                    return self._fail(failure, detail)
                return self._lost(now, failure, detail, at_least=retry_after)
            case AgentClosed(code, reason):
                return self._agent_closed(code, reason, now)
            case BrowserClosed(code, reason):
                return self._browser_closed(code, reason, now)
            case BrowserReturning():
                self._resume.detach(now)
                return [actions.DetachBrowser(*HANG_UP[EndReason.SUPERSEDED])]
            case BrowserAttached(ticket, received, browser_frames):
                self._resume.attach(ticket, browser_frames)
                back = actions.Note("browser_back", "")
                takeover = (
                    self._admitted.takeover if self._admitted.brings_nothing(ticket) else None
                )
                return [self._introduce(received, takeover), actions.Replay(received), back]
            case GoAway():
                return self._go_away(now)
            case HangUp(EndReason.BROWSER_TOO_SLOW as why) if self._resume.grace:
                return self._detach(*HANG_UP[why], now)
            case HangUp(why, detail):
                return self._hang_up(why, detail)
            case Woken():
                return self._woken(event, now)
            case MessageStored(message):
                saved = relay_events.RelayMessageSaved(
                    seq=message.seq, message_id=message.id, role=message.role
                )
                return [actions.SendBrowser(saved)]
            case FunctionStarted():
                return self._function_started(event, now)
            case FunctionReturned():  # exhaustive: mypy finds a forgotten event
                return self._function_returned(event)

    # --- the agent speaks ----------------------------------------------------------------

    def _from_agent(
        self,
        message: deepgram.ServerMessage | deepgram.Mended | deepgram.Unknown | deepgram.Malformed,
        now: float,
    ) -> list[Action]:
        match message:
            case deepgram.Welcome(request_id=request_id):
                return self._welcomed(request_id)
            case deepgram.SettingsApplied():
                return self._applied(now)
            case deepgram.ConversationText():
                return self._store(message, actions.Forward(), now)
            case deepgram.Mended(message=said, reason=reason):
                note = actions.Note("agent_malformed", f"ConversationText: {reason}")
                return [note, *self._store(said, actions.SendBrowser(said), now)]
            case deepgram.LatencyReport(total_latency=seconds):
                if seconds is None:
                    return [actions.Forward()]
                return [actions.Forward(), actions.Reported(seconds)]
            case deepgram.UserStartedSpeaking():
                self._turn = Turn.RUNNING
                self._timeouts.touch(now)
                return [actions.ClearAudio(), actions.Forward()]
            case deepgram.FunctionCallRequest():
                return self._called(message)
            case deepgram.FunctionCallCancelled(functions=functions):
                return _note_unreadable(message) + self._calls.take_back(functions)
            case deepgram.Error():
                return self._agent_erred(message, now)
            case deepgram.AgentAudioDone():
                self._turn = Turn.QUIET
                self._timeouts.touch(now)
                return [actions.Forward(), *(self._maybe_go(now) or self._maybe_roll_over(now))]
            case deepgram.Warning(code=code, description=description):
                return [
                    actions.SendBrowser(message_policy.for_browser(message)),
                    actions.Note("agent_warning", f"{code}: {description}"),
                ]
            case deepgram.History(function_calls=calls):
                return [] if calls is not None else [actions.Forward()]
            case deepgram.FunctionCallResponse():
                return []  # the echo of our own answer (2026), no browser's business
            case deepgram.Malformed(type=kind, reason=reason):
                passes = message_policy.malformed_may_pass(kind)
                note = actions.Note("agent_malformed", f"{kind}: {reason}")
                return [note, actions.Forward()] if passes else [note]
            case (  # exhaustive
                deepgram.EndOfTurn()
                | deepgram.AgentThinking()
                | deepgram.AgentStartedSpeaking()
                | deepgram.ListenUpdated()
                | deepgram.ThinkUpdated()
                | deepgram.SpeakUpdated()
                | deepgram.PromptUpdated()
                | deepgram.InjectionRefused()
                | deepgram.Unknown()
            ):
                return [actions.Forward()]

    def _welcomed(self, request_id: str) -> list[Action]:
        if self.state is not State.WELCOMING:
            return [actions.Note("agent_unexpected", "Welcome a second time")]
        first = self._agent.request_id is None and self._admitted.takeover is None
        self._agent.welcome(request_id)
        if parked := self._calls.take_parked():
            self._transcript.add_calls(parked)
        settings = actions.SendSettings(self._make_settings(self._transcript.history))
        return [actions.Forward(), settings] if first else [settings]

    def _applied(self, now: float) -> list[Action]:
        if self.state is not State.APPLYING:
            return [actions.Note("agent_unexpected", f"SettingsApplied while {self.state.value}")]
        asked: list[Action] = [] if self._agent.was_open else [actions.Forward()]
        if self._reconnecting:
            asked = [actions.SendBrowser(relay_events.RelayReconnected())]
            self._reconnecting = False
        self._turn = Turn.QUIET
        self._agent.apply(now)
        return [*asked, actions.ReleaseHeld(), actions.Began(self._agent.request_id)]

    def _store(self, said: deepgram.ConversationText, shown: Action, now: float) -> list[Action]:
        """A line: what is `shown` to the browser is stored, each once."""
        self._timeouts.touch(now)
        asked = [actions.Store(self._transcript.add(said, now)), shown]
        if said.is_turn:
            self._turn = Turn.RUNNING
            if said.role == "user" and not self._resume.is_detached:
                asked.append(actions.AwaitReply())
        return asked

    def _called(self, request: deepgram.FunctionCallRequest) -> list[Action]:
        if self.state not in (State.APPLYING, State.OPEN):
            # An answer would be something before Settings.
            return [actions.Note("agent_unexpected", f"FunctionCallRequest {self.state.value}")]
        begun = self._calls.begin(request.functions, self._transcript.last_seq)
        return _note_unreadable(request) + begun

    # --- the agent is lost -------------------------------------------------------------------

    def _agent_closed(self, code: int, reason: str, now: float) -> list[Action]:
        detail = f"{code} {reason}".strip()
        if code not in LOST_CODES:
            return self._end(EndReason.AGENT_LEFT, detail, code, reason)
        return self._lost(now, _no_agent(EndReason.AGENT_LOST, "agent_lost", "was lost"), detail)

    def _agent_erred(self, error: deepgram.Error, now: float) -> list[Action]:
        # The description is for us; it may quote the prompt.
        detail = f"{error.code}: {error.description}"
        failure = _Failure(
            EndReason.AGENT_ERROR,
            message_policy.for_browser(error),
            close_codes.INTERNAL,
            error.code,
        )
        if error.code in FINAL_ERRORS:
            return self._fail(failure, detail)
        return self._lost(now, failure, detail)

    def _fail(self, failure: _Failure, detail: str) -> list[Action]:
        """The end for want of an agent."""
        end = self._end(failure.why, detail, failure.code, failure.reason)
        return [actions.SendBrowser(failure.event), *end]

    def _lost(
        self, now: float, failure: _Failure, detail: str, *, at_least: float = 0.0
    ) -> list[Action]:
        """Dial again in a while, in `at_least` so many seconds; when that was done often enough,
        end with `failure`."""
        if not self._agent.retry(now, at_least):
            return self._fail(failure, detail)
        asked: list[Action] = [actions.DropAgent()]
        if self._agent.was_open and not self._reconnecting:
            self._reconnecting = True
            asked.append(actions.SendBrowser(relay_events.RelayReconnecting()))
        self._calls.park()
        return [*asked, actions.Note("agent_redialled", detail)]

    @property
    def _is_quiet(self) -> bool:
        """Nobody would be interrupted."""
        return self._turn is Turn.QUIET and not self._calls

    def _maybe_roll_over(self, now: float) -> list[Action]:
        """A new agent before Deepgram ends the session of this one; the browser is not told."""
        if self.state is not State.OPEN or now < self._agent.roll_over_deadline(self._is_quiet):
            return []
        self._calls.park()
        self._agent.dial(now)
        return [actions.DropAgent(), actions.DialAgent()]

    # --- the browser comes, speaks and goes --------------------------------------------------

    def _introduce(self, received: int, takeover: Takeover | None) -> Action:
        event = relay_events.RelaySession(
            session_id=self._admitted.session_id,
            conversation_id=self._admitted.conversation_id,
            resume_ticket=self._resume.ticket,
            resume_within=self._resume.grace,
            last_seq=None if received else self._admitted.last_seq,
            taken_over=takeover is not None,
            messages=takeover.messages if takeover else [],
        )
        return actions.SendBrowser(event)

    def _browser_closed(self, code: int, reason: str, now: float) -> list[Action]:
        if self._resume.grace and comes_back(code):
            return self._detach(code, reason, now)
        why = EndReason.BROWSER_LOST if code == close_codes.ABNORMAL else EndReason.BROWSER_LEFT
        return self._end(why, f"{code} {reason}".strip(), code, reason)

    def _detach(self, code: int, reason: str, now: float) -> list[Action]:
        """The agent lives on for a while and what it says is remembered: the browser may return."""
        if self._go_by < math.inf:
            return self._hang_up(EndReason.SHUTDOWN, "browser lost")
        self._resume.detach(now)
        away = actions.Note("browser_away", f"{code} {reason}".strip())
        sent = close_codes.sendable(code, instead=close_codes.NORMAL)
        return [actions.DetachBrowser(sent, close_codes.short(reason)), away]

    def _from_browser(
        self,
        message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed,
        now: float,
    ) -> list[Action]:
        if refusal := self._limits.refuse_text(message, now):
            return self._refuse(refusal, now)
        if isinstance(message, deepgram.InjectUserMessage):
            self._timeouts.touch(now)
        return [actions.Forward()]

    def _refuse(self, refusal: relay_events.RelayError, now: float) -> list[Action]:
        """Tell the browser; once too often is the end."""
        refused = actions.Refuse(refusal, refusal.code)
        if not self._limits.is_abuse(now):
            return [refused]
        return [refused, *self._hang_up(EndReason.ABUSE, refusal.code)]

    def _check(self, woken: Woken, now: float) -> list[Action]:
        """How the browser behaves, and whether the session is over because of it, or of its age."""
        if expired := self._timeouts.expired(now):
            return self._hang_up(EndReason(expired))
        asked: list[Action] = []
        if warning := self._timeouts.warning(now):
            asked.append(actions.SendBrowser(warning))
        if now < self._limits.audio.next_check:
            return asked
        found = self._limits.check_audio(woken.browser_frames, woken.browser_bytes, now)
        if found.verdict is AudioVerdict.FLOOD:
            return [*asked, *self._hang_up(EndReason.ABUSE, "flood")]
        if found.changed:
            asked.append(actions.BlockAudio(found.verdict is AudioVerdict.BLOCK))
        return asked + (self._refuse(found.refusal, now) if found.refusal else [])

    # --- functions ---------------------------------------------------------------------------

    def _function_started(self, event: FunctionStarted, now: float) -> list[Action]:
        if event.say:
            self._calls.promise(event.id, event.say, now + event.say_after)
        shown = relay_events.RelayIntent(
            id=event.id,
            call_id=event.call_id,
            intent=event.intent,
            status=IntentStatus.SUBMITTING,
            arguments=event.arguments,
        )
        return [actions.SendBrowser(shown)]

    def _function_returned(self, event: FunctionReturned) -> list[Action]:
        shown = relay_events.RelayIntent(
            id=event.id,
            call_id=event.call_id,
            intent=event.intent,
            status=event.status,
            arguments=event.arguments,
            result=event.result,
            next_attempt_at=event.next_attempt_at,
        )
        asked: list[Action] = [actions.SendBrowser(shown)]
        if finished := self._calls.answer(event.id, event.content):
            self._transcript.add_calls([finished])
            asked.append(respond(finished))
        return asked

    # --- time and the end --------------------------------------------------------------------

    def _go_away(self, now: float) -> list[Action]:
        if self._go_by < math.inf:
            return []  # a second time
        self._go_by = now + GO_AWAY_PATIENCE
        event = relay_events.RelayGoAway(
            resume_ticket=self._resume.ticket, reconnect_within=self._resume.grace
        )
        return [actions.SendBrowser(event), *self._maybe_go(now)]

    def _maybe_go(self, now: float) -> list[Action]:
        """The end, at a turn boundary or when there is no more time, if the relay stops."""
        wait = self._go_by - now
        if wait == math.inf or (wait > 0 and not (self._is_quiet or self._resume.is_detached)):
            return []
        return self._hang_up(EndReason.SHUTDOWN)

    def _woken(self, event: Woken, now: float) -> list[Action]:
        asked = self._check(event, now)
        return asked if self.state is State.CLOSED else asked + self._due(event, now)

    def _due(self, event: Woken, now: float) -> list[Action]:
        if now >= self._resume.closes_at:
            return self._end(EndReason.BROWSER_LOST, "did not come back", close_codes.ABNORMAL, "")
        if now >= self._go_by:
            return self._maybe_go(now)
        if self.state is not State.OPEN:
            return self._set_up_late(now) if now >= self._agent.deadline else []
        asked = self._calls.speak(now)
        if self._agent.needs_keepalive(event.browser_frames - event.thrown_away, now):
            # KeepAlive alone is reported not to do while the agent speaks for long.
            asked += [actions.SendAgent(deepgram.KeepAlive()), actions.SendSilence()]
        return asked + self._maybe_roll_over(now)

    def _set_up_late(self, now: float) -> list[Action]:
        """The deadline of an agent that is not ready."""
        if self.state is State.RETRYING:
            self._agent.dial(now)
            return [actions.DialAgent()]
        failure = _no_agent(EndReason.SETUP_TIMEOUT, "setup_timeout", "did not get ready in time")
        return self._lost(now, failure, f"setup timeout while {self.state.value}")

    def _end(self, why: EndReason, detail: str, code: int, reason: str) -> list[Action]:
        self._agent.state = State.CLOSED
        return close(why, detail, code, reason)

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


def _no_agent(why: EndReason, code: str, what: str) -> _Failure:
    error = relay_events.RelayError(code=code, detail=f"the voice agent {what}")
    return _Failure(why, error, close_codes.AGENT_UNREACHABLE, code.replace("_", " "))
