"""Sessions as the REST side makes, shows and ends them: the SQL. Who owns one is in ownership.py.

Control plane. Each function is one transaction, and raises `StoreUnavailable`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

import msgspec

from control.db import ownership, usage
from control.db.pool import Connection
from control.db.rows import NewSession, SessionView, StoredSession, columns, storable_json
from control.db.store import Store

REOPEN = """
    UPDATE voice.conversations SET status = 'open' WHERE id = $1 AND user_id = $2 RETURNING id
"""
# The fields of a NewSession, in their order.
ADD_SESSION = """
    INSERT INTO voice.sessions
        (id, conversation_id, user_id, ticket_hash, ticket_expires_at, timezone, audio, voice,
         language, transport, record_audio, state, started_at)
    VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), $6, $7, $8, $9, $10, $11,
            CASE $10 WHEN 'direct' THEN 'live' ELSE 'new' END,
            CASE $10 WHEN 'direct' THEN now() END)
    RETURNING ticket_expires_at
"""
# Its conversation with it, in one go.
BEGIN = (
    "WITH begun AS (INSERT INTO voice.conversations (id, user_id) VALUES ($2, $3))" + ADD_SESSION
)


async def create_session(
    store: Store,
    session: NewSession,
    check: Callable[[Connection], Awaitable[object]] | None = None,
    *,
    resume: bool,
) -> datetime | None:
    """Add a session to a new conversation, or (`resume`) to one that the user has.

    When its ticket expires. None: there is none to resume. A closed conversation is open again.
    Who had it has it no longer: at once if the session is direct, else when it is attached.
    `check` is called within the transaction, first; nothing happens if it raises.
    """
    supersede = ownership.supersede if session.transport == "direct" else ownership.supersede_direct
    async with store.transaction() as connection:
        if check is not None:
            await check(connection)
        if resume:
            owned = session.conversation_id, session.user_id
            if await connection.fetchval(REOPEN, *owned) is None:
                return None
            await supersede(connection, session.conversation_id, session.id)
        values = {**msgspec.structs.asdict(session), "audio": storable_json(session.audio)}
        add = ADD_SESSION if resume else BEGIN
        expires_at: datetime = await connection.fetchval(add, *values.values())
    return expires_at


MOST_SESSIONS = 1_000  # of one conversation in a list


def session_columns(kind: type[SessionView]) -> str:
    """What to select for one of these."""
    shown = columns(kind).replace("close_reason", "end_reason AS close_reason")
    seconds = usage.OF_SESSION.format("sessions")
    shown = shown.replace("agent_seconds", f"{seconds} AS agent_seconds")
    return shown.replace("cost", "NULL::float8 AS cost")  # whoever shows it knows the price


async def get_session(store: Store, session_id: UUID, *, user_id: str) -> SessionView | None:
    sql = (
        f"SELECT {session_columns(SessionView)} FROM voice.sessions WHERE id = $1 AND user_id = $2"
    )
    return next(iter(await store.fetch(SessionView, sql, session_id, user_id)), None)


async def list_sessions(store: Store, conversation_id: UUID) -> list[StoredSession]:
    """Those that somebody began, the newest of very many, in order."""
    sql = f"""
        SELECT {session_columns(StoredSession)} FROM voice.sessions
        WHERE conversation_id = $1 AND (ticket_used_at IS NOT NULL OR transport = 'direct')
        ORDER BY id DESC LIMIT $2
    """
    return (await store.fetch(StoredSession, sql, conversation_id, MOST_SESSIONS))[::-1]


async def close_session(
    store: Store, session_id: UUID, *, user_id: str, reason: str, epoch_here: int | None = None
) -> bool:
    """Close its conversation; end it if it never began. False: the user has no such session.

    One that is live is ended by its owner: its `SessionEnded` says how. The owner with the number
    `epoch_here` is the caller's own node, which need not be told.
    """
    close = """
        UPDATE voice.conversations SET status = 'closed'
        WHERE id = (SELECT conversation_id FROM voice.sessions WHERE id = $1 AND user_id = $2)
        RETURNING id
    """
    async with store.transaction() as connection:
        if await connection.fetchval(close, session_id, user_id) is None:
            return False
        await end_session(connection, session_id, reason=reason, epoch_here=epoch_here)
    return True


async def end_session(
    connection: Connection, session_id: UUID, *, reason: str, epoch_here: int | None = None
) -> None:
    """End it here if nobody is its owner; else its owner is to, and nobody takes it over any more.

    Works within the transaction that the connection is in.
    """
    end = """
        UPDATE voice.sessions SET state = 'ended', ended_at = now(), end_reason = $2
        WHERE id = $1 AND state <> 'ended'
          AND (ticket_used_at IS NULL AND state = 'new' OR transport = 'direct')
    """
    ask_to_end = """
        UPDATE voice.sessions SET end_asked = 'hung_up'
        WHERE id = $1 AND epoch > 0 AND (state <> 'ended' OR end_reason = 'shutdown')
        RETURNING epoch
    """
    await connection.execute(end, session_id, reason)
    if await connection.fetchval(ask_to_end, session_id) not in (None, epoch_here):
        await ownership.notify(connection, [session_id])
