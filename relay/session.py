"""The rules of one session: event in, actions out.

Pure: no clock, no I/O, no await; time is an argument and `deadline` is when the core wants to be
woken. Audio does not come through here: it goes from leg to leg, and what is for the agent is held
in its lane until `ReleaseHeld`. docs/architecture.md shows the states.

Invariants (tests/relay/test_session.py plays any order of events against them): nothing is sent to
the agent before Settings, Settings go once, each function call gets at most one answer and exactly
one while the session lives, nothing is asked for after `End`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import msgspec

from relay import actions, browser, deepgram, policy
from relay.actions import Action
from relay.opening import Opening
from relay.records import IntentStatus, MessageSaid

# Deepgram wants something every 8 s while no audio flows (docs agent-keep-alive). We look every
# 4 s and say KeepAlive when nothing came since the last look: the gap stays below 8 s.
KEEPALIVE_LOOK = 4.0
# An answer every model needs and no user waits for: more calls at once are a runaway model.
MAX_OPEN_CALLS = 16


class State(Enum):
    DIALLING = "dialling"  # the agent's WebSocket is being opened
    WELCOMING = "welcoming"  # it is open; Welcome has not come
    APPLYING = "applying"  # Settings are sent; SettingsApplied has not come
    OPEN = "open"  # audio passes
    CLOSED = "closed"  # End was asked for; nothing more will be


class EndReason(StrEnum):
    BROWSER_LEFT = "browser_left"
    BROWSER_LOST = "browser_lost"
    BROWSER_TOO_SLOW = "browser_too_slow"
    AGENT_LEFT = "agent_left"
    AGENT_LOST = "agent_lost"
    AGENT_TOO_SLOW = "agent_too_slow"
    AGENT_ERROR = "agent_error"
    AGENT_UNREACHABLE = "agent_unreachable"
    SETUP_TIMEOUT = "setup_timeout"
    HUNG_UP = "hung_up"
    SUPERSEDED = "superseded"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal_error"


# --- events that are not messages ------------------------------------------------------------


class FromAgent(msgspec.Struct, frozen=True):
    message: deepgram.ServerMessage | deepgram.Unknown | deepgram.Malformed


class FromBrowser(msgspec.Struct, frozen=True):
    message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed


class AgentOpened(msgspec.Struct, frozen=True):
    """The agent's WebSocket is open."""


class AgentUnreachable(msgspec.Struct, frozen=True):
    """Dialling failed; `detail` is for operators."""

    detail: str


class AgentClosed(msgspec.Struct, frozen=True):
    """`code` as seen: 1005 without a status, 1006 without a close frame."""

    code: int
    reason: str


class BrowserClosed(msgspec.Struct, frozen=True):
    """`code` as seen: 1005 without a status, 1006 without a close frame."""

    code: int
    reason: str


class HangUp(msgspec.Struct, frozen=True):
    """We end it: `reason` is one of those that `_HANG_UP` lists."""

    reason: EndReason


class Woken(msgspec.Struct, frozen=True):
    """The deadline is reached; `browser_frames` counts audio frames of the browser so far."""

    browser_frames: int


class MessageStored(msgspec.Struct, frozen=True):
    """Postgres has the message."""

    message: MessageSaid


class FunctionStarted(msgspec.Struct, frozen=True):
    """The call is valid and on its way; `say` is to be said if it takes over `say_after` s."""

    call_id: str
    intent: str
    arguments: Any
    say: str | None
    say_after: float


class FunctionReturned(msgspec.Struct, frozen=True):
    """What came of a call; `content` is the text for the model."""

    call_id: str
    intent: str | None
    status: IntentStatus
    arguments: Any
    result: Any
    content: str


Event = (
    FromAgent
    | FromBrowser
    | AgentOpened
    | AgentUnreachable
    | AgentClosed
    | BrowserClosed
    | HangUp
    | Woken
    | MessageStored
    | FunctionStarted
    | FunctionReturned
)

# What a leaving client may say of itself (RFC 6455 section 7.4.1); 3000 and up are free for all.
_CLIENTS_OWN = (browser.NORMAL, browser.GOING_AWAY)

