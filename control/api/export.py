"""A whole conversation as a file: JSON with all that REST shows of it, a transcript to read, or a
vCon (draft-ietf-vcon-vcon-core), which other programs for conversations read.

Control plane. Read and sent piece by piece, each in a transaction of its own: a conversation may be
long, and who reads it slow. What is added meanwhile may be in it. When the database is lost in the
middle the connection breaks, so that no half of a file looks like a whole one.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Schema,
)

from config import function_arguments, timezones
from control.db import calls, conversations, sessions
from control.db.rows import Conversation, IntentCall, Message, StoredSession
from control.db.store import Store

PIECE = 500  # messages, or calls, that are in memory at once
SPEAKERS = {"user": "You", "assistant": "Agent"}
PARTIES = {"user": [0, 1], "assistant": [1, 0]}  # of a vCon: who says it, and who hears it

Format = Literal["json", "text", "vcon"]
KINDS: dict[Format, tuple[str, str]] = {
    "json": ("application/json", "json"),
    "text": ("text/plain", "txt"),
    "vcon": ("application/vcon", "vcon"),
}
"""Media type, and the ending of the file's name."""

_Row = TypeVar("_Row")


@dataclass
class ExportOperation(Operation):
    """For the OpenAPI description: one of three kinds of files."""

    def __post_init__(self) -> None:
        answer = (self.responses or {})["200"]
        assert isinstance(answer, OpenAPIResponse)
        text, json = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.OBJECT)
        answer.description = "The file"
        answer.content = {
            kind: OpenAPIMediaType(text if form == "text" else json)
            for form, (kind, _) in KINDS.items()
        }


def file_name(conversation: Conversation, form: Format) -> str:
    """Of nothing that somebody wrote: every system takes it."""
    day = conversation.created_at.astimezone(UTC).date()
    return f"conversation-{day}-{str(conversation.id)[-12:]}.{KINDS[form][1]}"


async def export(
    store: Store, conversation: Conversation, form: Format, *, user_id: str, host: str
) -> AsyncIterator[str]:
    """The text of the file. `host` is our name, for a vCon. Raises `StoreUnavailable`, at first
    before anything is sent."""
    had = await sessions.list_sessions(store, conversation.id)
    match form:
        case "json":
            return _as_json(store, conversation, had)
        case "text":
            return _as_text(store, conversation, had)
    return _as_vcon(store, conversation, had, user_id, host)


# --- what there is -------------------------------------------------------------------------------


async def _pieces(
    fetch: Callable[[_Row | None], Awaitable[list[_Row]]],
) -> AsyncIterator[list[_Row]]:
    """`fetch` gives up to PIECE rows after one."""
    last = None
    while piece := await fetch(last):
        yield piece
        if len(piece) < PIECE:
            return
        last = piece[-1]


def _messages(store: Store, conversation: Conversation) -> AsyncIterator[list[Message]]:
    return _pieces(
        lambda last: conversations.list_messages(
            store, conversation.id, after_seq=last.seq if last else 0, limit=PIECE
        )
    )


async def _calls(store: Store, conversation: Conversation) -> AsyncIterator[list[IntentCall]]:
    async for piece in _pieces(
        lambda last: calls.list_calls(
            store,
            conversation.id,
            after=(last.after_seq, last.id) if last else None,
            limit=PIECE,
        )
    ):
        yield [show(call) for call in piece]


def show(call: IntentCall) -> IntentCall:
    """As users get it: the arguments as JSON, where they are."""
    return msgspec.structs.replace(call, arguments=function_arguments.show(call.arguments))


async def _each(pieces: AsyncIterator[list[_Row]]) -> AsyncIterator[_Row]:
    async for piece in pieces:
        for one in piece:
            yield one


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def _listed(pieces: AsyncIterator[list[Any]]) -> AsyncIterator[str]:
    """The items of a JSON array, a line each."""
    comma = "\n"
    async for piece in pieces:
        if piece:
            yield comma + ",\n".join(map(_encode, piece))
            comma = ",\n"


# --- JSON ----------------------------------------------------------------------------------------


async def _as_json(
    store: Store, conversation: Conversation, had: Sequence[StoredSession]
) -> AsyncIterator[str]:
    yield f'{{"conversation": {_encode(conversation)},\n"sessions": {_encode(had)},\n"messages": ['
    async for items in _listed(_messages(store, conversation)):
        yield items
    yield '],\n"intents": ['
    async for items in _listed(_calls(store, conversation)):
        yield items
    yield "]}\n"


# --- a transcript --------------------------------------------------------------------------------


