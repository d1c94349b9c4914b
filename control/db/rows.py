"""What is stored, as structs: rows are read into them, the REST side shows them. And how texts are
made fit for Postgres.

Control plane, pure.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec

from config.agent import Audio
from relay.core.admitted import Admitted
from relay.core.records import IntentCalled
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus
from relay.telemetry.histogram import SessionLatency

TITLE_LENGTH = 80

Status = Literal["open", "closed"]
SessionState = Literal["new", "live", "ended"]

_JSONB = frozenset({"audio", "latency", "outcome", "result"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUL_IN_JSON = re.compile(r"(\\\\)|\\u0000")  # the first branch skips an escaped backslash


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """`title` is the beginning of what the user said first, until somebody renames it."""

    id: UUID
    title: str | None
    status: Status
    created_at: datetime
    updated_at: datetime


class Found(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the words are that were looked for. Texts are in parts, of which every second is such
    a word: the title, and the newest message that has them all, cut; empty if none has."""

    title: list[str]
    line: list[str] = []
    seq: int | None = None
    role: deepgram.Role | None = None


class ListedConversation(Conversation, frozen=True, kw_only=True, omit_defaults=True):
    """As it stands in a list; `found` when words were looked for."""

    found: Found | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a conversation, in the order of `seq`; `turn` groups the lines of one reply."""

    id: UUID
    seq: int
    turn: int
    role: deepgram.Role
    content: str
    session_id: UUID
    created_at: datetime


class IntentCall(msgspec.Struct, frozen=True, kw_only=True):
    """A function call: `intent` is null for a function that is not in the registry.

    `arguments` is what the model sent: its text, and to users JSON where it is JSON. `after_seq` is
    the `seq` of the message that the call stands after. While it is `submitting`,
    `next_attempt_at` says when it is tried again at the latest, and while it is `awaiting`, when
    the wait for the user ends; `last_error` is what went wrong last. `taken_back`: it was not
    wanted any more; with `submitted` it was carried out all the same.
    """

    id: UUID
    call_id: str
    session_id: UUID
    after_seq: int
    intent: str | None
    function: str
    arguments: Any
    status: IntentStatus
    attempts: int
    result: Any
    response: str | None
    next_attempt_at: datetime | None
    last_error: str | None
    created_at: datetime
    updated_at: datetime
    taken_back: bool = False


class Claimed(IntentCalled, frozen=True, kw_only=True):
    """A call that is ours to deliver for a while, as its record says it; `age` is the seconds since
    it was accepted. `in_doubt`: a request before this one may have arrived. `taken_back`: it is not
    wanted any more.
    """

    user_id: str
    age: float
    taken_back: bool = False


class NewSession(msgspec.Struct, frozen=True, kw_only=True):
    """What a session row starts with. Its ticket is good for `ticket_seconds`. One of the transport
    'direct' has none, and is live from then on. `record_audio`: its user wants that, and was told
    that it is done."""

    id: UUID
    conversation_id: UUID
    user_id: str
    ticket_hash: bytes
    ticket_seconds: float
    timezone: str
    audio: Audio
    voice: str | None = None
    language: str | None = None
    transport: Literal["relay", "direct"] = "relay"
    record_audio: bool = False


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """Frames and bytes by the side that they came from. `close_reason` is a word for programs.
    `agent_seconds`: for how long its agents were connected, of all its owners; `cost` is in US
    dollars, null without a price."""

    id: UUID
    conversation_id: UUID
    state: SessionState
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    close_reason: str | None
    browser_code: int | None
    agent_code: int | None
    agent_request_id: str | None
    browser_frames: int
    browser_bytes: int
    agent_frames: int
    agent_bytes: int
    latency: SessionLatency | None
    agent_seconds: float
    cost: float | None = None


class StoredSession(SessionView, frozen=True, kw_only=True):
    """A session of the past, with what was chosen for it."""

    timezone: str
    voice: str | None
    language: str | None


class AttachResult(Admitted, frozen=True, kw_only=True):
    """A session whose ticket was shown: `taken` is whether this call used it up.

    `over`: the session has ended, or is about to. `taken_over`: another node had it, and
    `owner_lives` as far as one knows. `resumed`: its conversation has another session, and so
    perhaps a history. `taken_at` is by the clock of the database.
    """

    taken: bool
    taken_at: datetime
    over: bool
    taken_over: bool
    owner_lives: bool
    resumed: bool


class Numbering(msgspec.Struct, frozen=True, kw_only=True):
    """What a new owner of a conversation numbers on from; nothing was said if it is not given."""

    last_seq: int = 0
    last_turn: int = 0
    last_role: deepgram.Role | None = None


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The newest messages of a conversation and the calls among them, each in order."""

    messages: list[Message] = []
    calls: list[IntentCall] = []


AnyRow = TypeVar("AnyRow", bound=msgspec.Struct)


def columns(kind: type[msgspec.Struct]) -> str:
    """The columns of a SELECT whose rows become such structs."""
    return ", ".join(kind.__struct_fields__)


def read(kind: type[AnyRow], row: Any) -> AnyRow:
    """The struct of a row of the driver's, which may have more columns, and JSON as text."""
    fields = dict(row)
    for name in _JSONB & fields.keys():
        if fields[name] is not None:
            fields[name] = msgspec.json.decode(fields[name])
    return msgspec.convert(fields, kind)


def make_title(content: str) -> str:
    """The beginning of a message, on one line, cut between words."""
    line = " ".join(storable(content).split())
    if len(line) <= TITLE_LENGTH:
        return line
    head = line[: TITLE_LENGTH - 1]
    between_words = head.rpartition(" ")[0]
    return f"{between_words if len(between_words) > TITLE_LENGTH // 2 else head}…"


def storable(text: str) -> str:
    """NUL and halves of surrogate pairs, which Postgres refuses, become replacement characters."""
    if "\0" in text:
        text = text.replace("\0", "�")
    if not text.isascii():
        text = _SURROGATE.sub("�", text)
    return text


def storable_json(value: object) -> str | None:
    """The same for JSON, whose texts are stored; None is the SQL null."""
    if value is None:
        return None
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may have and UTF-8 may not
        text = storable(json.dumps(msgspec.to_builtins(value), ensure_ascii=False))
    return _NUL_IN_JSON.sub(lambda found: found[1] or "\\ufffd", text)
