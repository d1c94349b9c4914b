"""Function calls that the Orchestrator answers (`voice.intents`), the outbox among them: the SQL.

Control plane. Each function is one transaction, and raises `StoreUnavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from control.db.rows import Claimed, IntentCall, columns, read
from control.db.store import Store

CALL_COLUMNS = columns(IntentCall).replace(
    "next_attempt_at",
    "CASE WHEN status IN ('awaiting', 'submitting') THEN next_attempt_at END AS next_attempt_at",
)
# What the outbox delivers: calls, and that they are undone.
_SENT = "status IN ('submitting', 'cancelling')"
_OF_USER = """
    id = $1 AND conversation_id = $2
    AND EXISTS (SELECT FROM voice.conversations WHERE id = $2 AND user_id = $3)
"""


async def list_calls(
    store: Store, conversation_id: UUID, *, after: tuple[int, UUID] | None = None, limit: int
) -> list[IntentCall]:
    """In order; `after` is (after_seq, id) of the last one seen."""
    sql = f"""
        SELECT {CALL_COLUMNS}
        FROM voice.intents WHERE conversation_id = $1 AND (after_seq, id) > ($2, $3)
        ORDER BY after_seq, id LIMIT $4
    """
    after_seq, last_id = after or (-1, UUID(int=0))
    return await store.fetch(IntentCall, sql, conversation_id, after_seq, last_id, limit)


async def is_any_due(store: Store) -> bool:
    """Whether a call is to be sent, or has waited for the user long enough, now."""
    sql = """
        SELECT FROM voice.intents
        WHERE status IN ('awaiting', 'submitting', 'cancelling') AND next_attempt_at <= now()
        LIMIT 1
    """
    async with store.reading() as connection:
        return bool(await connection.fetch(sql))


async def end_waits(store: Store, submitted: Sequence[str], *, response: str) -> None:
    """Calls that the user did not decide in time are submitted if their intent is among those,
    else cancelled; `response` is what a later agent is told then."""
    sql = """
        WITH due AS (
            SELECT id, coalesce(intent = ANY ($1::text[]), false) AS is_wanted FROM voice.intents
            WHERE status = 'awaiting' AND next_attempt_at <= now()
            ORDER BY next_attempt_at LIMIT 100
            FOR UPDATE SKIP LOCKED
        )
        UPDATE voice.intents AS i
        SET status = CASE WHEN is_wanted THEN 'submitting' ELSE 'cancelled' END,
            response = CASE WHEN is_wanted THEN NULL ELSE $2 END,
            next_attempt_at = CASE WHEN is_wanted THEN now() END, in_doubt = false,
            accepted_at = now(), claims = claims + 1, updated_at = greatest(updated_at, now())
        FROM due WHERE i.id = due.id
    """
    async with store.transaction() as connection:
        await connection.execute(sql, submitted, response)


async def claim_calls(store: Store, limit: int, *, lease: float) -> list[Claimed]:
    """Calls that are due, at most `limit`: others leave them alone for `lease` seconds.

    From now on a request of each may arrive, until a record says otherwise.
    """
    sql = f"""
        WITH due AS (
            SELECT id, in_doubt FROM voice.intents
            WHERE {_SENT} AND next_attempt_at <= now()
            ORDER BY next_attempt_at LIMIT $1
            FOR UPDATE SKIP LOCKED
        )
        UPDATE voice.intents AS i
        SET next_attempt_at = now() + make_interval(secs => $2), in_doubt = true,
            claims = i.claims + 1
        FROM due, voice.conversations AS c
        WHERE i.id = due.id AND c.id = i.conversation_id
        RETURNING i.id, i.conversation_id, i.session_id, i.call_id, i.after_seq, i.function,
                  i.intent, i.arguments, i.status, i.attempts, i.updated_at AS at, due.in_doubt,
                  i.claims AS claim, i.idempotency_key, i.taken_back, c.user_id,
                  extract(epoch FROM now() - i.accepted_at)::float8 AS age
    """
    return await store.change(Claimed, sql, limit, lease)


async def list_named(store: Store, ids: Sequence[UUID]) -> list[IntentCall]:
    """These calls as they stand."""
    sql = f"SELECT {CALL_COLUMNS} FROM voice.intents WHERE id = ANY($1::uuid[])"
    return await store.fetch(IntentCall, sql, ids)


async def count_waiting(store: Store) -> tuple[int, float]:
    """How many calls wait for the Orchestrator, and the seconds since the oldest was accepted."""
    sql = f"""
        SELECT count(*), coalesce(extract(epoch FROM now() - min(accepted_at)), 0)::float8
        FROM voice.intents WHERE {_SENT}
    """
    async with store.reading() as connection:
        ((count, oldest),) = await connection.fetch(sql)
    return count, oldest


async def retry_call(
    store: Store, call_id: UUID, conversation_id: UUID, *, user_id: str, response: str
) -> tuple[IntentCall, bool] | None:
    """Submit a failed call again, at once; `response` is what a model is told meanwhile.

    The call as it is now, and whether it was failed. None: the user has no such call.
    """
    of_user = call_id, conversation_id, user_id
    async with store.transaction() as connection:
        retried = await connection.fetchrow(
            # A new claim: what was written about it before, and comes late, is void.
            f"""
            UPDATE voice.intents
            SET status = 'submitting', attempts = 0, result = NULL, response = $4,
                next_attempt_at = now(), accepted_at = now(), in_doubt = false,
                taken_back = false, last_error = NULL, claims = claims + 1,
                updated_at = greatest(updated_at, now())
            WHERE {_OF_USER} AND status = 'failed'
            RETURNING {CALL_COLUMNS}
            """,
            *of_user,
            response,
        )
        row = retried or await connection.fetchrow(
            f"SELECT {CALL_COLUMNS} FROM voice.intents WHERE {_OF_USER}", *of_user
        )
    return None if row is None else (read(IntentCall, row), retried is not None)
