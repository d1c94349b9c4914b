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
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol
from uuid import UUID

import msgspec

from relay.core import actions, message_policy
from relay.core.actions import Action
from relay.core.admission import Admitted, Takeover
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
from relay.core.function_calls import Calls, respond
from relay.core.rate_limit import Bounds, BrowserLimits, Flow
from relay.core.reconnect import FINAL_ERRORS, LOST_CODES, Tries
from relay.core.records import MessageSaid
from relay.core.resume import Presence
from relay.protocol import deepgram, relay_events
from relay.protocol.relay_events import IntentStatus

# Deepgram wants something every 8 s while no audio flows (docs agent-keep-alive). We look every
# 4 s and say KeepAlive when nothing came since the last look: the gap stays below 8 s.
KEEPALIVE_LOOK = 4.0
HISTORY_LENGTH = 200  # lines that the next agent is told, the newest
# How long a turn may run on past the planned roll-over, which is well before Deepgram's 2 h.
ROLL_OVER_PATIENCE = 240.0
GO_AWAY_PATIENCE = 5.0  # and when the relay stops


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: for an agent to get ready, until a new one takes its place, and that a browser is
    waited for (0: not)."""

    setup_seconds: float
    roll_over_seconds: float
    grace_seconds: float = 0.0


class State(Enum):
    DIALLING = "dialling"  # the agent's WebSocket is being opened
    WELCOMING = "welcoming"  # it is open; Welcome has not come
    APPLYING = "applying"  # Settings are sent; SettingsApplied has not come
    OPEN = "open"  # audio passes
    RETRYING = "retrying"  # the agent is lost; it is dialled again at the deadline
    CLOSED = "closed"  # End was asked for; nothing more will be


class Turn(Enum):
    QUIET = "quiet"  # nobody is in the middle of something
    RUNNING = "running"  # somebody speaks, or an answer is due


# What a leaving client may say of itself, and the codes that are free for all (RFC 6455 sections
# 7.4.1 and 7.4.2). A frame may carry any other number up to 65535; none of those is passed on.
_CLIENTS_OWN = (relay_events.NORMAL, relay_events.GOING_AWAY)
_FREE = range(3000, 5000)
# A browser that closes with one of these, or with a code from 3000 up, does not come back: 1005 is
# `close()` without arguments. 1001 is a page that is left, or loaded again.
_GOODBYES = (relay_events.NORMAL, relay_events.NO_STATUS)

# What the other side is told when we hang up: close code, reason.
_HANG_UP = {
    EndReason.HUNG_UP: (relay_events.NORMAL, "hung up"),
    # Not a code that asks to come again: two clients would take turns for ever.
    EndReason.SUPERSEDED: (relay_events.NORMAL, "continued elsewhere"),
    EndReason.MOVED: (relay_events.NORMAL, "continued elsewhere"),
    EndReason.SHUTDOWN: (relay_events.RESTART, "restarting"),
    EndReason.BROWSER_LOST: (relay_events.NORMAL, ""),  # before it was told anything
    EndReason.BROWSER_TOO_SLOW: (relay_events.POLICY, "not reading"),
    EndReason.BAD_SETTINGS: (relay_events.NORMAL, ""),  # of a drop-in, which was told as an Error
    EndReason.AGENT_TOO_SLOW: (relay_events.AGENT_UNREACHABLE, "agent not reading"),
    EndReason.ABUSE: (relay_events.POLICY, "too many refusals"),
    # Not codes that ask to come again either: nobody was there.
    EndReason.IDLE: (relay_events.NORMAL, "idle"),
    EndReason.LONGEST: (relay_events.NORMAL, "maximum duration"),
    EndReason.INTERNAL_ERROR: (relay_events.INTERNAL, "internal error"),
}


Settle = Callable[[Sequence[deepgram.History]], deepgram.Settings]
"""Makes Settings that tell the agent this history."""


class _Place(msgspec.Struct):
    """Where the last message of the conversation stands."""

    seq: int
    turn: int
    role: deepgram.Role | None


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
        settle: Settle,
        *,
        now: float,
        began: datetime,
        times: Times,
        bounds: Bounds,
        new_id: Callable[[], UUID],
        jitter: Callable[[], float],
        new_ticket: Callable[[], str],
    ) -> None:
        """`began` is the wall-clock instant (UTC) of `now`; `new_id` and `new_ticket` give a fresh
        UUID and a fresh secret a call, `jitter` a number from 0 to 1."""
        self.state = State.DIALLING
        self._admitted = admitted
        self._settle = settle
        self._wall = began - timedelta(seconds=now)
        self._times = times
        self._new_id = new_id
        self._jitter = jitter
        takeover = admitted.takeover
        self._browser = Presence(
            times.grace_seconds,
            new_ticket,
            first=admitted.resume_ticket,
            came_with=takeover.ticket if takeover else None,
        )
        self._conduct = BrowserLimits(bounds, admitted.audio.input, now)
        self._last = _Place(admitted.last_seq, admitted.last_turn, admitted.last_role)
        self._past = deque(admitted.history, maxlen=HISTORY_LENGTH)
        self._turn = Turn.QUIET
        self._calls = Calls(new_id)
        self._tries = Tries()
        self._ready_by = now + times.setup_seconds
        self._look_at = self._ready_by
        self._roll_over_at = math.inf
        self._go_by = math.inf  # the relay stops
        # As the browser was told; it does not have to be told when it comes from another relay.
        self._lost_since: float | None = now if takeover else None
        self._frames_passed = 0  # of the browser to the agent, at the last look
        self._agent_request_id: str | None = None

    def __repr__(self) -> str:
        return f"<Session {self.state.name} calls={len(self._calls)} last_seq={self._last.seq}>"

    @property
    def deadline(self) -> float | None:
        """The monotonic second at which `Woken` is wanted; None once closed."""
        if self.state is State.CLOSED:
            return None
        # After every event: nothing is looked at that is not there.
        due = min(
            self._look_at,
            self._roll_over_deadline,
            self._browser.until,
            self._go_by,
            self._conduct.look_at,
            self._conduct.deadline,
        )
        if self._calls and self.state is State.OPEN:  # before, nobody could say anything
            due = min(due, self._calls.deadline)
        return due

    @property
    def most(self) -> tuple[float, float]:
        """Audio frames and bytes of the browser in all that need not wait for `Woken`: hang up."""
        return self._conduct.most

    @property
    def admitted(self) -> Admitted:
        """Whose session it is, of which conversation, and with which audio."""
        return self._admitted

    def decode(self, text: bytes) -> deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed:
        """A text message of the browser, for `FromBrowser`."""
        return self._conduct.decode(text)

    def accepts_audio(self, payload: bytes | memoryview) -> bool:
        """Whether a binary message of the browser is audio and may pass; else `NotAudio` is due."""
        return not self._conduct.is_text(payload)

    def begin(self) -> list[Action]:
        """The browser's WebSocket is open: what it is told first, and who is called."""
        return [self._introduce(0, self._admitted.takeover), actions.DialAgent()]

    def admits(self, ticket: str, browser_frames: int) -> bool:
        """Whether a browser with this ticket may take this session on."""
        return self.state is not State.CLOSED and self._browser.admits(ticket, browser_frames)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Apply one event at monotonic second `now`; what has to be done, in order."""
        if self.state is State.CLOSED:
            return []
        match event:
            case FromAgent(message):
                return self._from_agent(message, now)
            case FromBrowser(message):
                self._browser.hear()
                return self._from_browser(message, now)
            case NotAudio():
                return self._refuse(self._conduct.mistake(now), now)
            case ControlFrame():
                refusal = self._conduct.control(now)
                return self._refuse(refusal, now) if refusal else []
            case AgentOpened():
                if self.state is State.DIALLING:
                    self.state = State.WELCOMING
                return []
            case AgentUnreachable(detail, final, retry_after):
                why = EndReason.AGENT_UNREACHABLE
                end = self._failure(why, detail, "agent_unreachable", "cannot be reached")
                return end() if final else self._lost(now, detail, end, at_least=retry_after)
            case AgentClosed(code, reason):
                return self._agent_closed(code, reason, now)
            case BrowserClosed(code, reason):
                return self._browser_closed(code, reason, now)
            case BrowserReturning():
                self._browser.leave(now)
                return [actions.DetachBrowser(*_HANG_UP[EndReason.SUPERSEDED])]
            case BrowserAttached(ticket, received, browser_frames):
                self._browser.arrive(ticket, browser_frames)
                back = actions.Note("browser_back", "")
                takeover = (
                    self._admitted.takeover if self._admitted.brings_nothing(ticket) else None
                )
                told = self._introduce(received, takeover)
                return [told, actions.Replay(received), back]
            case GoAway():
                return self._go_away(now)
            case HangUp(EndReason.BROWSER_TOO_SLOW as why) if self._browser.grace:
                return self._detach(*_HANG_UP[why], now)
            case HangUp(why, detail):
                return self._end(why, detail, *_HANG_UP[why])
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
                return self._said(message, actions.Forward(), now)
            case deepgram.Mended(message=said, reason=reason):
                note = actions.Note("agent_malformed", f"ConversationText: {reason}")
                return [note, *self._said(said, actions.SendBrowser(said), now)]
            case deepgram.LatencyReport(total_latency=seconds):
                if seconds is None:
                    return [actions.Forward()]
                return [actions.Forward(), actions.Reported(seconds)]
            case deepgram.UserStartedSpeaking():
                self._turn = Turn.RUNNING
                self._conduct.stir(now)
                return [actions.ClearAudio(), actions.Forward()]
            case deepgram.FunctionCallRequest():
                return self._called(message)
            case deepgram.FunctionCallCancelled(functions=functions):
                return _note_unreadable(message) + self._calls.take_back(functions)
            case deepgram.Error():
                return self._agent_erred(message, now)
            case deepgram.AgentAudioDone():
                self._turn = Turn.QUIET
                self._conduct.stir(now)
                return [actions.Forward(), *(self._maybe_go(now) or self._maybe_roll_over(now))]
            case deepgram.Warning(code=code, description=description):
                return [
                    actions.SendBrowser(message_policy.told(message)),
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
        first = self._agent_request_id is None and self._admitted.takeover is None
        self._agent_request_id = request_id
        self.state = State.APPLYING
        if parked := self._calls.take_parked():
            self._past.append(deepgram.History(function_calls=parked))
        settings = actions.SendSettings(self._settle(self._past))
        return [actions.Forward(), settings] if first else [settings]

    def _applied(self, now: float) -> list[Action]:
        if self.state is not State.APPLYING:
            return [actions.Note("agent_unexpected", f"SettingsApplied while {self.state.value}")]
        told: list[Action] = [] if self._was_open else [actions.Forward()]
        if self._lost_since is not None:
            told = [actions.SendBrowser(relay_events.RelayReconnected())]
            self._lost_since = None
        self.state = State.OPEN
        self._turn = Turn.QUIET
        self._tries.succeed(now)
        self._look_at = now + KEEPALIVE_LOOK
        self._roll_over_at = now + self._times.roll_over_seconds
        return [*told, actions.ReleaseHeld(), actions.Began(self._agent_request_id)]

    @property
    def _was_open(self) -> bool:
        """Whether an agent was ready before: then this one takes its place unseen."""
        return self._tries.was_well

    def _said(self, said: deepgram.ConversationText, told: Action, now: float) -> list[Action]:
        """A line: what is `told` to the browser is stored, each once."""
        self._conduct.stir(now)
        asked = [self._store(said, now), told]
        if said.is_turn:
            self._turn = Turn.RUNNING
            if said.role == "user" and not self._browser.is_away:
                asked.append(actions.AwaitReply())
        return asked

    def _store(self, said: deepgram.ConversationText, now: float) -> Action:
        role, last = said.role, self._last
        takes_turn = last.role != role and (said.is_turn or last.role is None)
        turn = last.turn + takes_turn
        message = MessageSaid(
            id=self._new_id(),
            conversation_id=self._admitted.conversation_id,
            session_id=self._admitted.session_id,
            seq=self._last.seq + 1,
            turn=turn,
            role=role,
            content=said.content,
            at=self._wall + timedelta(seconds=now),
            epoch=self._admitted.epoch,
        )
        # What is said by the way stands in the turn of the other, who goes on with it.
        self._last = _Place(message.seq, turn, role if said.is_turn or takes_turn else last.role)
        self._past.append(deepgram.History(role=role, content=said.content))
        return actions.Store(message)

    def _called(self, request: deepgram.FunctionCallRequest) -> list[Action]:
        if self.state not in (State.APPLYING, State.OPEN):
            # An answer would be something before Settings.
            return [actions.Note("agent_unexpected", f"FunctionCallRequest {self.state.value}")]
        begun = self._calls.begin(request.functions, self._last.seq)
        return _note_unreadable(request) + begun

    # --- the agent is lost -------------------------------------------------------------------

    def _agent_closed(self, code: int, reason: str, now: float) -> list[Action]:
        detail = f"{code} {reason}".strip()
        if code not in LOST_CODES:
            return self._end(EndReason.AGENT_LEFT, detail, code, reason)
        end = self._failure(EndReason.AGENT_LOST, detail, "agent_lost", "was lost")
        return self._lost(now, detail, end)

    def _agent_erred(self, error: deepgram.Error, now: float) -> list[Action]:
        # The description is for us; it may quote the prompt.
        detail = f"{error.code}: {error.description}"

        def end() -> list[Action]:
            told = actions.SendBrowser(message_policy.told(error))
            return [
                told,
                *self._end(EndReason.AGENT_ERROR, detail, relay_events.INTERNAL, error.code),
            ]

        return end() if error.code in FINAL_ERRORS else self._lost(now, detail, end)

    def _failure(
        self, why: EndReason, detail: str, code: str, what: str
    ) -> Callable[[], list[Action]]:
        """The end for want of an agent, told to the browser."""

        def end() -> list[Action]:
            told = relay_events.RelayError(code=code, detail=f"the voice agent {what}")
            reason = code.replace("_", " ")
            return [
                actions.SendBrowser(told),
                *self._end(why, detail, relay_events.AGENT_UNREACHABLE, reason),
            ]

        return end

    def _lost(
        self, now: float, detail: str, end: Callable[[], list[Action]], *, at_least: float = 0.0
    ) -> list[Action]:
        """Dial again in a while, in `at_least` so many seconds; `end` when that was done often
        enough."""
        wait = self._tries.wait(now, self._jitter(), at_least=at_least)
        if wait is None or (not self._was_open and now + wait >= self._ready_by):
            return end()
        told: list[Action] = []
        if self._was_open and self._lost_since is None:
            self._lost_since = now
            told.append(actions.SendBrowser(relay_events.RelayReconnecting()))
        self._calls.park()
        self.state = State.RETRYING
        self._look_at = now + wait
        self._roll_over_at = math.inf
        return [actions.DropAgent(), *told, actions.Note("agent_redialled", detail)]

    @property
    def _is_quiet(self) -> bool:
        """Nobody would be interrupted."""
        return self._turn is Turn.QUIET and not self._calls

    @property
    def _roll_over_deadline(self) -> float:
        """At a turn boundary, or in the middle of a turn when it becomes late."""
        return self._roll_over_at + (0.0 if self._is_quiet else ROLL_OVER_PATIENCE)

    def _maybe_roll_over(self, now: float) -> list[Action]:
        """A new agent before Deepgram ends the session of this one; the browser is not told."""
        if self.state is not State.OPEN or now < self._roll_over_deadline:
            return []
        self._calls.park()
        self.state = State.DIALLING
        self._look_at = now + self._times.setup_seconds
        self._roll_over_at = math.inf
        return [actions.DropAgent(), actions.DialAgent()]

    # --- the browser comes, speaks and goes --------------------------------------------------

    def _introduce(self, received: int, takeover: Takeover | None) -> Action:
        told = relay_events.RelaySession(
            session_id=self._admitted.session_id,
            conversation_id=self._admitted.conversation_id,
            resume_ticket=self._browser.ticket,
            resume_within=self._browser.grace,
            last_seq=None if received else self._admitted.last_seq,
            taken_over=takeover is not None,
            messages=takeover.messages if takeover else [],
        )
        return actions.SendBrowser(told)

    def _browser_closed(self, code: int, reason: str, now: float) -> list[Action]:
        if self._browser.grace and code not in _GOODBYES and code < 3000:
            return self._detach(code, reason, now)
        why = EndReason.BROWSER_LOST if code == relay_events.ABNORMAL else EndReason.BROWSER_LEFT
        return self._end(why, f"{code} {reason}".strip(), code, reason)

    def _detach(self, code: int, reason: str, now: float) -> list[Action]:
        """The agent lives on for a while and what it says is remembered: the browser may return."""
        if self._go_by < math.inf:
            return self._end(EndReason.SHUTDOWN, "browser lost", *_HANG_UP[EndReason.SHUTDOWN])
        self._browser.leave(now)
        away = actions.Note("browser_away", f"{code} {reason}".strip())
        sent = relay_events.sendable(code, instead=relay_events.NORMAL)
        return [actions.DetachBrowser(sent, relay_events.short(reason)), away]

    def _from_browser(
        self,
        message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed,
        now: float,
    ) -> list[Action]:
        refusal = self._conduct.hear(message, now)
        return [actions.Forward()] if refusal is None else self._refuse(refusal, now)

    def _refuse(self, refusal: relay_events.RelayError, now: float) -> list[Action]:
        """Tell the browser; once too often is the end."""
        refused = actions.Refuse(refusal, refusal.code)
        if not self._conduct.is_abuse(now):
            return [refused]
        return [refused, *self._end(EndReason.ABUSE, refusal.code, *_HANG_UP[EndReason.ABUSE])]

    def _look(self, woken: Woken, now: float) -> list[Action]:
        """How the browser behaves, and whether the session is over because of it, or of its age."""
        if over := self._conduct.over(now):
            return self._end(EndReason(over), "", *_HANG_UP[EndReason(over)])
        asked: list[Action] = []
        if notice := self._conduct.notice(now):
            asked.append(actions.SendBrowser(notice))
        if now < self._conduct.look_at:
            return asked
        seen = self._conduct.look(woken.browser_frames, woken.browser_bytes, now)
        if seen.flow is Flow.FLOOD:
            return [*asked, *self._end(EndReason.ABUSE, "flood", *_HANG_UP[EndReason.ABUSE])]
        if seen.changed:
            asked.append(actions.BlockAudio(seen.flow is Flow.BLOCK))
        return asked + (self._refuse(seen.refusal, now) if seen.refusal else [])

    # --- functions ---------------------------------------------------------------------------

    def _function_started(self, event: FunctionStarted, now: float) -> list[Action]:
        if event.say:
            self._calls.promise(event.id, event.say, now + event.say_after)
        told = relay_events.RelayIntent(
            id=event.id,
            call_id=event.call_id,
            intent=event.intent,
            status=IntentStatus.SUBMITTING,
            arguments=event.arguments,
        )
        return [actions.SendBrowser(told)]

    def _function_returned(self, event: FunctionReturned) -> list[Action]:
        told = relay_events.RelayIntent(
            id=event.id,
            call_id=event.call_id,
            intent=event.intent,
            status=event.status,
            arguments=event.arguments,
            result=event.result,
            next_attempt_at=event.next_attempt_at,
        )
        asked: list[Action] = [actions.SendBrowser(told)]
        if finished := self._calls.answer(event.id, event.content):
            self._past.append(deepgram.History(function_calls=[finished]))
            asked.append(respond(finished))
        return asked

    # --- time and the end --------------------------------------------------------------------

    def _go_away(self, now: float) -> list[Action]:
        if self._go_by < math.inf:
            return []  # it was told
        self._go_by = now + GO_AWAY_PATIENCE
        told = relay_events.RelayGoAway(
            resume_ticket=self._browser.ticket, reconnect_within=self._browser.grace
        )
        return [actions.SendBrowser(told), *self._maybe_go(now)]

    def _maybe_go(self, now: float) -> list[Action]:
        """The end, at a turn boundary or when there is no more time, if the relay stops."""
        wait = self._go_by - now
        if wait == math.inf or (wait > 0 and not (self._is_quiet or self._browser.is_away)):
            return []
        return self._end(EndReason.SHUTDOWN, "", *_HANG_UP[EndReason.SHUTDOWN])

    def _woken(self, event: Woken, now: float) -> list[Action]:
        looked = self._look(event, now)
        return looked if self.state is State.CLOSED else looked + self._due(event, now)

    def _due(self, event: Woken, now: float) -> list[Action]:
        if now >= self._browser.until:
            return self._end(EndReason.BROWSER_LOST, "did not come back", relay_events.ABNORMAL, "")
        if now >= self._go_by:
            return self._maybe_go(now)
        if self.state is State.RETRYING and now >= self._look_at:
            self.state = State.DIALLING
            # The tries of the first set-up share its time: a browser waits for all of them.
            self._look_at = now + self._times.setup_seconds if self._was_open else self._ready_by
            return [actions.DialAgent()]
        if self.state is not State.OPEN:
            if now < self._look_at:
                return []
            detail = f"setup timeout while {self.state.value}"
            why = EndReason.SETUP_TIMEOUT
            end = self._failure(why, detail, "setup_timeout", "did not get ready in time")
            return self._lost(now, detail, end)
        asked = self._calls.speak(now)
        if now >= self._look_at:
            self._look_at = now + KEEPALIVE_LOOK
            passed_on = event.browser_frames - event.thrown_away
            if passed_on == self._frames_passed:
                # KeepAlive alone is reported not to do while the agent speaks for long.
                asked += [actions.SendAgent(deepgram.KeepAlive()), actions.SendSilence()]
            self._frames_passed = passed_on
        return asked + self._maybe_roll_over(now)

    def _end(self, why: EndReason, detail: str, code: int, reason: str) -> list[Action]:
        """Close both connections; `code` and `reason` go to the side that did not end it. The agent
        hears a browser's code only where it is one of a client's own: the rest is between us
        two."""
        self.state = State.CLOSED
        own = code in _CLIENTS_OWN or code in _FREE
        left = why is EndReason.BROWSER_LEFT and own
        return [
            actions.CloseBrowser(
                relay_events.sendable(code, instead=relay_events.NORMAL), relay_events.short(reason)
            ),
            actions.CloseAgent(
                code if left else relay_events.NORMAL, relay_events.short(reason) if left else ""
            ),
            actions.End(why.value, detail),
        ]


def _note_unreadable(
    message: deepgram.FunctionCallRequest | deepgram.FunctionCallCancelled,
) -> list[Action]:
    """That entries of a message have no id: nobody can answer them."""
    if not message.unreadable:
        return []
    detail = f"{type(message).__name__}: {message.unreadable} entries without an id"
    return [actions.Note("agent_malformed", detail)]
