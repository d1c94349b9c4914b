"""The direct transport: the client speaks to Deepgram itself, with a temporary token.

Control plane. Off unless a setting allows it, because whoever begins such a session is shown the
prompt and the functions. What is said and called is then reported over REST, and goes the same way
as that of a relayed session: the same tables, the same registry, the same outbox.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID, uuid5

import msgspec
from msgspec.structs import replace

from config.agent import Audio
from config.current import Current
from config.errors import ConfigError
from config.function_arguments import MAX_LENGTH, ArgumentsError
from config.intents import Registry
from config.loader import Configuration
from config.settings import Settings
from control.db import direct_sessions, sessions
from control.db.direct_sessions import Reporting
from control.db.pool import Connection
from control.db.rows import History, Message, NewSession
from control.db.store import Store
from control.errors import Mistake, ProblemError, require
from control.sessions.deepgram_token import Minter
from control.sessions.meter import Meter
from control.sessions.takeover import Settle, history_for_agent, take_over
from relay.core.admitted import Admitted
from relay.core.events import FunctionReturned, FunctionStarted
from relay.core.function_calls import MAX_OPEN_CALLS
from relay.core.user_context import AskContext, UserContext
from relay.functions import submission
from relay.functions.executor import LEASE_MARGIN, Call, Functions, check_call
from relay.functions.submission import Rejected
from relay.live import agent_settings
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus
from relay.transport.egress import Egress

MAX_CONTENT = 16_000  # characters of one message
_REFUSALS = {
    "relay": ("not_direct", "the session is relayed: the relay stores it"),
    "over": ("session_ended", "the session is over; begin another"),
    "superseded": ("superseded", "the conversation is continued elsewhere"),
}
RETRY_SECONDS = 60  # what Retry-After says: a session ends some time
WAIT_MARGIN = 5.0  # beyond the longest time-out of an intent: there is an answer by then


class DirectBegun(msgspec.Struct, frozen=True, kw_only=True):
    """Open `agent_url` with the subprotocols `bearer` and `access_token`, then send `settings`.

    The token counts for opening the connection, until `expires_at`. `messages` are the newest
    stored ones of a resumed conversation, in order; `settings` has them already. `timezone` and
    `warnings` are as of `SessionBegun`. `recorded` is false: the audio does not pass here.
    """

    session_id: UUID
    conversation_id: UUID
    agent_url: str
    access_token: str
    expires_at: datetime
    settings: dict[str, Any]
    audio: Audio
    timezone: str
    messages: list[Message]
    warnings: list[Mistake] = []
    recorded: bool = False


class ReportedMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `ConversationText` as it came; `id` is made by the client, once for each."""

    id: UUID
    session_id: UUID
    role: deepgram.Role
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CONTENT)]


class ReportedCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of a `FunctionCallRequest` as it came; `arguments` is JSON in a string."""

    session_id: UUID
    id: Annotated[str, msgspec.Meta(max_length=200)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    arguments: Annotated[str, msgspec.Meta(max_length=MAX_LENGTH)] = "{}"


class CallAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`content` is what a `FunctionCallResponse` with this `call_id` has to say to the agent."""

    id: UUID
    call_id: str
    intent: str | None
    status: IntentStatus
    content: str


Known = tuple[str, str | None, str | None]
"""Status, intent and response of a call."""


