"""Tickets for Deepgram's own clients that were not used yet: the SQL.

Control plane. Each function is one transaction, and raises `StoreUnavailable`. Of a ticket only the
SHA-256 is stored.
"""

from __future__ import annotations

from uuid import UUID

import msgspec
from msgspec.structs import astuple

from control.db.store import Store


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Whose ticket it is, and for which conversation; None: for a new one."""

    user_id: str
    conversation_id: UUID | None
    timezone: str


async def add(store: Store, ticket_hash: bytes, grant: Grant, *, ttl: float) -> bool:
    """Good for `ttl` seconds. False: the user has no such conversation."""
    sql = """
        WITH old AS (DELETE FROM voice.grants WHERE expires_at <= now())
        INSERT INTO voice.grants (ticket_hash, user_id, conversation_id, timezone, expires_at)
        SELECT $1, $2, $3::uuid, $4, now() + make_interval(secs => $5)
        WHERE $3::uuid IS NULL OR EXISTS (
            SELECT FROM voice.conversations WHERE id = $3 AND user_id = $2
        )
        RETURNING *
    """
    return bool(await store.change(Grant, sql, ticket_hash, *astuple(grant), ttl))


async def take(store: Store, ticket_hash: bytes) -> Grant | None:
    """Use a ticket up; None: it is unknown, used or too old."""
    sql = """
        WITH taken AS (DELETE FROM voice.grants WHERE ticket_hash = $1 RETURNING *)
        SELECT * FROM taken WHERE expires_at > now()
    """
    return next(iter(await store.change(Grant, sql, ticket_hash)), None)
