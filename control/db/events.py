"""What the Orchestrator is to be told of ended sessions (`voice.events`): the SQL.

Control plane. Each function is one transaction, and raises `StoreUnavailable`. The rows are made
where sessions end, by the database itself: migrations/0015.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from control.db.rows import read
from control.db.store import Store
from control.db.usage import OF_SESSION
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus

CALLS_SECONDS = 60.0  # what an event waits for calls of its session that have no outcome yet
MOST_MESSAGES = 1_000
MOST_INTENTS = 200
MOST_BYTES = 256 * 1024  # of the texts of all messages, and again of all intents
MOST_RESULT = 16 * 1024  # bytes: who gave a longer one knows it

Instant = Annotated[datetime, msgspec.Meta(tz=True)]

OUTCOMES = "('submitted', 'rejected', 'failed', 'cancelled')"


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is ours to deliver for a while. `body` is what was told of it before, `age` is
    in seconds."""

    session_id: UUID
    claims: int
    attempts: int
    age: float
    body: str | None


class EndedSession(msgspec.Struct, frozen=True, kw_only=True):
    at: Instant
    session_id: UUID
    conversation_id: UUID
    user_id: str
    title: str | None
    reason: str
    language: str | None
    began_at: Instant
    ended_at: Instant
    agent_seconds: float


