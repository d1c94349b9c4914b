"""What a session leaves behind: the facts that are stored, as structs.

Pure. A session hands these to the journal; the control plane writes them to Postgres. Instants are
aware datetimes in UTC. `seq` counts the messages of a conversation from 1; `turn` is the run of
messages of one side until the other speaks, from 1. Both grow and may skip numbers, where another
relay has taken the conversation on.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus
from relay.telemetry.histogram import SessionLatency


class MessageSaid(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One line of a conversation; idempotent by `(conversation_id, seq)`.

    `epoch` is the number of the owner that its session had, `frame` which of that owner's text
    frames told it to the browser, counted from 1.
    """

    id: UUID
    conversation_id: UUID
    session_id: UUID
    seq: int
    turn: int
    role: deepgram.Role
    content: str
    at: datetime
    epoch: int = 0
    frame: int = 0


class IntentCalled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A function call and how it stands; a later one with the same `id` replaces it.

    `call_id` is the model's, `idempotency_key` what the Orchestrator knows the call by (None: the
    `call_id`, as the version before sent it).

    `after_seq` is the `seq` of the message that the call stands after (0: none), so that a history
    can be told in order: the words that caused the call may come later than it. `arguments` and
    `response` are the texts that went over Deepgram's wire.

    The last four are the outbox's, while the status is `submitting`: seconds from when this is
    written until any process may take the call over (None: nobody may), whether a request may have
    arrived, what went wrong last, and which claim the writer had on it (0: it accepted the call).
    """

    id: UUID
    conversation_id: UUID
    session_id: UUID
    call_id: str
    after_seq: int
    function: str
    intent: str | None
    arguments: str
    status: IntentStatus
    attempts: int
    at: datetime
    result: Any = None
    response: str | None = None
    due_in: float | None = None
    in_doubt: bool = False
    error: str | None = None
    claim: int = 0
    idempotency_key: str | None = None

    @property
    def asked(self) -> deepgram.FunctionCall:
        """The call as the model made it."""
        return deepgram.FunctionCall(id=self.call_id, name=self.function, arguments=self.arguments)


class CallDecided(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What the user (`submit`, `cancel`) or the model (`cancel`) wants of a call that is stored.

    It counts as far as the call has not come further: `submit` while it is `awaiting`; `cancel`
    also while it is on its way or was carried out, which is undone if we `can_cancel`. `response`
    is what a later agent is told of a call that is not carried out; None: nothing.
    """

    id: UUID
    conversation_id: UUID
    wanted: Literal["submit", "cancel"]
    at: datetime
    can_cancel: bool = False
    response: str | None = None


class SessionBegan(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The agent applied the Settings; `agent_request_id` is Deepgram's name for the session."""

    session_id: UUID
    agent_request_id: str | None
    at: datetime
    epoch: int = 0


class TicketIssued(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The browser of a session has another ticket to come back with; `hash` is its SHA-256."""

    session_id: UUID
    hash: bytes
    epoch: int = 0


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a session carried: audio frames and bytes by the side that they came from.

    `agent_seconds`: for how long its agents were connected, all of this owner's together.
    """

    browser_frames: int
    browser_bytes: int
    agent_frames: int
    agent_bytes: int
    latency: SessionLatency
    agent_seconds: float = 0.0


class AgentTime(msgspec.Struct, frozen=True, kw_only=True):
    """For how many `seconds` agents were connected by the instant `at`, for this owner of a
    session; `epoch` 0: for nobody, one was dialled ahead and no browser came."""

    session_id: UUID
    epoch: int
    seconds: float
    at: datetime


class SessionEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Why a session ended and what it carried; `detail` is for operators, never for browsers.

    The last word of an owner: all that it had to say about messages stands before it.
    """

    session_id: UUID
    reason: str
    detail: str
    browser_code: int
    agent_code: int
    figures: Figures
    at: datetime
    epoch: int = 0

    @property
    def agent_time(self) -> AgentTime:
        """For how long its agents were connected."""
        return AgentTime(
            session_id=self.session_id,
            epoch=self.epoch,
            seconds=self.figures.agent_seconds,
            at=self.at,
        )


Record = MessageSaid | IntentCalled | CallDecided | SessionBegan | TicketIssued | SessionEnded
