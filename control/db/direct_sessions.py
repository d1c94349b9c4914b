"""What a client of the direct transport reports, into the tables: the SQL.

Control plane. Every function works within the transaction that its connection is in; the store
opens it and translates errors. The conversation is locked first, so that reports get their numbers
one after the other, and none comes between a newer session and the history that it was told.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import msgspec

from control.db import ownership
from control.db.batch_writer import flush
from control.db.conversations import MESSAGE_COLUMNS
from control.db.pool import Connection
from control.db.rows import Message, Numbering, read
from relay.core.records import IntentCalled, MessageSaid
from relay.protocol import deepgram

LONGEST = "2 hours 5 minutes"  # Deepgram ends a session after two hours
_LOCK = 0x64697265  # "dire": of who begins a direct session

Standing = Literal["direct", "relay", "over", "superseded"]


class Reporting(msgspec.Struct, frozen=True, kw_only=True):
    """A session that something is reported for; the conversation is locked."""

    standing: Standing
    numbering: Numbering


async def enter(
    connection: Connection, session_id: UUID, conversation_id: UUID, *, user_id: str
) -> Reporting | None:
    """Lock the conversation and look at the session. None: the user has no such session."""
    sql = """
        SELECT numbered_from FROM voice.conversations WHERE id = $1 AND user_id = $2
        FOR NO KEY UPDATE
    """
    numbered_from = await connection.fetchval(sql, conversation_id, user_id)
    if numbered_from is None:
        return None
    sql = f"""
        SELECT CASE
                 WHEN transport <> 'direct' THEN 'relay'
                 WHEN end_asked = 'superseded' THEN 'superseded'
                 WHEN state = 'ended' OR created_at < now() - interval '{LONGEST}' THEN 'over'
                 ELSE 'direct' END
        FROM voice.sessions WHERE id = $1 AND conversation_id = $2
    """
    standing: Standing | None = await connection.fetchval(sql, session_id, conversation_id)
    if standing is None:
        return None
    last = await ownership.find_last(connection, conversation_id)
    if numbered_from > last.last_seq:
        # Left free for an owner before; its turns have none that is higher (ownership.py).
        last = Numbering(last_seq=numbered_from, last_turn=numbered_from)
    return Reporting(standing=standing, numbering=last)


async def count_others(
    connection: Connection, user_id: str, conversation_id: UUID, *, idle: float
) -> tuple[int, int]:
    """Direct sessions that live, as far as can be known, in all and of this user; without those of
    the conversation, which a new one would end.

    Nobody sees a client go. One of which nothing was reported for `idle` seconds (0: never) does
    not count, nor one that Deepgram has ended.
    """
    sql = f"""
        SELECT count(*) AS of_all, count(*) FILTER (WHERE s.user_id = $1) AS of_user
        FROM voice.sessions AS s JOIN voice.conversations AS c ON c.id = s.conversation_id
        WHERE s.transport = 'direct' AND s.state <> 'ended' AND s.conversation_id <> $2
          AND s.created_at > now() - interval '{LONGEST}'
          AND ($3 = 0 OR greatest(s.created_at, c.updated_at) > now() - make_interval(secs => $3))
    """
    (row,) = await connection.fetch(sql, user_id, conversation_id, idle)
    return row["of_all"], row["of_user"]


async def begin_alone(connection: Connection) -> None:
    """Wait until nobody else begins a direct session: counting and adding are one step."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)


async def count_open(connection: Connection, conversation_id: UUID, session_id: UUID) -> int:
    """Calls of a session that its model was told nothing of yet."""
    sql = """
        SELECT count(*) FROM voice.intents
        WHERE conversation_id = $1 AND session_id = $2
          AND status = 'submitting' AND response IS NULL
    """
    count: int = await connection.fetchval(sql, conversation_id, session_id)
    return count


async def find_message(connection: Connection, message_id: UUID) -> tuple[UUID, Message] | None:
    """The message of this id with its conversation, whosever it is."""
    row = await connection.fetchrow(
        f"SELECT conversation_id, {MESSAGE_COLUMNS} FROM voice.messages WHERE id = $1",
        message_id,
    )
    return None if row is None else (row["conversation_id"], read(Message, row))


async def add_message(
    connection: Connection,
    reporting: Reporting,
    *,
    message_id: UUID,
    conversation_id: UUID,
    session_id: UUID,
    role: deepgram.Role,
    content: str,
) -> Message:
    """The next message of a conversation that is locked, as it is stored."""
    last = reporting.numbering
    said = MessageSaid(
        id=message_id,
        conversation_id=conversation_id,
        session_id=session_id,
        seq=last.last_seq + 1,
        turn=last.last_turn + (role != last.last_role),
        role=role,
        content=content,
        at=datetime.now(UTC),
    )
    await flush(connection, [said])
    stored = await find_message(connection, message_id)
    assert stored is not None, "the conversation is locked"
    return stored[1]


async def add_call(
    connection: Connection, call: IntentCalled
) -> tuple[str, str | None, str | None] | None:
    """Store a call, unless its row is there: then status, intent and response of that."""
    sql = "SELECT status, intent, response FROM voice.intents WHERE id = $1"
    for row in await connection.fetch(sql, call.id):
        return row["status"], row["intent"], row["response"]
    await flush(connection, [call])
    return None