class Direct:
    """Begins sessions and takes their reports."""

    def __init__(
        self,
        settings: Settings,
        current: Current,
        store: Store,
        settle: Settle,
        functions: Functions,
        egress: Egress,
        meter: Meter,
        ask: AskContext | None = None,
    ) -> None:
        """Raises `ConfigError` when a client would see a key."""
        self._store = store
        self._current = current
        self._functions = functions
        self._ask = ask
        self._meter = meter
        self._minter = Minter(
            settings.deepgram_api_url,
            current.reveal_key,
            egress,
            seconds=settings.ticket_seconds,
        )
        self.running = self._minter.running
        self._settings = settings
        self._settle = settle
        self._running: dict[UUID, asyncio.Future[Known]] = {}
        refuse_credentials(settings, current.configuration)

    def check_enabled(self) -> None:
        """Raises `ProblemError` unless the transport is allowed."""
        if not self._settings.direct_transport:
            raise ProblemError(403, "transport_not_enabled", "the direct transport is not enabled")

    async def begin(
        self, session: NewSession, *, resume: bool, warnings: list[Mistake]
    ) -> DirectBegun:
        """Nobody attaches to this session: its ticket expires as it begins."""
        self.check_enabled()
        async with self._store.reading() as connection:  # Deepgram need not be asked for nothing
            await self._check_room(connection, session)
        token = await self._minter.mint()
        session = replace(session, transport="direct", ticket_seconds=0.0)

        async def check(connection: Connection) -> None:
            await direct_sessions.begin_alone(connection)
            await self._check_room(connection, session)

        began = await sessions.create_session(self._store, session, check, resume=resume)
        began = require(began, "conversation")
        history = History()
        if resume:
            _, history = await take_over(
                self._store, self._settle, session.id, session.conversation_id
            )
        admitted = Admitted(
            session_id=session.id,
            conversation_id=session.conversation_id,
            user_id=session.user_id,
            timezone=session.timezone,
            audio=session.audio,
            voice=session.voice,
            language=session.language,
        )
        context = await self._ask(admitted) if self._ask else None
        settings = agent_settings.compose(
            self._current.configuration,
            admitted,
            history_for_agent(history),
            context or UserContext(),
        )
        return DirectBegun(
            session_id=session.id,
            conversation_id=session.conversation_id,
            agent_url=self._settings.deepgram_agent_url,
            access_token=token.access_token,
            expires_at=began + timedelta(seconds=token.expires_in),
            settings=msgspec.json.decode(deepgram.encode(settings)),
            audio=session.audio,
            timezone=session.timezone,
            messages=history.messages,
            warnings=warnings,
        )

    async def _check_room(self, connection: Connection, session: NewSession) -> None:
        """Raises `Refused` if there are as many direct sessions as there may be, or the minutes of
        today are used up."""
        await self._meter.check(connection, session.user_id)
        limits = self._settings
        of_all, of_user = await direct_sessions.count_others(
            connection, session.user_id, session.conversation_id, idle=limits.idle_seconds
        )
        if limits.sessions and of_all >= limits.sessions:
            detail = "there are as many direct sessions as there may be; try again later"
            raise ProblemError(503, "sessions", detail, retry_after=RETRY_SECONDS)
        most = limits.sessions_per_user
        if most and of_user >= most:
            wanted = f"expected at most {most} direct sessions of one user at a time"
            detail = f"{wanted}; end one with DELETE, or try again later"
            raise ProblemError(429, "user_sessions", detail, retry_after=RETRY_SECONDS)

    # --- messages ----------------------------------------------------------------------------

    async def add_message(
        self, user_id: str, conversation_id: UUID, said: ReportedMessage
    ) -> tuple[Message, bool]:
        """The stored message, and whether it is new."""
        self.check_enabled()
        async with self._store.transaction() as connection:
            reporting = await direct_sessions.enter(
                connection, said.session_id, conversation_id, user_id=user_id
            )
            found = await direct_sessions.find_message(connection, said.id)
            if found is not None and reporting is not None:  # also when the session is over by now
                place, message = found
                same = (place, message.session_id, message.role)
                if same == (conversation_id, said.session_id, said.role):
                    return message, False
                raise ProblemError(409, "id_taken", "this id belongs to another message")
            message = await direct_sessions.add_message(
                connection,
                _require_direct(reporting),
                message_id=said.id,
                conversation_id=conversation_id,
                session_id=said.session_id,
                role=said.role,
                content=said.content,
            )
        return message, True

    # --- calls -------------------------------------------------------------------------------

    async def call(self, user_id: str, conversation_id: UUID, asked: ReportedCall) -> CallAnswer:
        """Submit a call once, however often it is reported; wait for what the model is told."""
        self.check_enabled()
        # Models use an id again: with another name or other arguments it is another call.
        row_id = uuid5(asked.session_id, json.dumps([asked.id, asked.name, asked.arguments]))
        registry = self._current.configuration.registry
        judged = await _judge(registry, asked)
        async with self._store.transaction() as connection:
            reporting = _require_direct(
                await direct_sessions.enter(
                    connection, asked.session_id, conversation_id, user_id=user_id
                )
            )
            call = Call(
                id=row_id,
                admitted=Admitted(
                    session_id=asked.session_id,
                    conversation_id=conversation_id,
                    user_id=user_id,
                    timezone="UTC",
                    audio=Audio(),
                ),
                function=deepgram.FunctionCall(
                    id=asked.id, name=asked.name, arguments=asked.arguments
                ),
                intent=registry.by_function(asked.name),
                after_seq=reporting.numbering.last_seq,
                report=partial(self._hear, asked.session_id),
            )
            record = replace(call.record(IntentStatus.SUBMITTING), **judged)
            stored = await direct_sessions.add_call(connection, record)
            if stored is None:
                await _check_open(connection, asked.session_id, conversation_id)
        if stored is None and record.status is IntentStatus.SUBMITTING:
            self._running[row_id] = asyncio.get_running_loop().create_future()
            self._functions.start(
                registry,
                call.admitted,
                call.function,
                call.after_seq,
                call.report,
                row_id=row_id,
            )
        status, intent, content = stored or (record.status, record.intent, record.response)
        if running := self._running.get(row_id):
            with suppress(TimeoutError):  # only when we stop: then the outbox has it
                async with asyncio.timeout(_patience(registry)):
                    # Who asked may leave; the call goes on.
                    status, intent, content = await asyncio.shield(running)
        return CallAnswer(
            id=row_id,
            call_id=asked.id,
            intent=intent,
            status=IntentStatus(status),
            content=content or submission.saved("it is being submitted"),
        )

    def _hear(self, session_id: UUID, event: FunctionStarted | FunctionReturned) -> None:
        if isinstance(event, FunctionReturned):
            answer = self._running.pop(event.shown.id)
            answer.set_result((event.shown.status, event.shown.intent, event.content))
            self._functions.forget(session_id)  # the history has what comes later


