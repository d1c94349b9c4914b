"""What a database did between two instants: statements, rows, WAL, and what its clients waited for.

Load tests. The server is started with `PARAMETERS`, and the account that looks is its superuser.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
import psutil

from control.db.pool import connected

PARAMETERS = ("shared_preload_libraries=pg_stat_statements", "max_wal_size=4GB")
LOOK_SECONDS = 0.05
TOP = 12  # statements that are shown one by one


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """All calls of one statement; `ms` is what the server took for them."""

    text: str
    calls: int
    rows: int
    wal_bytes: int
    ms: float


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What it had done by an instant."""

    at: float
    lsn: str
    cpu_seconds: float
    statements: dict[int, Statement]


class DatabaseLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What it did from one mark to another. `page_bytes` are the part of `wal_bytes` that are whole
    pages, of which each is written once after a checkpoint."""

    seconds: float
    cpu_seconds: float
    wal_bytes: int
    page_bytes: int
    statements: list[Statement]  # what took the server longest is first

    @property
    def calls(self) -> int:
        return sum(one.calls for one in self.statements)

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.statements)

    @property
    def transactions(self) -> int:
        return sum(one.calls for one in self.statements if one.text.startswith("COMMIT"))


class Observer:
    """Looks at one database, over a connection of its own; `pid` is the server's."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], pid: int) -> None:
        self._connection = connection
        self._server = psutil.Process(pid)

    async def mark(self) -> Mark:
        rows = await self._connection.fetch("""
            SELECT hashtextextended(query, queryid) AS id, min(query) AS text,
                   sum(calls)::bigint AS calls, sum(rows)::bigint AS rows,
                   sum(wal_bytes)::bigint AS wal_bytes, sum(total_exec_time) AS ms
            FROM pg_stat_statements GROUP BY 1
        """)
        statements = {
            row["id"]: Statement(
                text=" ".join(row["text"].split()),
                calls=row["calls"],
                rows=row["rows"],
                wal_bytes=row["wal_bytes"],
                ms=row["ms"],
            )
            for row in rows
        }
        # A record of our own: what was written before it is on the disk then, where alone it can be
        # looked at, and between two marks there is at least one.
        await self._connection.execute("SELECT pg_logical_emit_message(true, 'mark', '')")
        lsn = await self._connection.fetchval("SELECT pg_current_wal_flush_lsn()::text")
        return Mark(at=time.monotonic(), lsn=lsn, cpu_seconds=self._cpu(), statements=statements)

    async def between(self, one: Mark, two: Mark) -> DatabaseLoad:
        bytes_ = await self._connection.fetchrow(
            """
            SELECT coalesce(sum(combined_size), 0)::bigint AS wal,
                   coalesce(sum(fpi_size), 0)::bigint AS pages
            FROM pg_get_wal_stats($1::text::pg_lsn, $2::text::pg_lsn)
            """,
            one.lsn,
            two.lsn,
        )
        assert bytes_ is not None, "a sum is one row"
        found = [_subtract(each, one.statements.get(id_)) for id_, each in two.statements.items()]
        return DatabaseLoad(
            seconds=two.at - one.at,
            cpu_seconds=two.cpu_seconds - one.cpu_seconds,
            wal_bytes=bytes_["wal"],
            page_bytes=bytes_["pages"],
            statements=sorted((s for s in found if s.calls), key=lambda s: -s.ms),
        )

    async def count(self, rows: str) -> int:
        """How many there are: a table, and which of it."""
        return int(await self._connection.fetchval(f"SELECT count(*) FROM {rows}"))

    async def size(self, table: str) -> int:
        """Bytes on disk, with its indexes."""
        return int(await self._connection.fetchval(f"SELECT pg_total_relation_size('{table}')"))

    async def watch(self, looks: list[Counter[str]]) -> None:
        """Until it is cancelled: count, at each look, how many clients wait for what."""
        while True:
            rows = await self._connection.fetch("""
                SELECT wait_event_type || '/' || wait_event AS name, count(*) AS clients
                FROM pg_stat_activity
                WHERE backend_type = 'client backend' AND state = 'active'
                  AND wait_event IS NOT NULL GROUP BY 1
            """)
            looks.append(Counter({row["name"]: row["clients"] for row in rows}))
            await asyncio.sleep(LOOK_SECONDS)

    def _cpu(self) -> float:
        """Of those processes of the server that are there; what ended is in its parent's."""
        total = 0.0
        for process in (self._server, *self._server.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
            if process.pid == self._server.pid:
                total += times.children_user + times.children_system
        return total


def _subtract(later: Statement, earlier: Statement | None) -> Statement:
    if earlier is None:
        return later
    return Statement(
        text=later.text,
        calls=later.calls - earlier.calls,
        rows=later.rows - earlier.rows,
        wal_bytes=later.wal_bytes - earlier.wal_bytes,
        ms=later.ms - earlier.ms,
    )


@asynccontextmanager
async def observing(database_url: str, pid: int) -> AsyncIterator[Observer]:
    async with connected(database_url) as connection:
        for extension in ("pg_stat_statements", "pg_walinspect"):
            await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
        yield Observer(connection, pid)


def describe(load: DatabaseLoad, *, per: float, unit: str) -> list[str]:
    """Lines for people: everything divided by `per`, which is so many of the `unit`."""
    waste = load.page_bytes / load.wal_bytes if load.wal_bytes else 0.0
    lines = [
        f"  {load.calls / per:10.2f} statements  {load.transactions / per:8.2f} transactions  "
        f"{load.rows / per:8.2f} rows  {load.wal_bytes / per / 1024:8.2f} KiB of WAL "
        f"({waste:.0%} whole pages) {unit}; "
        f"{load.cpu_seconds / load.seconds:.2f} cores for {load.seconds:.1f} s"
    ]
    lines += [
        f"    {one.calls / per:9.3f} x  {one.ms / one.calls:8.3f} ms  "
        f"{one.wal_bytes / per:9.0f} B  {one.text[:90]}"
        for one in load.statements[:TOP]
    ]
    return lines
