"""Function calls that the Orchestrator answers (`voice.intents`), the outbox among them: the SQL.

Control plane. Each function is one transaction, and raises `StoreUnavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from control.db.batch_writer import Row
from control.db.rows import CallOutcome, Claimed, IntentCall, OutboxSize, columns
from control.db.store import Store
from relay.protocol.relay_events import IntentStatus

CALL_COLUMNS = columns(IntentCall).replace(
    "next_attempt_at",
    "CASE status WHEN 'submitting' THEN next_attempt_at END AS next_attempt_at",
)


async def list_calls(
    store: Store, conversation_id: UUID, *, after: tuple[int, UUID] | None = None, limit: int
) -> list[IntentCall]:
    """In order; `after` is (after_seq, id) of the last one seen."""
    after_seq, last_id = after or (-1, UUID(int=0))
    async with store.reading() as connection:
        rows = await connection.fetch(
            f"""
            SELECT {CALL_COLUMNS}
            FROM voice.intents WHERE conversation_id = $1 AND (after_seq, id) > ($2, $3)
            ORDER BY after_seq, id LIMIT $4
            """,
            conversation_id,
            after_seq,
            last_id,
            limit,
        )
    return [read_call(row) for row in rows]


async def is_any_due(store: Store) -> bool:
    """Whether a call is to be submitted again, now."""
    async with store.reading() as connection:
        found: bool = await connection.fetchval(
            """
            SELECT EXISTS (
                SELECT FROM voice.intents WHERE status = 'submitting' AND next_attempt_at <= now()
            )
            """
        )
    return found


async def claim_calls(store: Store, limit: int, *, lease: float) -> list[Claimed]:
    """Calls that are due, at most `limit`: others leave them alone for `lease` seconds.

    From now on a request of each may arrive, until a record says otherwise.
    """
    async with store.transaction() as connection:
        rows = await connection.fetch(
            """
            WITH due AS (
                SELECT id, in_doubt FROM voice.intents
                WHERE status = 'submitting' AND next_attempt_at <= now()
                ORDER BY next_attempt_at LIMIT $1
                FOR UPDATE SKIP LOCKED
            )
            UPDATE voice.intents AS i
            SET next_attempt_at = now() + make_interval(secs => $2), in_doubt = true,
                claims = i.claims + 1
            FROM due, voice.conversations AS c
            WHERE i.id = due.id AND c.id = i.conversation_id
            RETURNING i.id, i.conversation_id, i.session_id, c.user_id, i.call_id, i.after_seq,
                      i.function, i.intent, i.arguments, i.attempts, due.in_doubt,
                      i.idempotency_key, i.claims AS claim,
                      extract(epoch FROM now() - i.accepted_at)::float8 AS age
            """,
            limit,
            lease,
        )
    return [Claimed(**row) for row in rows]


async def list_outcomes(store: Store, ids: Sequence[UUID]) -> list[CallOutcome]:
    """Those of the calls that have an outcome."""
    async with store.reading() as connection:
        rows = await connection.fetch(
            """
            SELECT id, status, result, response FROM voice.intents
            WHERE id = ANY($1::uuid[]) AND status <> 'submitting'
            """,
            list(ids),
        )
    return [
        CallOutcome(
            id=row["id"],
            status=IntentStatus(row["status"]),
            result=_read_json(row["result"]),
            response=row["response"] or "",
        )
        for row in rows
    ]


async def count_waiting(store: Store) -> OutboxSize:
    async with store.reading() as connection:
        row = await connection.fetchrow(
            """
            SELECT count(*) AS count,
                   coalesce(extract(epoch FROM now() - min(accepted_at)), 0)::float8 AS oldest
            FROM voice.intents WHERE status = 'submitting'
            """
        )
    assert row is not None, "an aggregate has one row"
    return OutboxSize(**row)


async def retry_call(
    store: Store, call_id: UUID, conversation_id: UUID, *, user_id: str, response: str
) -> tuple[IntentCall, bool] | None:
    """Submit a failed call again, at once; `response` is what a model is told meanwhile.

    The call as it is now, and whether it was failed. None: the user has no such call.
    """
    async with store.transaction() as connection:
        row = await connection.fetchrow(
            f"""
            SELECT {CALL_COLUMNS} FROM voice.intents
            WHERE id = $1 AND conversation_id = $2 AND EXISTS (
                SELECT FROM voice.conversations WHERE id = $2 AND user_id = $3
            )
            FOR UPDATE
            """,
            call_id,
            conversation_id,
            user_id,
        )
        if row is None:
            return None
        failed = row["status"] == IntentStatus.FAILED.value
        if failed:
            row = await connection.fetchrow(
                # A new claim: what was written about it before, and comes late, is void.
                f"""
                UPDATE voice.intents
                SET status = 'submitting', attempts = 0, result = NULL, response = $2,
                    next_attempt_at = now(), accepted_at = now(), in_doubt = false,
                    last_error = NULL, claims = claims + 1,
                    updated_at = greatest(updated_at, now())
                WHERE id = $1
                RETURNING {CALL_COLUMNS}
                """,
                call_id,
                response,
            )
    assert row is not None, "it is locked"
    return read_call(row), failed


def read_call(row: Row) -> IntentCall:
    fields = dict(row)
    fields["status"] = IntentStatus(fields["status"])
    fields["result"] = _read_json(fields["result"])
    return IntentCall(**fields)


def _read_json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