# What the other side is told when we hang up: close code, reason.
_HANG_UP = {
    EndReason.HUNG_UP: (browser.NORMAL, "hung up"),
    # Not a code that asks to come again: two clients would take turns for ever.
    EndReason.SUPERSEDED: (browser.NORMAL, "continued elsewhere"),
    EndReason.SHUTDOWN: (browser.RESTART, "restarting"),
    EndReason.BROWSER_TOO_SLOW: (browser.POLICY, "not reading"),
    EndReason.AGENT_TOO_SLOW: (browser.AGENT_UNREACHABLE, "agent not reading"),
    EndReason.INTERNAL_ERROR: (browser.INTERNAL, "internal error"),
}


class _OpenCall(msgspec.Struct):
    """A call that has no answer yet; `say_at` is None once there is nothing more to say."""

    call: deepgram.FunctionCall
    say: str | None = None
    say_at: float | None = None


class _Place(msgspec.Struct):
    """Where the last message of the conversation stands."""

    seq: int
    turn: int
    role: deepgram.Role | None


class Session:
    """One live voice connection of a conversation, from attach to hang-up."""

    def __init__(
        self,
        opening: Opening,
        settings: deepgram.Settings,
        *,
        now: float,
        began: datetime,
        setup_seconds: float,
        new_id: Callable[[], UUID],
    ) -> None:
        """`began` is the wall-clock instant (UTC) of `now`; `new_id` gives a fresh UUID a call."""
        self.state = State.DIALLING
        self._opening = opening
        self._settings: deepgram.Settings | None = settings
        self._epoch = began - timedelta(seconds=now)
        self._new_id = new_id
        self._last = _Place(opening.last_seq, opening.last_turn, opening.last_role)
        self._calls: dict[str, _OpenCall] = {}
        self._answered: set[str] = set()
        self._look_at = now + setup_seconds
        self._frames_seen = 0
        self._agent_request_id: str | None = None

    def __repr__(self) -> str:
        return f"<Session {self.state.name} calls={len(self._calls)} last_seq={self._last.seq}>"

    @property
    def deadline(self) -> float | None:
        """The monotonic second at which `Woken` is wanted; None once closed."""
        if self.state is State.CLOSED:
            return None
        return min([self._look_at, *(c.say_at for c in self._calls.values() if c.say_at)])

    def attached(self) -> list[Action]:
        """The browser's WebSocket is open: what it is told first."""
        return [
            actions.SendBrowser(
                browser.RelaySession(
                    session_id=self._opening.session_id,
                    conversation_id=self._opening.conversation_id,
                )
            )
        ]

    def handle(self, event: Event, now: float) -> list[Action]:
        """Apply one event at monotonic second `now`; what has to be done, in order."""
        if self.state is State.CLOSED:
            return []
        match event:
            case FromAgent(message):
                return self._from_agent(message, now)
            case FromBrowser(message):
                return self._from_browser(message)
            case AgentOpened():
                if self.state is State.DIALLING:
                    self.state = State.WELCOMING
                return []
            case AgentUnreachable(detail):
                told = browser.RelayError(
                    code="agent_unreachable", detail="the voice agent cannot be reached"
                )
                return [
                    actions.SendBrowser(told),
                    *self._end(
                        EndReason.AGENT_UNREACHABLE,
                        detail,
                        browser.AGENT_UNREACHABLE,
                        "agent unreachable",
                    ),
                ]
            case AgentClosed(code, reason):
                return self._agent_closed(code, reason)
            case BrowserClosed(code, reason):
                why = EndReason.BROWSER_LOST if code == browser.ABNORMAL else EndReason.BROWSER_LEFT
                return self._end(why, f"{code} {reason}".strip(), code, reason)
            case HangUp(why):
                return self._end(why, "", *_HANG_UP[why])
            case Woken(browser_frames):
                return self._woken(browser_frames, now)
            case MessageStored(message):
                saved = browser.RelayMessageSaved(
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
        message: deepgram.ServerMessage | deepgram.Unknown | deepgram.Malformed,
        now: float,
    ) -> list[Action]:
        match message:
            case deepgram.Welcome(request_id=request_id):
                return self._welcomed(request_id)
            case deepgram.SettingsApplied():
                return self._applied(now)
            case deepgram.ConversationText(role=role, content=content):
                stored = self._store(role, content, now)
                if role == "user":
                    return [stored, actions.Forward(), actions.AwaitReply()]
                return [stored, actions.Forward()]
            case deepgram.LatencyReport(total_latency=seconds):
                if seconds is None:
                    return [actions.Forward()]
                return [actions.Forward(), actions.Reported(seconds)]
            case deepgram.UserStartedSpeaking():
                return [actions.ClearAudio(), actions.Forward()]
            case deepgram.FunctionCallRequest(functions=functions):
                return self._called(functions)
            case deepgram.FunctionCallCancelled(functions=functions):
                # The model took it back and wants no response. What the Orchestrator was already
                # asked stays asked; the record of the call says what came of it.
                for cancelled in functions:
                    if self._calls.pop(cancelled.id, None):
                        self._answered.add(cancelled.id)
                return []
            case deepgram.Error(code=code, description=description):
                # The description is for us; it may quote the prompt.
                return [
                    actions.SendBrowser(policy.told(message)),
                    *self._end(
                        EndReason.AGENT_ERROR, f"{code}: {description}", browser.INTERNAL, code
                    ),
                ]
            case deepgram.Warning(code=code, description=description):
                return [
                    actions.SendBrowser(policy.told(message)),
                    actions.Note("agent_warning", f"{code}: {description}"),
                ]
            case deepgram.History(function_calls=calls):
                return [] if calls is not None else [actions.Forward()]
            case deepgram.FunctionCallResponse():
                return []  # the echo of our own answer (2026), no browser's business
            case deepgram.Malformed(type=kind, reason=reason):
                passes = policy.malformed_may_pass(kind)
                note = actions.Note("agent_malformed", f"{kind}: {reason}")
                return [note, actions.Forward()] if passes else [note]
            case (  # exhaustive
                deepgram.EndOfTurn()
                | deepgram.AgentThinking()
                | deepgram.AgentStartedSpeaking()
                | deepgram.AgentAudioDone()
                | deepgram.ListenUpdated()
                | deepgram.ThinkUpdated()
                | deepgram.SpeakUpdated()
                | deepgram.PromptUpdated()
                | deepgram.InjectionRefused()
                | deepgram.Unknown()
            ):
                return [actions.Forward()]

    def _welcomed(self, request_id: str) -> list[Action]:
        self._agent_request_id = request_id
        if self.state is not State.WELCOMING:
            return [actions.Note("agent_unexpected", "Welcome a second time")]
        self.state = State.APPLYING
        # They are long and never needed again: a session does not keep them.
        settings, self._settings = self._settings, None
        return [actions.Forward(), actions.SendSettings(settings)] if settings else []

    def _applied(self, now: float) -> list[Action]:
        if self.state is not State.APPLYING:
            return [actions.Note("agent_unexpected", f"SettingsApplied while {self.state.value}")]
        self.state = State.OPEN
        self._look_at = now + KEEPALIVE_LOOK
        return [
            actions.Forward(),
            actions.ReleaseHeld(),
            actions.Began(self._agent_request_id),
        ]

    def _store(self, role: deepgram.Role, content: str, now: float) -> Action:
        turn = self._last.turn + (self._last.role != role)
        message = MessageSaid(
            id=self._new_id(),
            conversation_id=self._opening.conversation_id,
            session_id=self._opening.session_id,
            seq=self._last.seq + 1,
            turn=turn,
            role=role,
            content=content,
            at=self._epoch + timedelta(seconds=now),
        )
        self._last = _Place(message.seq, turn, role)
        return actions.Store(message)

    def _called(self, functions: list[deepgram.FunctionCall]) -> list[Action]:
        if self.state not in (State.APPLYING, State.OPEN):
            # An answer would be something before Settings.
            return [actions.Note("agent_unexpected", f"FunctionCallRequest {self.state.value}")]
        asked: list[Action] = []
        for call in functions:
            # Entries with client_side false run at Deepgram; an id that we know is a repetition.
            if not call.client_side or call.id in self._calls or call.id in self._answered:
                continue
            if len(self._calls) >= MAX_OPEN_CALLS:
                self._answered.add(call.id)
                asked.append(self._answer(call, policy.too_many_calls(MAX_OPEN_CALLS)))
                continue
            self._calls[call.id] = _OpenCall(call)
            asked.append(actions.CallFunction(call, self._last.seq))
        return asked

    def _agent_closed(self, code: int, reason: str) -> list[Action]:
        detail = f"{code} {reason}".strip()
        if code == browser.ABNORMAL:
            lost = "agent connection lost"
            return self._end(EndReason.AGENT_LOST, detail, browser.AGENT_UNREACHABLE, lost)
        return self._end(EndReason.AGENT_LEFT, detail, code, reason)

    # --- the browser speaks ------------------------------------------------------------------

    def _from_browser(
        self, message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed
    ) -> list[Action]:
        refusal = policy.refusal(message)
        if refusal is not None:
            return [actions.SendBrowser(refusal)]
        return [actions.Forward()]

    # --- functions ---------------------------------------------------------------------------

    def _function_started(self, event: FunctionStarted, now: float) -> list[Action]:
        if (waiting := self._calls.get(event.call_id)) and event.say:
            waiting.say, waiting.say_at = event.say, now + event.say_after
        told = browser.RelayIntent(
            call_id=event.call_id,
            intent=event.intent,
            status=IntentStatus.SUBMITTING,
            arguments=event.arguments,
        )
        return [actions.SendBrowser(told)]

    def _function_returned(self, event: FunctionReturned) -> list[Action]:
        told = browser.RelayIntent(
            call_id=event.call_id,
            intent=event.intent,
            status=event.status,
            arguments=event.arguments,
            result=event.result,
        )
        asked: list[Action] = [actions.SendBrowser(told)]
        if waiting := self._calls.pop(event.call_id, None):
            self._answered.add(event.call_id)
            asked.append(self._answer(waiting.call, event.content))
        return asked

    @staticmethod
    def _answer(call: deepgram.FunctionCall, content: str) -> Action:
        response = deepgram.FunctionCallResponse(
            id=call.id,
            name=call.name,
            content=content,
            thought_signature=call.thought_signature,
        )
        return actions.SendAgent(response)

    # --- time and the end --------------------------------------------------------------------

    def _woken(self, browser_frames: int, now: float) -> list[Action]:
        if self.state is not State.OPEN:
            if now < self._look_at:
                return []
            told = browser.RelayError(
                code="setup_timeout", detail="the voice agent did not get ready in time"
            )
            detail = f"while {self.state.value}"
            return [
                actions.SendBrowser(told),
                *self._end(
                    EndReason.SETUP_TIMEOUT, detail, browser.AGENT_UNREACHABLE, "setup timeout"
                ),
            ]
        asked: list[Action] = []
        for waiting in self._calls.values():
            if waiting.say and waiting.say_at is not None and now >= waiting.say_at:
                waiting.say_at = None
                filler = deepgram.InjectAgentMessage(message=waiting.say, behavior="queue")
                asked.append(actions.SendAgent(filler))
        if now >= self._look_at:
            self._look_at = now + KEEPALIVE_LOOK
            if browser_frames == self._frames_seen:
                asked.append(actions.SendAgent(deepgram.KeepAlive()))
            self._frames_seen = browser_frames
        return asked

    def _end(self, why: EndReason, detail: str, code: int, reason: str) -> list[Action]:
        """Close both legs; `code` and `reason` go to the side that did not end it. The agent hears
        a browser's code only where it is one of a client's own: the rest is between us two."""
        self.state = State.CLOSED
        left = why is EndReason.BROWSER_LEFT and (code in _CLIENTS_OWN or code >= 3000)
        return [
            actions.CloseBrowser(
                browser.sendable(code, instead=browser.NORMAL), browser.short(reason)
            ),
            actions.CloseAgent(
                code if left else browser.NORMAL, browser.short(reason) if left else ""
            ),
            actions.End(why.value, detail),
        ]
