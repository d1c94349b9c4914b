"""What we say to browsers beside Deepgram's own messages, and they to us: the `Relay…` events.

Pure. They are sent on the subprotocol `relay.v1` only; docs/protocol.md describes them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec

from relay.protocol import deepgram
from relay.protocol.deepgram import Message, Role


class IntentStatus(StrEnum):
    """Those of `OPEN` change by themselves; `failed` may be submitted again."""

    AWAITING = "awaiting"  # validated, and the user is asked on the screen whether it is meant
    SUBMITTING = "submitting"  # validated, on its way to the Orchestrator or waiting to be
    SUBMITTED = "submitted"  # the Orchestrator took it
    REJECTED = "rejected"  # refused for good: unknown, invalid, or a 4xx with its reason
    FAILED = "failed"  # the Orchestrator could not be asked, or it is not known whether it took it
    CANCELLING = "cancelling"  # taken back when it was sent: the Orchestrator is asked to undo it
    CANCELLED = "cancelled"  # not carried out, or undone: the user or the model took it back


OPEN = frozenset({IntentStatus.AWAITING, IntentStatus.SUBMITTING, IntentStatus.CANCELLING})


SUBPROTOCOL = "relay.v1"
LONGEST_PLAYOUT = 60.0  # seconds; more is no delay, it is a machine that slept


class RelayEvent(Message, frozen=True):
    """Its `type` starts with `Relay`. All else that a browser is told is Deepgram's."""


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the conversation that is in Postgres."""

    seq: int
    message_id: UUID
    role: Role
    content: str


class RelaySession(RelayEvent, frozen=True, tag=True):
    """The first event after the WebSocket is open.

    `resume_ticket` opens the next WebSocket of this session, once, for `resume_within` seconds
    after this one has broken (0: not at all). The next `ConversationText` is `last_seq` + 1; None:
    the numbering goes on. `taken_over`: another relay had the session before; the count of text
    frames starts anew, and `messages` are those after the `seq` that the browser gave.
    """

    session_id: UUID
    conversation_id: UUID
    resume_ticket: str
    resume_within: float
    last_seq: int | None = None
    taken_over: bool = False
    messages: list[StoredMessage] = msgspec.field(default_factory=list)


class RelayMessageSaved(RelayEvent, frozen=True, tag=True):
    """The message is in Postgres."""

    seq: int
    message_id: UUID
    role: Role


class RelayIntent(RelayEvent, frozen=True, tag=True):
    """A function call and how it stands; sent again when the status changes.

    `id` is the call's, as in the history; `call_id` is the model's and may be that of several.
    `intent` is the name in the registry, None when the model asked for something unknown;
    `arguments` are the model's, parsed where they are JSON. `next_attempt_at`: it is saved, and
    submitted again then; while it is `awaiting`, the end of the wait. `taken_back`: it is
    not wanted any more and may have been carried out; with `submitted` it was.
    """

    id: UUID
    call_id: str
    intent: str | None
    status: IntentStatus
    arguments: Any = None
    result: Any = None
    next_attempt_at: datetime | None = None
    taken_back: bool = False


class RelayReconnecting(RelayEvent, frozen=True, tag=True):
    """The agent was lost and is dialled again; keep sending audio, it is kept for a while."""


class RelayReconnected(RelayEvent, frozen=True, tag=True):
    """The agent is back and knows what was said."""


class RelayGoAway(RelayEvent, frozen=True, tag=True):
    """The relay is about to stop: this WebSocket is closed with 1012 in a moment.

    For `reconnect_within` seconds from then `resume_ticket` may open the session elsewhere.
    """

    resume_ticket: str
    reconnect_within: float


class RelayNotice(RelayEvent, frozen=True, tag=True):
    """The session ends in `ends_in` seconds: nobody speaks (`idle`), which speaking changes, it is
    as long as one may be (`longest`), or the minutes of the day are used up (`daily_minutes`)."""

    code: str
    ends_in: float


class RelayError(RelayEvent, frozen=True, tag=True):
    """Something went wrong; `code` is a word for programs, `detail` a sentence for people."""

    code: str
    detail: str


# --- what a browser says ---------------------------------------------------------------------


class RelayConfirm(Message, frozen=True, tag=True):
    """The user wants this call, which is `awaiting`."""

    id: UUID


class RelayCancel(Message, frozen=True, tag=True):
    """The user does not want this call, which is `awaiting`."""

    id: UUID


class RelayPlayout(Message, frozen=True, tag=True):
    """The first audio of a reply is heard, `seconds` after it came. At most once a turn."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_PLAYOUT)]


Decision = RelayConfirm | RelayCancel
Own = Decision | RelayPlayout
"""What only our clients say."""
FromBrowser = deepgram.FromClient | Own

_own: msgspec.json.Decoder[Own] = msgspec.json.Decoder(Own)
_OWN = {struct.__name__ for struct in Own.__args__}


def decode_browser(text: bytes | memoryview) -> FromBrowser:
    """What a browser says on `relay.v1`: a message of Deepgram's, or one of these. Never raises."""
    message = deepgram.decode_client(text)
    if not (isinstance(message, deepgram.Unknown) and message.type in _OWN):
        return message
    try:
        return _own.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return deepgram.Malformed(type=message.type, reason=str(error))
