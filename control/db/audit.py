"""What administrators have done (`voice.audit`): the SQL.

Control plane. A line is written in the transaction of its act, so that neither is there without the
other. It has ids and figures, never what somebody said.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from control.db.pool import Connection
from control.db.rows import columns, storable_json
from control.db.store import Store

ERASED = "user.erase"


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """`who` is `key` or `jwt:` and the subject. Without an `outcome` it was begun and not done."""

    id: UUID
    at: datetime
    who: str
    act: str
    target: str | None
    outcome: Any


async def note(
    connection: Connection,
    who: str,
    act: str,
    target: object = None,
    outcome: object = None,
) -> UUID:
    """The id of the new line. `outcome` is anything that JSON has."""
    line_id = uuid7()
    await connection.execute(
        "INSERT INTO voice.audit (id, who, act, target, outcome) VALUES ($1, $2, $3, $4, $5)",
        line_id,
        who,
        act,
        None if target is None else str(target),
        storable_json(outcome),
    )
    return line_id


async def finish(connection: Connection, line_id: UUID, outcome: object) -> None:
    """What was begun is done, now."""
    await connection.execute(
        "UPDATE voice.audit SET at = now(), outcome = $2 WHERE id = $1",
        line_id,
        storable_json(outcome),
    )


async def forget(connection: Connection, targets: list[str]) -> None:
    """Lines about these do not say any more what they were about."""
    await connection.execute(
        "UPDATE voice.audit SET target = NULL WHERE target = ANY($1::text[])", targets
    )


async def list_lines(
    store: Store, *, before: tuple[datetime, UUID] | None = None, limit: int
) -> list[AuditLine]:
    """Newest first; `before` is (at, id) of the last one seen."""
    sql = f"""
        SELECT {columns(AuditLine)} FROM voice.audit
        WHERE $1::timestamptz IS NULL OR (at, id) < ($1, $2::uuid)
        ORDER BY at DESC, id DESC LIMIT $3
    """
    return await store.fetch(AuditLine, sql, *(before or (None, None)), limit)
