"""One statement of a migration that Postgres takes in no transaction: CREATE INDEX CONCURRENTLY.

Control plane. It may be run again: it says IF NOT EXISTS, and an index that a run before left half
built is dropped first. A time limit for locks would have to be set for a connection, which behind a
transaction pooler is not ours alone; so a second connection looks whether the statement is held up,
and cancels it.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import asyncpg

from control.db.pool import connected

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

LOOK_SECONDS = 0.1

# Of this schema, named in the statement, and not valid: only a build that has failed leaves one,
# as nobody else builds while we have the lock of the migrations.
UNFINISHED = r"""
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT i.indisvalid AND n.nspname = 'voice' AND $1 ~ ('\m' || c.relname || '\M')
"""
# The text of a running statement may be cut off.
BLOCKED = """
    SELECT pid, pg_blocking_pids(pid) AS holders FROM pg_stat_activity
    WHERE state = 'active' AND pid <> pg_backend_pid() AND query <> '' AND starts_with($1, query)
    AND cardinality(pg_blocking_pids(pid)) > 0
"""
# The oldest transaction first.
DESCRIBED = """
    SELECT format('process %s of %s (%s, %s for %s s)', pid, usename,
        coalesce(nullif(application_name, ''), 'no name'), coalesce(state, 'state not shown'),
        coalesce(extract(epoch FROM clock_timestamp() - xact_start)::int, 0))
    FROM pg_stat_activity WHERE pid = ANY($1) ORDER BY xact_start NULLS LAST LIMIT 3
"""
# Who has a lock on a table of ours, or the one of the migrations.
HOLDERS = """
    SELECT array_agg(DISTINCT l.pid) FROM pg_locks l
    WHERE l.granted AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.relation IN (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace('voice'))
        OR (l.locktype = 'advisory' AND l.classid = 0 AND l.objid::bigint = $1))
"""


class Blocked(Exception):
    """Others hold a lock for too long; the text says who."""


async def run_outside(database_url: str, sql: str, seconds: float) -> None:
    """Run the statement. Raises `Blocked` when it waits for one lock longer than `seconds`."""
    async with connected(database_url) as worker, connected(database_url) as watcher:
        for name in [row[0] for row in await watcher.fetch(UNFINISHED, sql)]:
            drop = f"DROP INDEX CONCURRENTLY IF EXISTS {name}"
            await _run_watched(worker, watcher, drop, seconds)
        await _run_watched(worker, watcher, sql, seconds)


async def _run_watched(worker: Connection, watcher: Connection, sql: str, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(worker.execute(sql), name="migration statement")
    blocked_at: float | None = None
    try:
        while not (await asyncio.wait({work}, timeout=LOOK_SECONDS))[0]:
            row = await watcher.fetchrow(BLOCKED, sql)
            if row is None:
                blocked_at = None
            elif blocked_at is None:
                blocked_at = loop.time()
            elif loop.time() - blocked_at > seconds:
                holders = await _describe(watcher, row["holders"])
                await watcher.fetchval("SELECT pg_cancel_backend($1)", row["pid"])
                await asyncio.wait({work})
                if work.exception() is not None:
                    raise Blocked(holders)
        work.result()
    finally:
        work.cancel()  # the driver tells the server, too
        await asyncio.wait({work})


async def name_holders(connection: Connection, lock: int) -> str:
    """Who may hold what a migration waits for."""
    return await _describe(connection, await connection.fetchval(HOLDERS, lock))


async def _describe(connection: Connection, pids: list[int] | None) -> str:
    rows = await connection.fetch(DESCRIBED, pids)
    return ", ".join(row[0] for row in rows) or "somebody whom our account does not see"
