"""The direct transport: the client speaks to Deepgram itself, with a temporary token.

Control plane. Off unless a setting allows it, because whoever begins such a session is shown the
prompt and the functions. What is said and called is then reported over REST, and goes the same way
as that of a relayed session: the same tables, the same registry, the same outbox.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID, uuid5

import msgspec
from uuid_utils.compat import uuid7

from config.agent import Audio, agent_section
from config.errors import ConfigError
from config.function_arguments import MAX_LENGTH, ArgumentsError
from config.intents import Intent
from config.loader import Configuration
from control.db import direct_sessions, sessions
from control.db.batch_writer import Connection
from control.db.direct_sessions import Reporting
from control.db.rows import NO_HISTORY, History, Message, NewSession
from control.db.store import Store
from control.errors import RETRY_SECONDS, Mistake, ProblemError, not_found
from control.sessions.deepgram_token import Minter, TokenUnavailable
from control.sessions.history import history_for_agent
from control.sessions.takeover import SessionTakeover
from relay.core.admitted import Admitted
from relay.core.events import FunctionReturned, FunctionStarted
from relay.core.records import IntentCalled
from relay.functions import submission
from relay.functions.executor import LEASE_MARGIN, Functions, check_call
from relay.functions.submission import Rejected
from relay.live import agent_settings
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus

MAX_CONTENT = 16_000  # characters of one message
WAIT_MARGIN = 5.0  # beyond the longest time-out of an intent: there is an answer by then


class DirectBegun(msgspec.Struct, frozen=True, kw_only=True):
    """Open `agent_url` with the subprotocols `bearer` and `access_token`, then send `settings`.

    The token counts for opening the connection, until `expires_at`. `messages` are the newest
    stored ones of a resumed conversation, in order; `settings` has them already. `timezone` and
    `warnings` are as of `SessionBegun`.
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