async def _as_text(
    store: Store, conversation: Conversation, had: Sequence[StoredSession]
) -> AsyncIterator[str]:
    """Times are of where the user was last."""
    zone_name = had[-1].timezone if had else "UTC"
    zone = timezones.find(zone_name) or UTC
    began = conversation.created_at.astimezone(zone)
    yield f"{_one_line(conversation.title or 'Conversation')}\n\n"
    yield f"Conversation {conversation.id}, begun {_day(began)}. Times are of {zone_name}.\n"
    called = _each(_calls(store, conversation))
    call = await anext(called, None)
    heading = ""
    ends = {session.id: session for session in had}
    async for piece in _messages(store, conversation):
        lines = []
        for message in piece:
            while call is not None and call.after_seq < message.seq:
                lines.append(_call_line(call, zone))
                call = await anext(called, None)
            if heading != (heading := _heading(message, ends, zone)):
                lines.append(f"\n{heading}\n\n")
            at = message.created_at.astimezone(zone)
            lines.append(_line(at, SPEAKERS[message.role], message.content))
        yield "".join(lines)
    while call is not None:
        yield _call_line(call, zone)
        call = await anext(called, None)


def _heading(message: Message, ends: dict[UUID, StoredSession], zone: tzinfo) -> str:
    """The day and the session of a message."""
    words = [_day(message.created_at.astimezone(zone))]
    session = ends.get(message.session_id)
    if session is not None and session.ended_at is not None:
        words.append(f"until {session.ended_at.astimezone(zone):%H:%M} ({session.close_reason})")
    return f"--- {', '.join(words)} ---"


def _call_line(call: IntentCall, zone: tzinfo) -> str:
    told = call.arguments
    if isinstance(told, dict):
        told = "; ".join(f"{name}: {_plain(value)}" for name, value in told.items())
    what = f"{call.intent or call.function} ({call.status}) {_plain(told)}"
    return _line(call.created_at.astimezone(zone), "*", what)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else _encode(value)


def _line(at: datetime, who: str, text: str) -> str:
    """Further lines of the text stand below its first."""
    indented = "\n".ljust(18).join(text.splitlines())
    return f"{at:%H:%M:%S}  {who:<5}  {indented}\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _day(at: datetime) -> str:
    return f"{at.day} {at:%B %Y}"


# --- a vCon --------------------------------------------------------------------------------------


async def _as_vcon(
    store: Store,
    conversation: Conversation,
    had: Sequence[StoredSession],
    user_id: str,
    host: str,
) -> AsyncIterator[str]:
    """Each message is a dialog of type text; intents and sessions are attachments."""
    head = {
        "uuid": make_vcon_id(conversation.id, host),
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
        **({"subject": conversation.title} if conversation.title else {}),
        "parties": [{"uuid": user_id, "type": "person"}, {"type": "bot"}],
    }
    yield _encode(head)[:-1] + ',\n"dialog": ['
    seqs: list[int] = []

    async def dialogs() -> AsyncIterator[list[Any]]:
        async for piece in _messages(store, conversation):
            seqs.extend(message.seq for message in piece)
            yield [_make_dialog(message) for message in piece]

    async def attachments() -> AsyncIterator[list[Any]]:
        if not seqs:
            return  # each belongs to a dialog
        yield [_attach("session", one.started_at or one.created_at, 0, one) for one in had]
        async for piece in _calls(store, conversation):
            yield [
                _attach("intent", each.created_at, _find_place(seqs, each.after_seq), each)
                for each in piece
            ]

    async for items in _listed(dialogs()):
        yield items
    yield '],\n"attachments": ['
    async for items in _listed(attachments()):
        yield items
    yield "]}\n"


def _make_dialog(message: Message) -> dict[str, Any]:
    return {
        "type": "text",
        "start": message.created_at,
        "parties": PARTIES[message.role],
        "mediatype": "text/plain",
        "body": message.content,
        "encoding": "none",
        "message_id": message.id,
    }


def _attach(purpose: str, start: datetime, dialog: int, body: object) -> dict[str, Any]:
    return {
        "purpose": purpose,
        "start": start,
        "party": PARTIES["assistant"][0],
        "dialog": dialog,
        "mediatype": "application/json",
        "body": body,
        "encoding": "json",
    }


def _find_place(seqs: Sequence[int], after_seq: int) -> int:
    """The dialog that a call stands after, or before which there is none."""
    return max(bisect_right(seqs, after_seq) - 1, 0)


def make_vcon_id(conversation_id: UUID, host: str) -> UUID:
    """Version 8 as the draft has it: of version 7, whose time and chance are the conversation's,
    with 62 bits of our name for the rest."""
    named = int.from_bytes(hashlib.sha1(host.encode(), usedforsecurity=False).digest()[:8]) >> 2
    timed = conversation_id.int >> 64 & ~0xF000 | 0x8000
    return UUID(int=timed << 64 | 0b10 << 62 | named)
