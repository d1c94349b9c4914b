"""Conversations and what was said in them: the SQL.

Control plane. Each function is one transaction, and raises `StoreUnavailable`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from control.db import ownership
from control.db.calls import CALL_COLUMNS
from control.db.pool import Connection
from control.db.rows import (
    Conversation,
    History,
    IntentCall,
    Message,
    Status,
    columns,
    read,
    storable,
    storable_json,
)
from control.db.store import Store

HISTORY_LENGTH = 200  # the newest messages that a resumed session is told

COLUMNS = columns(Conversation)
MESSAGE_COLUMNS = columns(Message)

# The user is a word of what is indexed, so that the index finds only texts of this user.
_FOUND = """
    SELECT id FROM voice.conversations
    WHERE (to_tsvector('simple', voice.fold(coalesce(title, '')))
           || array_to_tsvector(ARRAY['=' || user_id]))
          @@ ($7::text::tsquery && $6::text::tsquery)
    UNION
    SELECT conversation_id FROM voice.messages
    WHERE (to_tsvector('simple', voice.fold(content)) || array_to_tsvector(ARRAY['=' || user_id]))
          @@ ($7::text::tsquery && $6::text::tsquery)
"""


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
) -> list[Conversation]:
    """Newest first; `before` is (updated_at, id) of the last one seen. With `q` those of which the
    title or one message has its words.

    `q` as people type it: all words or beginnings of words, "a phrase", or, -not; capitals and
    accents do not matter. Nothing to look for finds nothing.
    """
    matches, words = "", []
    async with store.reading() as connection:
        if q is not None:
            query = await _make_query(connection, _parse(storable(q)))
            if query is None:
                return []
            matches, words = f"AND id IN ({_FOUND})", [_quote_word(f"={user_id}"), query]
        sql = f"""
            SELECT {COLUMNS}
            FROM voice.conversations
            WHERE user_id = $1
              AND ($2::text IS NULL OR status = $2)
              AND ($3::timestamptz IS NULL OR (updated_at, id) < ($3, $4::uuid))
              {matches}
            ORDER BY updated_at DESC, id DESC
            LIMIT $5
        """
        last = before or (None, None)
        rows = await connection.fetch(sql, user_id, status, *last, limit, *words)
    return [read(Conversation, row) for row in rows]


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
    async with store.reading() as connection:
        messages = await connection.fetch(messages_sql, conversation_id, HISTORY_LENGTH)
        first = messages[-1]["seq"] if len(messages) == HISTORY_LENGTH else 0
        calls = await connection.fetch(calls_sql, conversation_id, first, HISTORY_LENGTH)
    return History(
        messages=[read(Message, row) for row in reversed(messages)],
        calls=[read(IntentCall, row) for row in reversed(calls)],
    )


# --- what people type into a search box -----------------------------------------------------------
# What is a word is for Postgres to say, which folds texts and terms alike (`voice.fold`).

_WRITTEN = re.compile(r'(?P<not>-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')
# As phones make them of the plain one.
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»", '"'))


class _Term(msgspec.Struct, frozen=True):
    """`text` is to be there, or not to be (`negated`). With `prefix` its last word is the beginning
    of one. Terms with one `place` go together, places are alternatives."""

    place: int
    text: str
    negated: bool = False
    prefix: bool = False


def _parse(q: str) -> list[_Term]:
    """The terms in their order; there is no mistake that one could make."""
    found = list(_WRITTEN.finditer(q.translate(_QUOTES)))
    terms: list[_Term] = []
    place = 0
    for number, each in enumerate(found, start=1):
        word, negated = each["word"], each["not"] is not None
        follows = bool(terms) and terms[-1].place == place
        if word and word.lower() == "or" and not negated and follows and number < len(found):
            place += 1
        elif word:
            terms.append(_Term(place, word, negated, prefix=not negated))
        else:
            terms.append(_Term(place, each["phrase"], negated))
    return terms


async def _make_query(connection: Connection, terms: Sequence[_Term]) -> str | None:
    """The tsquery of these terms, as text; None: there is no word in them."""
    sql = """
        SELECT string_agg('(' || together || ')', ' | ')
        FROM (
            SELECT string_agg(CASE WHEN negated THEN '!' ELSE '' END
                              || '(' || words || CASE WHEN prefix THEN ':*' ELSE '' END || ')',
                              ' & ') AS together
            FROM json_to_recordset($1) AS t (place int, text text, negated bool, prefix bool),
                 CAST(phraseto_tsquery('simple', voice.fold(t.text)) AS text) AS words
            WHERE words <> ''
            GROUP BY place
        ) AS alternative
    """
    query: str | None = await connection.fetchval(sql, storable_json(terms))
    return query


def _quote_word(word: str) -> str:
    """A tsquery of this one word, taken literally."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
