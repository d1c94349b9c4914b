"""Conversations and what was said in them: the SQL.

Control plane. Each function is one transaction, and raises `StoreUnavailable`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from control.db import ownership
from control.db.calls import CALL_COLUMNS
from control.db.pool import Connection
from control.db.rows import (
    Conversation,
    Found,
    History,
    IntentCall,
    ListedConversation,
    Message,
    Status,
    columns,
    read,
    storable,
)
from control.db.search import SearchTerms, make_query, parse, quote_word
from control.db.store import Store

HISTORY_LENGTH = 200  # the newest messages that a resumed session is told

COLUMNS = columns(Conversation)
MESSAGE_COLUMNS = columns(Message)

# The user is a word of what is indexed, so that the index finds only texts of this user.
_FOUND = """
    JOIN (
        SELECT id, max(seq) AS found_seq
        FROM (
            SELECT id, NULL::bigint AS seq FROM voice.conversations
            WHERE (to_tsvector('simple', voice.fold(coalesce(title, '')))
                   || array_to_tsvector(ARRAY['=' || user_id]))
                  @@ ($8::text::tsquery && $7::text::tsquery)
            UNION ALL
            SELECT conversation_id, seq FROM voice.messages
            WHERE (to_tsvector('simple', voice.fold(content))
                   || array_to_tsvector(ARRAY['=' || user_id]))
                  @@ ($8::text::tsquery && $7::text::tsquery)
        ) AS either GROUP BY id
    ) AS found USING (id)
"""
SHOWN = 2000  # characters of a message in which the words that were found are looked for


async def create_conversation(store: Store, conversation_id: UUID, *, user_id: str) -> Conversation:
    sql = f"INSERT INTO voice.conversations (id, user_id) VALUES ($1, $2) RETURNING {COLUMNS}"
    (created,) = await store.change(Conversation, sql, conversation_id, user_id)
    return created


async def get_conversation(
    store: Store, conversation_id: UUID, *, user_id: str
) -> Conversation | None:
    sql = f"SELECT {COLUMNS} FROM voice.conversations WHERE id = $1 AND user_id = $2"
    return next(iter(await store.fetch(Conversation, sql, conversation_id, user_id)), None)


async def list_conversations(
    store: Store,
    user_id: str,
    *,
    q: str | None = None,
    status: Status | None = None,
    before: tuple[datetime, UUID] | None = None,
    limit: int,
    said: bool = False,
) -> list[ListedConversation]:
    """Newest first; `before` is (updated_at, id) of the last one seen. With `q` those of which the
    title or one message has its words. `said`: only those in which the user said something, and
    which have a title therefore.

    `q` as people type it: all words or beginnings of words, "a phrase", or, -not; capitals and
    accents do not matter. Nothing to look for finds nothing.
    """
    terms = None if q is None else parse(storable(q))
    async with store.reading() if terms is None else store.searching() as connection:
        values = [user_id, status, *(before or (None, None)), limit, said]
        if terms is None:
            rows = await connection.fetch(_list_sql(), *values)
            return [read(ListedConversation, row) for row in rows]
        query = await make_query(connection, terms)
        if query is None:
            return []
        # What is shown of a message is read after the page is cut.
        sql = f"""
            SELECT listed.*, m.seq, m.role, left(m.content, {SHOWN}) AS content
            FROM ({_list_sql(_FOUND, ", found_seq")}) AS listed
            LEFT JOIN voice.messages AS m
                   ON m.conversation_id = listed.id AND m.seq = listed.found_seq
            ORDER BY listed.updated_at DESC, listed.id DESC
        """
        rows = await connection.fetch(sql, *values, quote_word(f"={user_id}"), query)
    return [_read_found(row, terms) for row in rows]


def _list_sql(join: str = "", more: str = "") -> str:
    return f"""
        SELECT {COLUMNS}{more}
        FROM voice.conversations {join}
        WHERE user_id = $1
          AND ($2::text IS NULL OR status = $2)
          AND ($3::timestamptz IS NULL OR (updated_at, id) < ($3, $4::uuid))
          AND (title IS NOT NULL OR NOT $6::bool)
        ORDER BY updated_at DESC, id DESC
        LIMIT $5
    """


def _read_found(row: Any, terms: SearchTerms) -> ListedConversation:
    """One that was found, with where the words are."""
    shown = read(ListedConversation, row)
    line = terms.cut(row["content"] or "")
    found = Found(title=terms.mark(shown.title or ""), line=line)
    if line:
        found = replace(found, seq=row["seq"], role=row["role"])
    return replace(shown, found=found)


async def rename_conversation(
    store: Store, conversation_id: UUID, *, user_id: str, title: str
) -> Conversation | None:
    """A new title is not news: the place in the list stays."""
    sql = f"""
        UPDATE voice.conversations SET title = $3 WHERE id = $1 AND user_id = $2
        RETURNING {COLUMNS}
    """
    values = conversation_id, user_id, storable(title)
    return next(iter(await store.change(Conversation, sql, *values)), None)


async def erase_conversation(
    store: Store, conversation_id: UUID, *, user_id: str
) -> list[UUID] | None:
    """Delete it with its messages, calls and sessions; returns the sessions not ended yet.

    None: there was no such conversation.
    """
    sql = """
        WITH erased AS (
            DELETE FROM voice.conversations WHERE id = $1 AND user_id = $2 RETURNING id
        )
        SELECT array(
            SELECT id FROM voice.sessions WHERE conversation_id = erased.id AND state <> 'ended'
        )
        FROM erased
    """
    async with store.transaction() as connection:
        sessions: list[UUID] | None = await connection.fetchval(sql, conversation_id, user_id)
        if sessions:
            await ownership.notify(connection, sessions)
    return sessions


async def list_messages(
    store: Store, conversation_id: UUID, *, after_seq: int = 0, limit: int
) -> list[Message]:
    sql = f"""
        SELECT {MESSAGE_COLUMNS}
        FROM voice.messages WHERE conversation_id = $1 AND seq > $2
        ORDER BY seq LIMIT $3
    """
    return await store.fetch(Message, sql, conversation_id, after_seq, limit)


async def load_history(store: Store, conversation_id: UUID) -> History:
    """`read_history` in a transaction of its own."""
    async with store.reading() as connection:
        return await read_history(connection, conversation_id)


async def read_history(connection: Connection, conversation_id: UUID) -> History:
    """The newest messages, and the calls since the first of them that the next model is told
    of: those that were answered, and those that may yet reach the Orchestrator."""
    messages_sql = f"""
        SELECT {MESSAGE_COLUMNS}
        FROM voice.messages WHERE conversation_id = $1
        ORDER BY seq DESC LIMIT $2
    """
    calls_sql = f"""
        SELECT {CALL_COLUMNS}
        FROM voice.intents
        WHERE conversation_id = $1 AND after_seq >= $2
          AND (response IS NOT NULL OR status IN ('submitting', 'cancelling'))
        ORDER BY after_seq DESC, id DESC LIMIT $3
    """
    messages = await connection.fetch(messages_sql, conversation_id, HISTORY_LENGTH)
    first = messages[-1]["seq"] if len(messages) == HISTORY_LENGTH else 0
    calls = await connection.fetch(calls_sql, conversation_id, first, HISTORY_LENGTH)
    return History(
        messages=[read(Message, row) for row in reversed(messages)],
        calls=[read(IntentCall, row) for row in reversed(calls)],
    )
