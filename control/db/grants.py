"""Tickets for Deepgram's own clients that were not used yet: the SQL.

Control plane. Each function works within the transaction that its connection is in. Of a ticket
only the SHA-256 is stored.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from control.db.batch_writer import Connection
from control.db.rows import read


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Whose ticket it is, and for which conversation; None: for a new one."""

    user_id: str
    conversation_id: UUID | None
    timezone: str


async def add(connection: Connection, ticket_hash: bytes, grant: Grant, *, ttl: float) -> bool:
    """Good for `ttl` seconds. False: the user has no such conversation."""
    await connection.execute("DELETE FROM voice.grants WHERE expires_at <= now()")
    done = await connection.execute(
        """
        INSERT INTO voice.grants (ticket_hash, user_id, conversation_id, timezone, expires_at)
        SELECT $1, $2, $3::uuid, $4, now() + make_interval(secs => $5)
        WHERE $3::uuid IS NULL OR EXISTS (
            SELECT FROM voice.conversations WHERE id = $3 AND user_id = $2
        )
        """,
        ticket_hash,
        grant.user_id,
        grant.conversation_id,
        grant.timezone,
        ttl,
    )
    return str(done) == "INSERT 0 1"


async def take(connection: Connection, ticket_hash: bytes) -> Grant | None:
    """Use a ticket up; None: it is unknown, used or too old."""
    sql = """
        DELETE FROM voice.grants WHERE ticket_hash = $1
        RETURNING user_id, conversation_id, timezone, expires_at > now() AS is_valid
    """
    row = await connection.fetchrow(sql, ticket_hash)
    return read(Grant, row) if row is not None and row["is_valid"] else None
