"""Function calls of all conversations, as administrators see them: listed, and many begun again or
given up at once. The SQL.

Control plane. What was said (arguments, results) is not shown: the history of its user has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from control.db.pool import Connection
from control.db.rows import columns
from control.db.store import Store
from relay.protocol.relay_events import IntentStatus


class CallLine(msgspec.Struct, frozen=True, kw_only=True):
    """`last_error` is what went wrong last, in our words or the Orchestrator's."""

    id: UUID
    conversation_id: UUID
    session_id: UUID
    user_id: str
    intent: str | None
    function: str
    status: IntentStatus
    attempts: int
    last_error: str | None
    created_at: datetime
    updated_at: datetime


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls: those with all of this. `reason` is a part of `last_error`, `since` is when they
    changed last. `ids`: of these only."""

    status: IntentStatus = IntentStatus.FAILED
    intent: str | None = None
    reason: str | None = None
    since: datetime | None = None
    ids: Sequence[UUID] | None = None

    @property
    def values(self) -> tuple[object, ...]:
        ids = None if self.ids is None else list(self.ids)
        return self.status.value, self.intent, self.reason, self.since, ids


# The status stands in the text where it can: then the index of failed ones is of use.
_WANTED = """
    i.status = $1
    AND ($2::text IS NULL OR i.intent = $2)
    AND ($3::text IS NULL OR strpos(lower(i.last_error), lower($3)) > 0)
    AND ($4::timestamptz IS NULL OR i.updated_at >= $4)
    AND ($5::uuid[] IS NULL OR i.id = ANY($5))
"""
_FAILED = "i.status = 'failed' AND"
_CHANGES = {
    # A new claim: what was written about it before, and comes late, is void.
    "retry": """
        status = 'submitting', attempts = 0, result = NULL, response = $6, next_attempt_at = now(),
        accepted_at = now(), in_doubt = false, last_error = NULL, claims = claims + 1,
        taken_back = false
    """,
    "discard": """
        status = 'cancelled', response = $6, next_attempt_at = NULL, claims = claims + 1,
        taken_back = true
    """,
}
Change = Literal["retry", "discard"]


async def list_calls(
    store: Store, wanted: Wanted, *, before: tuple[datetime, UUID] | None = None, limit: int
) -> list[CallLine]:
    """Newest change first; `before` is (updated_at, id) of the last one seen."""
    shown = columns(CallLine).replace("user_id", "c.user_id")
    shown = ", ".join(n if "." in n else f"i.{n}" for n in shown.split(", "))
    sql = f"""
        SELECT {shown}
        FROM voice.intents AS i JOIN voice.conversations AS c ON c.id = i.conversation_id
        WHERE {_FAILED if wanted.status is IntentStatus.FAILED else ""} {_WANTED}
          AND ($6::timestamptz IS NULL OR (i.updated_at, i.id) < ($6, $7::uuid))
        ORDER BY i.updated_at DESC, i.id DESC LIMIT $8
    """
    return await store.fetch(CallLine, sql, *wanted.values, *(before or (None, None)), limit)


async def count_failed(connection: Connection, wanted: Wanted) -> int:
    """How many of those that are wanted have failed."""
    sql = f"SELECT count(*) FROM voice.intents AS i WHERE {_FAILED} {_WANTED}"
    return int(await connection.fetchval(sql, *wanted.values))


async def change_failed(
    connection: Connection, wanted: Wanted, change: Change, *, response: str
) -> int:
    """Submit those that have failed again, at once, or give them up; how many. `response` is what a
    later agent is told of them.

    Works within the transaction that the connection is in.
    """
    sql = f"""
        UPDATE voice.intents AS i
        SET {_CHANGES[change]}, updated_at = greatest(updated_at, now())
        WHERE {_FAILED} {_WANTED}
    """
    done: str = await connection.execute(sql, *wanted.values, response)
    return int(done.split()[-1])