class EndedMessage(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    role: deepgram.Role
    content: str
    at: Instant


class EndedIntent(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is the `call_id` that the Orchestrator knows it by; `intent` is null for a function that
    is not in the registry. A `result` of more than 16384 bytes is null."""

    id: UUID
    intent: str | None
    function: str
    parameters: Any
    status: IntentStatus
    result: Any
    after_seq: int
    at: Instant


class Ended(msgspec.Struct, frozen=True):
    """A session that has ended, with the newest of what was said and called in it, in order.
    `cut`: there is more."""

    session: EndedSession
    messages: list[EndedMessage]
    messages_cut: bool
    intents: list[EndedIntent]
    intents_cut: bool


async def is_any_due(store: Store) -> bool:
    """Whether it makes sense to claim one."""
    async with store.reading() as connection:
        sql = "SELECT FROM voice.events WHERE due_at <= now() LIMIT 1"
        return bool(await connection.fetch(sql))


async def claim_event(store: Store, *, lease: float) -> Due | None:
    """The one that is due for longest: others leave it alone for `lease` seconds. None: none is."""
    sql = f"""
        WITH due AS (
            SELECT e.session_id FROM voice.events AS e
            JOIN voice.sessions AS s ON s.id = e.session_id
            WHERE e.due_at <= now() AND (
                e.accepted_at <= now() - make_interval(secs => $2) OR NOT EXISTS (
                    SELECT FROM voice.intents AS i
                    WHERE i.conversation_id = s.conversation_id AND i.session_id = s.id
                      AND i.status NOT IN {OUTCOMES}
                ))
            ORDER BY e.due_at LIMIT 1
            FOR UPDATE OF e SKIP LOCKED
        )
        UPDATE voice.events AS e
        SET due_at = now() + make_interval(secs => $1), claims = e.claims + 1
        FROM due WHERE e.session_id = due.session_id
        RETURNING e.session_id, e.claims, e.attempts, e.body,
                  extract(epoch FROM now() - e.accepted_at)::float8 AS age
    """
    return next(iter(await store.change(Due, sql, lease, CALLS_SECONDS)), None)


async def load_ended(store: Store, session_id: UUID) -> Ended | None:
    """None: it was erased, or goes on after all."""
    session_sql = f"""
        SELECT e.accepted_at AS at, s.id AS session_id, s.conversation_id, c.user_id, c.title,
               s.end_reason AS reason, s.language, s.ended_at,
               coalesce(s.started_at, s.ticket_used_at, s.created_at) AS began_at,
               {OF_SESSION.format("s")} AS agent_seconds
        FROM voice.events AS e
        JOIN voice.sessions AS s ON s.id = e.session_id
        JOIN voice.conversations AS c ON c.id = s.conversation_id
        WHERE e.session_id = $1 AND s.state = 'ended'
    """
    async with store.reading() as connection:
        row = await connection.fetchrow(session_sql, session_id)
        if row is None:
            return None
        of_session = row["conversation_id"], session_id, MOST_BYTES
        messages = await connection.fetch(_MESSAGES, *of_session, MOST_MESSAGES)
        intents = await connection.fetch(_INTENTS, *of_session, MOST_INTENTS, MOST_RESULT)
    return Ended(
        session=read(EndedSession, row),
        messages=[read(EndedMessage, each) for each in reversed(messages)],
        messages_cut=any(m["count"] > len(messages) or m["is_long"] for m in messages),
        intents=[read(EndedIntent, each) for each in reversed(intents)],
        intents_cut=any(each["count"] > len(intents) for each in intents),
    )


# Each the newest first, as many as fit. A newest message that is too long by itself is cut.
_MESSAGES = """
    SELECT seq, role, CASE WHEN is_long THEN left(content, $3 / 4) ELSE content END AS content, at,
           count, is_long
    FROM (
        SELECT seq, role, content, created_at AS at, count(*) OVER () AS count,
               octet_length(content) > $3 AS is_long,
               row_number() OVER newest AS place,
               sum(octet_length(content)) OVER newest AS size
        FROM voice.messages WHERE conversation_id = $1 AND session_id = $2
        WINDOW newest AS (ORDER BY seq DESC)
    ) AS m
    WHERE place <= $4 AND (size <= $3 OR place = 1)
    ORDER BY seq DESC
"""
_INTENTS = """
    SELECT id, intent, function, parameters, status, result, after_seq, at, count FROM (
        SELECT id, intent, function, arguments AS parameters, status, told.result, after_seq,
               created_at AS at, count(*) OVER () AS count, row_number() OVER newest AS place,
               sum(octet_length(arguments) + coalesce(octet_length(told.result::text), 0))
                   OVER newest AS size
        FROM voice.intents AS i, LATERAL (
            SELECT CASE WHEN octet_length(i.result::text) <= $5 THEN i.result END AS result
        ) AS told
        WHERE conversation_id = $1 AND session_id = $2
        WINDOW newest AS (ORDER BY after_seq DESC, id DESC)
    ) AS c
    WHERE place <= $4 AND size <= $3
    ORDER BY after_seq DESC, id DESC
"""


async def keep_body(store: Store, session_id: UUID, body: str) -> None:
    """It is about to be told so, and whenever it is told again: an id stands for one text."""
    await _change(store, "body = $2", session_id, body)


async def note_delivered(store: Store, session_id: UUID) -> None:
    await _change(
        store,
        "due_at = NULL, body = NULL, last_error = NULL, delivered_at = now(),"
        " attempts = attempts + 1",
        session_id,
    )


async def note_failed(
    store: Store, due: Due, *, attempts: int, error: str, pause: float | None
) -> None:
    """Told in vain; it is due again after `pause` seconds (None: never). An opinion: it counts as
    long as nobody else has claimed the event."""
    again = "NULL" if pause is None else "now() + make_interval(secs => $5)"
    body = ", body = NULL" if pause is None else ""
    values = (due.claims, attempts, error, *(() if pause is None else (pause,)))
    await _change(
        store,
        f"due_at = {again}, attempts = $3, last_error = $4{body}",
        due.session_id,
        *values,
        condition="claims = $2 AND due_at IS NOT NULL",
    )


async def _change(
    store: Store, what: str, session_id: UUID, *values: object, condition: str = "true"
) -> None:
    sql = f"UPDATE voice.events SET {what} WHERE session_id = $1 AND {condition}"
    async with store.transaction() as connection:
        await connection.execute(sql, session_id, *values)