class Direct:
    """Begins sessions and takes their reports."""

    def __init__(
        self,
        store: Store,
        configuration: Configuration,
        functions: Functions,
        minter: Minter,
        *,
        allowed: bool,
        agent_url: str,
        settle: Callable[[UUID], Awaitable[bool]],
    ) -> None:
        """`settle` is that of `SessionTakeover`. Raises `ConfigError` when a client would see a
        key."""
        self._store = store
        self._configuration = configuration
        self._functions = functions
        self._minter = minter
        self._allowed = allowed
        self._agent_url = agent_url
        self._takeover = SessionTakeover(store, settle)
        longest = max((intent.timeout for intent in configuration.registry.intents), default=0.0)
        self._patience = longest + WAIT_MARGIN
        self._running: dict[UUID, asyncio.Future[CallAnswer]] = {}
        if allowed and _has_credentials(configuration):
            wanted = "expected no credentials in agent.yaml beside it, got some"
            advice = "the direct transport would show them to browsers"
            raise ConfigError([f"RELAY_DIRECT_TRANSPORT: {wanted}; {advice}"])

    def require(self) -> None:
        """Raises `ProblemError` unless the transport is allowed."""
        if not self._allowed:
            raise ProblemError(403, "transport_not_enabled", "the direct transport is not enabled")

    async def begin(
        self, user_id: str, conversation_id: UUID | None, timezone: str, audio: Audio
    ) -> DirectBegun:
        """A session in a new conversation, or in one that the user has."""
        self.require()
        session = NewSession(
            id=uuid7(),
            conversation_id=conversation_id or uuid7(),
            user_id=user_id,
            ticket_hash=secrets.token_bytes(32),  # of no ticket: nobody attaches to this one
            ticket_seconds=0.0,
            timezone=timezone,
            audio=msgspec.json.encode(audio),
        )
        try:
            token = await self._minter.mint()
        except TokenUnavailable as error:
            detail = "the agent gives no token at the moment; try again"
            raise ProblemError(
                503, "token_unavailable", detail, retry_after=RETRY_SECONDS
            ) from error
        resume = conversation_id is not None
        if await sessions.create_session(self._store, session, resume=resume) is None:
            raise not_found("conversation")
        async with self._store.transaction() as connection:
            began = await direct_sessions.begin(connection, session.id, session.conversation_id)
        history = NO_HISTORY
        if resume:
            _, history = await self._takeover.complete(session.id, session.conversation_id)
        return DirectBegun(
            session_id=session.id,
            conversation_id=session.conversation_id,
            agent_url=self._agent_url,
            access_token=token.access_token,
            expires_at=began + timedelta(seconds=token.expires_in),
            settings=self._make_settings(session, audio, history),
            audio=audio,
            timezone=timezone,
            messages=history.messages,
        )

    def _make_settings(self, session: NewSession, audio: Audio, history: History) -> dict[str, Any]:
        admitted = _make_admitted(session.id, session.conversation_id, session.user_id, audio)
        admitted = msgspec.structs.replace(admitted, timezone=session.timezone)
        settings = agent_settings.compose(self._configuration, admitted, history_for_agent(history))
        told: dict[str, Any] = msgspec.json.decode(deepgram.encode(settings))
        return told

    # --- messages ----------------------------------------------------------------------------

    async def add_message(
        self, user_id: str, conversation_id: UUID, said: ReportedMessage
    ) -> tuple[Message, bool]:
        """The stored message, and whether it is new."""
        self.require()
        async with self._store.transaction() as connection:
            reporting = await direct_sessions.enter(
                connection, said.session_id, conversation_id, user_id=user_id
            )
            found = await direct_sessions.find_message(connection, said.id)
            if found is not None and reporting is not None:
                place, message = found
                same = (message.session_id, message.role) == (said.session_id, said.role)
                if place == conversation_id and same:
                    return message, False
                raise ProblemError(409, "id_taken", "this id belongs to another message")
            reporting = _require_direct(reporting)
            message = await direct_sessions.add_message(
                connection,
                reporting,
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
        self.require()
        # Models use an id again: with another name or other arguments it is another call.
        row_id = uuid5(asked.session_id, json.dumps([asked.id, asked.name, asked.arguments]))
        running = self._running.get(row_id)
        if running is None:
            running = await self._start(user_id, conversation_id, asked, row_id)
        else:
            async with self._store.transaction() as connection:
                await _enter(connection, user_id, conversation_id, asked.session_id)
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(running)  # who asked may leave; the call goes on
        except TimeoutError:  # only when we stop: then the outbox has it
            content = submission.saved("the relay stops")
            return _answer(row_id, asked, None, IntentStatus.SUBMITTING, content)

    async def _start(
        self, user_id: str, conversation_id: UUID, asked: ReportedCall, row_id: UUID
    ) -> asyncio.Future[CallAnswer]:
        answer: asyncio.Future[CallAnswer] = asyncio.get_running_loop().create_future()
        intent, rejected = await self._check(asked)
        async with self._store.transaction() as connection:
            reporting = await _enter(connection, user_id, conversation_id, asked.session_id)
            record = _make_record(asked, conversation_id, row_id, intent, rejected, reporting)
            is_new = await direct_sessions.add_call(connection, record)
            if not is_new:
                status, name, response = await direct_sessions.find_call(connection, row_id)
        running = self._running.get(row_id)  # somebody else may have come meanwhile
        if running is not None:
            return running
        if not is_new:
            content = response or submission.saved("it is being submitted")
            answer.set_result(_answer(row_id, asked, name, IntentStatus(status), content))
            return answer
        if rejected is not None:
            content = record.response or ""
            answer.set_result(_answer(row_id, asked, record.intent, record.status, content))
            return answer
        self._submit(user_id, conversation_id, asked, row_id, reporting, answer)
        return answer

    def _submit(
        self,
        user_id: str,
        conversation_id: UUID,
        asked: ReportedCall,
        row_id: UUID,
        reporting: Reporting,
        answer: asyncio.Future[CallAnswer],
    ) -> None:
        self._running[row_id] = answer
        answer.add_done_callback(lambda _: self._running.pop(row_id, None))
        admitted = _make_admitted(asked.session_id, conversation_id, user_id, Audio())

        def report(event: FunctionStarted | FunctionReturned) -> None:
            if isinstance(event, FunctionReturned) and not answer.done():
                shown = event.shown
                answer.set_result(_answer(row_id, asked, shown.intent, shown.status, event.content))
                self._functions.forget(asked.session_id)  # the history has what comes later

        call = deepgram.FunctionCall(id=asked.id, name=asked.name, arguments=asked.arguments)
        self._functions.start(admitted, call, reporting.numbering.last_seq, report, row_id=row_id)

    async def _check(self, asked: ReportedCall) -> tuple[Intent | None, Rejected | None]:
        """The intent, and why the call cannot be."""
        registry = self._configuration.registry
        try:
            intent, _ = await check_call(registry, asked.name, asked.arguments)
        except ArgumentsError as error:
            return registry.by_function(asked.name), Rejected(str(error), None, 0)
        return intent, None


async def _enter(
    connection: Connection, user_id: str, conversation_id: UUID, session_id: UUID
) -> Reporting:
    """Raises `ProblemError` when nothing may be reported for this session."""
    return _require_direct(
        await direct_sessions.enter(connection, session_id, conversation_id, user_id=user_id)
    )


def _require_direct(reporting: Reporting | None) -> Reporting:
    if reporting is None:
        raise not_found("session")
    match reporting.standing:
        case "relay":
            raise ProblemError(409, "not_direct", "the session is relayed: the relay stores it")
        case "over":
            raise ProblemError(409, "session_ended", "the session is over; begin another")
        case "superseded":
            raise ProblemError(409, "superseded", "the conversation is continued elsewhere")
        case "direct":
            return reporting


def _make_admitted(session_id: UUID, conversation_id: UUID, user_id: str, audio: Audio) -> Admitted:
    return Admitted(
        session_id=session_id,
        conversation_id=conversation_id,
        user_id=user_id,
        timezone="UTC",
        audio=audio,
    )


def _make_record(
    asked: ReportedCall,
    conversation_id: UUID,
    row_id: UUID,
    intent: Intent | None,
    rejected: Rejected | None,
    reporting: Reporting,
) -> IntentCalled:
    """As executor.py notes it: should we die now, the outbox has it."""
    status, result, response = IntentStatus.SUBMITTING, None, None
    if rejected is not None:
        status, result, response = submission.answer(rejected)
    return IntentCalled(
        id=row_id,
        conversation_id=conversation_id,
        session_id=asked.session_id,
        call_id=asked.id,
        idempotency_key=str(row_id),
        after_seq=reporting.numbering.last_seq,
        function=asked.name,
        intent=intent.name if intent else None,
        arguments=asked.arguments,
        status=status,
        attempts=0,
        result=result,
        response=response,
        at=datetime.now(UTC),
        due_in=intent.timeout + LEASE_MARGIN if intent and rejected is None else None,
        in_doubt=rejected is None,
        error=rejected.reason if rejected else None,
    )


def _answer(
    row_id: UUID, asked: ReportedCall, intent: str | None, status: IntentStatus, content: str
) -> CallAnswer:
    return CallAnswer(id=row_id, call_id=asked.id, intent=intent, status=status, content=content)


def _has_credentials(configuration: Configuration) -> bool:
    shown = agent_section(configuration.agent, prompt="", functions=[], masked=True)
    return shown != agent_section(configuration.agent, prompt="", functions=[])
