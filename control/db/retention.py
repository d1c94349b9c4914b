"""Retention: conversations that nobody has touched for long are erased.

Control plane; it runs in every node, and one at a time does the work. A little at a time, so that
nobody waits for a lock of ours. What still has a call on its way to the Orchestrator stays, and
what somebody has or is about to resume.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from control.db.pool import Connection
from control.db.store import Store, StoreUnavailable
from relay.supervisor import Supervisor
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_SECONDS = 600.0
BATCH = 200
_LOCK = 0x72657461696E  # "retain"


@asynccontextmanager
async def running(
    store: Store, days: float, supervisor: Supervisor, metrics: Metrics | None = None
) -> AsyncIterator[None]:
    """Every ten minutes, while inside, erase what was not touched for `days`; 0: nothing."""
    if not days:
        yield
        return
    counted = metrics or Metrics()

    async def work() -> None:
        counted.retention_erased.inc(await sweep(store, days))
        counted.retention_runs.inc()

    async with supervisor.repeating(
        "retention",
        work,
        pause=LOOK_SECONDS,
        foreseen=(StoreUnavailable,),
        say=lambda error: log.warning("retention_delayed reason=%s", error),
    ):
        yield


async def sweep(store: Store, days: float) -> int:
    """Erase all that is too old, unless another node is about it; how many there were.

    Raises `StoreUnavailable`.
    """
    erased, count = 0, BATCH
    while count == BATCH:
        async with store.transaction() as connection:
            count = await erase_old(connection, days, limit=BATCH)
        erased += count
    if erased:
        log.info("retention_erased conversations=%d", erased)
    return erased


# Not: somebody has it, is about to (a ticket that is good), or may come back to it. None of that is
# news in the list, so the age does not tell. A direct session that nobody ends stays live.
_UNUSED = """
    updated_at < now() - make_interval(secs => $1 * 86400)
    AND NOT EXISTS (
        SELECT FROM voice.intents
        WHERE conversation_id = old.id AND status IN ('awaiting', 'submitting', 'cancelling')
    )
    AND NOT EXISTS (
        SELECT FROM voice.sessions WHERE conversation_id = old.id AND CASE state
            WHEN 'new' THEN ticket_used_at IS NOT NULL OR ticket_expires_at > now()
            WHEN 'live' THEN transport = 'relay' OR started_at > now() - interval '1 day'
            ELSE ended_at > now() - interval '1 hour'
        END
    )
    AND NOT EXISTS (
        SELECT FROM voice.grants WHERE conversation_id = old.id AND expires_at > now()
    )
"""


async def erase_old(connection: Connection, days: float, *, limit: int) -> int:
    """Erase up to `limit` conversations with all that is in them; 0 also when another node does."""
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
        return 0
    sql = f"""
        SELECT id FROM voice.conversations AS old WHERE {_UNUSED}
        ORDER BY updated_at LIMIT $2
        FOR UPDATE SKIP LOCKED
    """
    rows = await connection.fetch(sql, days, limit)
    # Looked at again, now that nobody can begin a session in them: one may have begun meanwhile.
    done = await connection.execute(
        f"DELETE FROM voice.conversations AS old WHERE id = ANY ($2::uuid[]) AND {_UNUSED}",
        days,
        [row["id"] for row in rows],
    )
    return int(done.split()[-1])
