"""Sessions as the REST side makes, shows and ends them: the SQL. Who owns one is in ownership.py.

Control plane. Each function is one transaction, and raises `StoreUnavailable`.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from control.db import ownership
from control.db.rows import NewSession, SessionView, columns
from control.db.store import Store
from relay.telemetry.histogram import SessionLatency

COLUMNS = columns(SessionView)


async def create_session(store: Store, session: NewSession, *, resume: bool) -> datetime | None:
    """Add a session to a new conversation, or (`resume`) to one that the user has.

    When its ticket expires. None: there is none to resume. A closed conversation is open again.
    """
    async with store.transaction() as connection:
        if resume:
            done = await connection.execute(
                "UPDATE voice.conversations SET status = 'open' WHERE id = $1 AND user_id = $2",
                session.conversation_id,
                session.user_id,
            )
            if done != "UPDATE 1":
                return None
            await ownership.supersede_direct(connection, session.conversation_id, session.id)
        else:
            await connection.execute(
                "INSERT INTO voice.conversations (id, user_id) VALUES ($1, $2)",
                session.conversation_id,
                session.user_id,
            )
        expires_at: datetime = await connection.fetchval(
            """
            INSERT INTO voice.sessions (id, conversation_id, user_id, ticket_hash,
                                        ticket_expires_at, timezone, audio, voice, language)
            VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), $6, $7::jsonb, $8, $9)
            RETURNING ticket_expires_at
            """,
            session.id,
            session.conversation_id,
            session.user_id,
            session.ticket_hash,
            session.ticket_seconds,
            session.timezone,
            session.audio.decode(),
            session.voice,
            session.language,
        )
    return expires_at


async def get_session(store: Store, session_id: UUID, *, user_id: str) -> SessionView | None:
    async with store.reading() as connection:
        row = await connection.fetchrow(
            f"""
            SELECT {COLUMNS}
            FROM (SELECT *, end_reason AS close_reason FROM voice.sessions) AS session
            WHERE id = $1 AND user_id = $2
            """,
            session_id,
            user_id,
        )
    if row is None:
        return None
    fields = dict(row)
    if fields["latency"] is not None:
        fields["latency"] = msgspec.json.decode(fields["latency"], type=SessionLatency)
    return SessionView(**fields)


async def close_session(store: Store, session_id: UUID, *, user_id: str, reason: str) -> bool:
    """Close its conversation; end it if it never began. False: the user has no such session.

    One that is live is ended by its owner: its `SessionEnded` says how.
    """
    async with store.transaction() as connection:
        conversation_id = await connection.fetchval(
            """
            UPDATE voice.conversations SET status = 'closed'
            WHERE id = (
                SELECT conversation_id FROM voice.sessions WHERE id = $1 AND user_id = $2
            )
            RETURNING id
            """,
            session_id,
            user_id,
        )
        if conversation_id is None:
            return False
        await connection.execute(
            """
            UPDATE voice.sessions SET state = 'ended', ended_at = now(), end_reason = $2
            WHERE id = $1 AND state <> 'ended'
              AND (ticket_used_at IS NULL AND state = 'new' OR transport = 'direct')
            """,
            session_id,
            reason,
        )
        await ownership.ask_to_hang_up(connection, session_id)
    return True