async def _judge(registry: Registry, asked: ReportedCall) -> dict[str, Any]:
    """What the first record of a call says beside what was asked."""
    try:
        intent, _ = await check_call(registry, asked.name, asked.arguments)
    except ArgumentsError as error:
        status, result, response = submission.answer(Rejected(str(error), None, 0))
        return {"status": status, "result": result, "response": response, "error": str(error)}
    # As executor.py notes it: should we die now, the outbox has it.
    return {"due_in": intent.timeout + LEASE_MARGIN, "in_doubt": True}


def _patience(registry: Registry) -> float:
    """There is an answer by then."""
    return max((intent.timeout for intent in registry.intents), default=0.0) + WAIT_MARGIN


def _require_direct(reporting: Reporting | None) -> Reporting:
    """Raises `ProblemError` when nothing may be reported for this session."""
    reporting = require(reporting, "session")
    if reporting.standing != "direct":
        code, detail = _REFUSALS[reporting.standing]
        raise ProblemError(409, code, detail)
    return reporting


def refuse_credentials(settings: Settings, configuration: Configuration) -> None:
    """Raises `ConfigError` when a client of the direct transport would see a key."""
    if settings.direct_transport and _has_credentials(configuration):
        wanted = "expected no credentials in agent.yaml beside it, got some"
        advice = "the direct transport would show them to browsers"
        raise ConfigError([f"RELAY_DIRECT_TRANSPORT: {wanted}; {advice}"])


async def _check_open(connection: Connection, session_id: UUID, conversation_id: UUID) -> None:
    """With the newest call among them. Raises `ProblemError`, and that call is not stored."""
    count = await direct_sessions.count_open(connection, conversation_id, session_id)
    if count > MAX_OPEN_CALLS:
        wanted = f"expected at most {MAX_OPEN_CALLS} open calls of a session"
        detail = f"{wanted}; report it again when one is answered"
        raise ProblemError(429, "open_calls", detail, retry_after=1)


def _has_credentials(configuration: Configuration) -> bool:
    day = date.min
    return configuration.make_settings(day, masked=True) != configuration.make_settings(day)
