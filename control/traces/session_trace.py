"""The spans of one session: a `Watcher` that says in OpenTelemetry's words what it hears.

    session                           from the attach to the end
      dial                            until the agent's WebSocket is open
      settings                        until the agent has applied them
      invoke_agent                    a turn: from the user's first sound to the last of the answer
        execute_tool create_task      a function call, until the model has its answer
          POST /tasks                 one attempt at the Orchestrator: control/traces/traces.py
      flush                           from the end until Postgres has all of it

Names and `gen_ai.` attributes are those of OpenTelemetry's conventions for generative AI where they
fit; what is ours begins with `voice.`. What was said is in none of them, unless `with_content`.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from datetime import timedelta
from uuid import UUID

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from relay.core import actions, events
from relay.core.actions import Action
from relay.core.beginning import Beginning
from relay.core.events import EndReason, Event
from relay.core.records import MessageSaid, SessionEnded
from relay.core.watcher import Counts
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus

PROVIDER = "deepgram"
MAX_NAME = 64  # characters of what a model has made up
NANOSECONDS = 1_000_000_000

# The ends that nobody wanted.
_FAILURES = {
    EndReason.BROWSER_TOO_SLOW,
    EndReason.BAD_SETTINGS,
    EndReason.AGENT_LOST,
    EndReason.AGENT_TOO_SLOW,
    EndReason.AGENT_ERROR,
    EndReason.AGENT_UNREACHABLE,
    EndReason.SETUP_TIMEOUT,
    EndReason.ABUSE,
    EndReason.INTERNAL_ERROR,
}
_PARTS = {"stt_latency": "listen", "ttt_token_latency": "think", "tts_latency": "speak"}


class _Turn(msgspec.Struct, eq=False):
    """One that goes on. `asked_at`: when the user's words came as text, until it is answered;
    `has_answer`: the agent speaks."""

    span: Span
    asked_at: float | None = None
    has_answer: bool = False
    lines: list[MessageSaid] = []


class SessionTrace:
    """Of one session; `calls` and `flushes` are those of the whole process, by the id of the call
    and of the session, for what happens elsewhere."""

    def __init__(
        self,
        tracer: Tracer,
        beginning: Beginning,
        parent: Context,
        *,
        calls: MutableMapping[str, Span],
        flushes: MutableMapping[UUID, Span],
        with_content: bool,
    ) -> None:
        self._tracer = tracer
        self._session_id = beginning.admitted.session_id
        self._zero = beginning.began - timedelta(seconds=beginning.now)
        self._calls, self._flushes = calls, flushes
        self._with_content = with_content
        self._common = {
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.conversation.id": str(beginning.admitted.conversation_id),
        }
        is_deepgram_client = beginning.deepgram_client is not None
        self._root = tracer.start_span(
            "session",
            parent,
            SpanKind.SERVER,
            {
                **self._common,
                "session.id": str(self._session_id),
                "voice.transport": "deepgram" if is_deepgram_client else "relay",
                "voice.epoch": beginning.admitted.epoch,
            },
            start_time=self._at(beginning.now),
        )
        self._open: dict[str, Span] = {}  # beside turns, by name or by id of the call
        self._inside = self._scope = set_span_in_context(self._root)  # of the newest turn
        self._turn: _Turn | None = None

    def _at(self, now: float) -> int:
        """The instant of a monotonic second, in nanoseconds."""
        instant = self._zero + timedelta(seconds=now)
        return int(instant.timestamp() * NANOSECONDS)

    # --- the `Watcher` -----------------------------------------------------------------------

    def drew(self, value: UUID | float | str) -> None:
        """Of no interest here."""

    def counted(self, now: float, counts: Counts) -> None:
        """Of no interest here."""

    def told(self, now: float, event: Event | None, text: bytes, asked: list[Action]) -> None:
        match event:
            case events.FromAgent(message=message):
                self._hear(message, now)
            case events.FromBrowser(message=deepgram.InjectUserMessage()):
                if not any(isinstance(action, actions.Refuse) for action in asked):
                    self._ask(now)
            case events.AgentOpened():
                self._close("dial", now)
            case events.AgentUnreachable(detail=detail):
                self._close("dial", now, error="unreachable", detail=detail)
            case events.AgentClosed(code=code):
                self._note("agent_closed", now, code=code)
            case events.BrowserClosed(code=code):
                self._note("browser_closed", now, code=code)
            case events.BrowserAttached():
                self._note("browser_back", now)
            case events.FunctionReturned(shown=shown, content=content):
                self._answer_call(str(shown.id), shown.status, content, now)
        for action in asked:
            self._see(action, now)

    def replied(self, now: float) -> None:
        if (turn := self._turn) and turn.asked_at is not None:
            seconds = now - turn.asked_at
            turn.asked_at = None
            turn.span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)
            turn.span.add_event("first_audio", timestamp=self._at(now))

    def ended(self, now: float, ended: SessionEnded) -> None:
        self._end_turn("session_ended", now)
        for name in list(self._open):
            self._close(name, now, error="session_ended")
        # Its own is written with the next batch; what is not in Postgres at a stop is on the disk.
        self._flushes[self._session_id] = self._start("flush", SpanKind.CLIENT, self._inside, now)
        self._root.set_attributes(
            {
                "voice.end_reason": ended.reason,
                "voice.browser_close_code": ended.browser_code,
                "voice.agent_close_code": ended.agent_code,
                "voice.agent_seconds": ended.figures.agent_seconds,
            }
        )
        if ended.reason in _FAILURES:
            self._fail(self._root, ended.reason, ended.detail)
        self._root.end(self._at(now))

    # --- the agent speaks, the user speaks ---------------------------------------------------

    def _hear(self, message: deepgram.FromServer, now: float) -> None:
        match message:
            case deepgram.UserStartedSpeaking():
                self._ask(now)
            case deepgram.ConversationText(role="user", is_turn=True):
                self._ask(now).asked_at = now
            case deepgram.ConversationText(role="assistant") | deepgram.AgentStartedSpeaking():
                self._take_turn(now).has_answer = True
            case deepgram.LatencyReport():
                self._report(message)
            case deepgram.AgentAudioDone():
                # That of an answer that was interrupted comes when the user speaks already; after
                # one that announces a call, the answer to that is still to come.
                if self._turn and self._turn.has_answer and not self._has_calls:
                    self._end_turn("answered", now)
            case deepgram.Error(code=code):
                known = code if code in deepgram.KNOWN_CODES else "other"
                self._note("agent_error", now, code=known)

    def _ask(self, now: float) -> _Turn:
        """The user speaks: a turn begins, if this one has an answer."""
        if self._turn and self._turn.has_answer:
            self._end_turn("interrupted", now)
        return self._take_turn(now)

    def _take_turn(self, now: float) -> _Turn:
        """This turn, or one that begins."""
        if self._turn is None:
            span = self._start(
                "invoke_agent",
                SpanKind.CLIENT,
                self._inside,
                now,
                {"gen_ai.operation.name": "invoke_agent", "gen_ai.output.type": "speech"},
            )
            self._turn = _Turn(span)
            self._scope = set_span_in_context(span)
        return self._turn

    def _end_turn(self, outcome: str, now: float) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            return
        turn.span.set_attribute("voice.turn.outcome", outcome)
        if self._with_content:
            turn.span.set_attribute("gen_ai.input.messages", _messages("user", turn.lines))
            turn.span.set_attribute("gen_ai.output.messages", _messages("assistant", turn.lines))
        if outcome == "agent_lost":
            self._fail(turn.span, outcome)
        turn.span.end(self._at(now))

    def _report(self, report: deepgram.LatencyReport) -> None:
        if self._turn is not None:
            for field, part in _PARTS.items():
                if (seconds := getattr(report, field)) is not None:
                    self._turn.span.set_attribute(f"voice.agent.{part}_seconds", seconds)

    # --- what the rules ask for --------------------------------------------------------------

    def _see(self, action: Action, now: float) -> None:
        match action:
            case actions.DialAgent():
                self._open["dial"] = self._start("dial", SpanKind.CLIENT, self._inside, now)
            case actions.SendSettings():
                span = self._start("settings", SpanKind.CLIENT, self._inside, now)
                self._open["settings"] = span
            case actions.ReleaseHeld(agent_request_id=name):
                self._close("settings", now)
                self._root.set_attribute("voice.agent_request", str(name)[:MAX_NAME])
            case actions.DropAgent():
                for name in ("dial", "settings"):
                    self._close(name, now, error="agent_lost")
                if self._turn and self._turn.has_answer:  # else the next agent is asked again
                    self._end_turn("agent_lost", now)
            case actions.Store(message=message) if self._turn is not None:
                self._turn.span.set_attribute("voice.turn", message.turn)
                if self._with_content:
                    self._turn.lines.append(message)
            case actions.CallFunction():
                self._start_call(action, now)
            case actions.CancelFunction(id=row_id):
                self._answer_call(str(row_id), IntentStatus.CANCELLED, "", now)
            case actions.DetachBrowser():
                self._note("browser_away", now)

    @property
    def _has_calls(self) -> bool:
        return bool(self._open.keys() - {"dial", "settings"})

    def _start_call(self, asked: actions.CallFunction, now: float) -> None:
        self._take_turn(now)
        tool, key = asked.call.name[:MAX_NAME], str(asked.id)
        span = self._start(
            f"execute_tool {tool}",
            SpanKind.INTERNAL,
            self._scope,
            now,
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool,
                "gen_ai.tool.type": "function",
                "gen_ai.tool.call.id": asked.call.id[:MAX_NAME],
                "voice.call.id": key,
            },
        )
        if self._with_content:
            span.set_attribute("gen_ai.tool.call.arguments", asked.call.arguments)
        self._open[key] = self._calls[key] = span

    def _answer_call(self, key: str, status: IntentStatus, content: str, now: float) -> None:
        if (span := self._open.get(key)) is None:
            return  # what became of it later
        span.set_attribute("voice.call.status", status.value)
        if self._with_content:
            span.set_attribute("gen_ai.tool.call.result", content)
        is_bad = status in (IntentStatus.REJECTED, IntentStatus.FAILED)
        self._close(key, now, error=status.value if is_bad else None)

    # --- spans -------------------------------------------------------------------------------

    def _start(
        self,
        name: str,
        kind: SpanKind,
        parent: Context,
        now: float,
        more: dict[str, str] | None = None,
    ) -> Span:
        attributes = {**self._common, **(more or {})}
        return self._tracer.start_span(name, parent, kind, attributes, start_time=self._at(now))

    def _close(self, name: str, now: float, *, error: str | None = None, detail: str = "") -> None:
        span = self._open.pop(name, None)
        self._calls.pop(name, None)
        if span is not None:
            if error:
                self._fail(span, error, detail)
            span.end(self._at(now))

    @staticmethod
    def _fail(span: Span, error: str, detail: str = "") -> None:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR, detail or error))

    def _note(self, what: str, now: float, **attributes: str | int) -> None:
        self._root.add_event(what, attributes, self._at(now))


def _messages(role: deepgram.Role, lines: list[MessageSaid]) -> str:
    """Of these lines those of one side, in the JSON of the conventions."""
    parts = [{"type": "text", "content": line.content} for line in lines if line.role == role]
    return json.dumps([{"role": role, "parts": parts}] if parts else [], ensure_ascii=False)
