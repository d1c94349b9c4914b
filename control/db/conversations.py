"""Conversations and what was said in them: the SQL.

Control plane. Each function is one transaction, and raises `StoreUnavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from control.db import ownership
from control.db.batch_writer import Connection
from control.db.calls import CALL_COLUMNS, read_call
from control.db.rows import Conversation, History, Message, Status, columns, storable
from control.db.search_query import Term, parse
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
    async with store.transaction() as connection:
        row = await connection.fetchrow(
            f"""
            INSERT INTO voice.conversations (id, user_id) VALUES ($1, $2)
            RETURNING {COLUMNS}
            """,
            conversation_id,
            user_id,
        )
    assert row is not None, "an insert without conflict clause returns its row"
    return Conversation(**row)


async def get_conversation(
    store: Store, conversation_id: UUID, *, user_id: str
) -> Conversation | None:
    async with store.reading() as connection:
        row = await connection.fetchrow(
            f"""
            SELECT {COLUMNS}
            FROM voice.conversations WHERE id = $1 AND user_id = $2
            """,
            conversation_id,
            user_id,
        )
    return None if row is None else Conversation(**row)


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
            query = await _make_query(connection, parse(storable(q)))
            if query is None:
                return []
            matches, words = f"AND id IN ({_FOUND})", [_quote_word(f"={user_id}"), query]
        rows = await connection.fetch(
            f"""
            SELECT {COLUMNS}
            FROM voice.conversations
            WHERE user_id = $1
              AND ($2::text IS NULL OR status = $2)
              AND ($3::timestamptz IS NULL OR (updated_at, id) < ($3, $4::uuid))
              {matches}
            ORDER BY updated_at DESC, id DESC
            LIMIT $5
            """,
            user_id,
            status,
            *(before or (None, None)),
            limit,
            *words,
        )
    return [Conversation(**row) for row in rows]


async def rename_conversation(
    store: Store, conversation_id: UUID, *, user_id: str, title: str
) -> Conversation | None:
    """A new title is not news: the place in the list stays."""
    async with store.transaction() as connection:
        row = await connection.fetchrow(
            f"""
            UPDATE voice.conversations SET title = $3 WHERE id = $1 AND user_id = $2
            RETURNING {COLUMNS}
            """,
            conversation_id,
            user_id,
            storable(title),
        )
    return None if row is None else Conversation(**row)


async def erase_conversation(
    store: Store, conversation_id: UUID, *, user_id: str
) -> list[UUID] | None:
    """Delete it with its messages, calls and sessions; returns the sessions not ended yet.

    None: there was no such conversation.
    """
    async with store.transaction() as connection:
        row = await connection.fetchrow(
            """
            WITH erased AS (
                DELETE FROM voice.conversations WHERE id = $1 AND user_id = $2 RETURNING id
            )
            SELECT array(
                SELECT id FROM voice.sessions
                WHERE conversation_id = erased.id AND state <> 'ended'
            ) AS sessions
            FROM erased
            """,
            conversation_id,
            user_id,
        )
        if row is not None:
            await ownership.notify(connection, row["sessions"])
    return None if row is None else list(row["sessions"])


async def list_messages(
    store: Store, conversation_id: UUID, *, after_seq: int = 0, limit: int
) -> list[Message]:
    async with store.reading() as connection:
        rows = await connection.fetch(
            f"""
            SELECT {MESSAGE_COLUMNS}
            FROM voice.messages WHERE conversation_id = $1 AND seq > $2
            ORDER BY seq LIMIT $3
            """,
            conversation_id,
            after_seq,
            limit,
        )
    return [Message(**row) for row in rows]


async def load_history(store: Store, conversation_id: UUID) -> History:
    """The newest messages, and the calls since the first of them that the next model is told
    of: those that were answered, and those that may yet reach the Orchestrator."""
    async with store.reading() as connection:
        messages = await connection.fetch(
            f"""
            SELECT {MESSAGE_COLUMNS}
            FROM voice.messages WHERE conversation_id = $1
            ORDER BY seq DESC LIMIT $2
            """,
            conversation_id,
            HISTORY_LENGTH,
        )
        whole = len(messages) < HISTORY_LENGTH
        calls = await connection.fetch(
            f"""
            SELECT {CALL_COLUMNS}
            FROM voice.intents
            WHERE conversation_id = $1 AND after_seq >= $2
              AND (response IS NOT NULL OR status = 'submitting')
            ORDER BY after_seq DESC, id DESC LIMIT $3
            """,
            conversation_id,
            0 if whole else messages[-1]["seq"],
            HISTORY_LENGTH,
        )
    return History(
        messages=[Message(**row) for row in reversed(messages)],
        calls=[read_call(row) for row in reversed(calls)],
    )


async def _make_query(connection: Connection, terms: Sequence[Term]) -> str | None:
    """The tsquery of these terms, as text; None: there is no word in them."""
    query: str | None = await connection.fetchval(
        """
        SELECT string_agg('(' || together || ')', ' | ')
        FROM (
            SELECT string_agg(CASE WHEN negated THEN '!' ELSE '' END
                              || '(' || words || CASE WHEN prefix THEN ':*' ELSE '' END || ')',
                              ' & ') AS together
            FROM unnest($1::int[], $2::text[], $3::bool[], $4::bool[])
                     AS t (place, said, negated, prefix),
                 CAST(phraseto_tsquery('simple', voice.fold(said)) AS text) AS words
            WHERE words <> ''
            GROUP BY place
        ) AS alternative
        """,
        [term.place for term in terms],
        [term.text for term in terms],
        [term.negated for term in terms],
        [term.prefix for term in terms],
    )
    return query


def _quote_word(word: str) -> str:
    """A tsquery of this one word, taken literally."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
