"""Brings a database to the schema of this program: the files of migrations/, in order, once each.

Control plane. Forward only, one transaction each, checksums kept, so that an edited migration is
noticed. The lock belongs to the transaction and not to the connection: that also holds behind a
transaction pooler. Nobody waits for it inside a transaction: one who does holds up the index that
the other one builds, for ever.

CREATE INDEX CONCURRENTLY is for no transaction. It may be run again: it says IF NOT EXISTS, and an
index that a run before left half built is dropped first. A time limit for locks would have to be
set for a connection, which behind a transaction pooler is not ours alone; so a second connection
looks whether the statement is held up, and cancels it.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import logging
from collections.abc import Mapping, Sequence

import asyncpg
import msgspec

from config.errors import Explained
from control.db.errors import first_line
from control.db.pool import ConnectFailed, Connection, connected, log_oddities

LOCK = 0x766F6963  # "voic": one number for all who migrate this database
LOCK_SECONDS = 5.0  # who waits for a table's lock keeps everybody else from the table
TRIES = 5
LOOK_SECONDS = 0.1
OUTSIDE = "-- outside a transaction"
"""The first line of a file with one statement that Postgres takes in no transaction."""

COMPATIBLE = "-- compatible: "
"""Begins a line of a file with which programs without it may still start: docs/decisions/0010."""

# Everything of ours is in one schema: other programs may share the database. Postgres asks for the
# right to make a schema even where IF NOT EXISTS makes none, so one that an operator made is kept.
CREATE_SCHEMA = """
    DO $$ BEGIN
        IF to_regnamespace('voice') IS NULL THEN
            CREATE SCHEMA voice;
        END IF;
        IF to_regclass('voice.migrations') IS NULL THEN
            CREATE TABLE voice.migrations (
                name        text PRIMARY KEY,
                checksum    text NOT NULL,
                applied_at  timestamptz NOT NULL DEFAULT now(),
                compatible  boolean NOT NULL DEFAULT false
            );
            ALTER TABLE voice.migrations ENABLE ROW LEVEL SECURITY;
        ELSIF NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = to_regclass('voice.migrations') AND attname = 'compatible'
        ) THEN
            ALTER TABLE voice.migrations ADD COLUMN compatible boolean NOT NULL DEFAULT false;
        END IF;
    END $$;
"""
# Whoever set limits for the account meant its usual work. Not all versions have all of them.
LIFT_LIMITS = """
    SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN
    ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')
"""

# Of this schema, named in the statement, and not valid: only a build that has failed leaves one,
# as nobody else builds while we have the lock of the migrations.
UNFINISHED = r"""
    SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', n.nspname, c.relname)
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
# The oldest transaction first, of these processes, or else of those that have a lock on a table of
# ours, or the one of the migrations.
HOLDERS = """
    SELECT format('process %s of %s (%s, %s for %s s)', pid, usename,
        coalesce(nullif(application_name, ''), 'no name'), coalesce(state, 'state not shown'),
        coalesce(extract(epoch FROM clock_timestamp() - xact_start)::int, 0))
    FROM pg_stat_activity WHERE pid = ANY(coalesce($1::int[], (
        SELECT array_agg(l.pid) FROM pg_locks l
        WHERE l.granted AND l.pid <> pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (l.relation IN (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace('voice'))
            OR (l.locktype = 'advisory' AND l.classid = 0 AND l.objid::bigint = $2))
    ))) ORDER BY xact_start NULLS LAST LIMIT 3
"""

_LOCKED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


class _Blocked(Exception):
    """Others hold a lock for too long: `pids`, or whoever has one of ours."""

    def __init__(self, pids: list[int] | None = None) -> None:
        super().__init__()
        self.pids = pids


class Migration(msgspec.Struct, frozen=True):
    """One file: its name without the ending, its SQL, and the SHA-256 of that."""

    name: str
    sql: str
    checksum: str

    @property
    def is_outside(self) -> bool:
        return self.sql.startswith(f"{OUTSIDE}\n")

    @property
    def is_compatible(self) -> bool:
        """Whether programs that do not know it go on working with it."""
        return any(line.startswith(COMPATIBLE) for line in self.sql.splitlines())


class MigrationError(Explained):
    """The database cannot be brought to this schema; the text says which migration and why."""


def load_migrations() -> tuple[Migration, ...]:
    """The migrations that this program carries, in order."""
    files = importlib.resources.files("migrations").iterdir()
    found = [(file.name, file.read_text("utf-8")) for file in files if file.name.endswith(".sql")]
    return tuple(
        Migration(name.removesuffix(".sql"), sql, hashlib.sha256(sql.encode()).hexdigest())
        for name, sql in sorted(found)
    )


def find_pending(
    migrations: Sequence[Migration], applied: Mapping[str, str]
) -> tuple[Migration, ...]:
    """Those not applied yet (`applied`: name to checksum). A database that is ahead is fine.

    Raises `MigrationError` when an applied migration is not the one that we have.
    """
    for migration in migrations:
        checksum = applied.get(migration.name)
        if checksum is not None and checksum != migration.checksum:
            raise MigrationError(
                f"{migration.name} was edited after it was applied: expected checksum "
                f"{checksum[:12]}, got {migration.checksum[:12]}; restore the file and put the "
                "change into a new migration"
            )
    return tuple(migration for migration in migrations if migration.name not in applied)


async def migrate(
    database_url: str,
    *,
    log: logging.Logger,
    migrations: Sequence[Migration] | None = None,
    lock_seconds: float = LOCK_SECONDS,
) -> list[str]:
    """Apply what is missing; returns the names. Safe when several programs do it at once.

    A lock that another program holds is waited for five times, `lock_seconds` each.
    Raises `MigrationError`, also when the database cannot be reached.
    """
    log_oddities(database_url, log)
    known = load_migrations() if migrations is None else migrations
    try:
        async with connected(database_url) as connection:
            migrator = _Migrator(database_url, connection, known, log, lock_seconds)
            names: list[str] = []
            while (name := await migrator.apply()) is not None:
                names.append(name)
                log.info("migration_applied name=%s", name)
            return names
    except ConnectFailed as error:
        raise MigrationError(str(error)) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise MigrationError(
            f"the database does not let us migrate: {first_line(error)}"
        ) from error


async def refuse_newer(database_url: str, *, migrations: Sequence[Migration] | None = None) -> None:
    """Raises `MigrationError` when the database has a migration that a newer program brought, and
    that is not marked as compatible with older ones; `ConnectFailed` when it cannot be reached.

    For the start. A program that runs goes on: an upgrade migrates while old ones still run.
    """
    known = [migration.name for migration in migrations or load_migrations()]
    try:
        async with connected(database_url) as connection:
            # As JSON: a database that was last migrated by an older program has no such column.
            newer = await connection.fetchval(
                """
                SELECT string_agg(name, ', ' ORDER BY name) FROM voice.migrations AS m
                WHERE name <> ALL ($1) AND (to_jsonb(m) ->> 'compatible') IS DISTINCT FROM 'true'
                """,
                known,
            )
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise MigrationError(f"the database does not let us look: {first_line(error)}") from error
    if newer:
        raise MigrationError(
            f"the database is newer than this program, which does not know {newer}: start the "
            "version that migrated it, or a later one"
        )


class _Migrator(msgspec.Struct):
    url: str
    connection: Connection
    migrations: Sequence[Migration]
    log: logging.Logger
    seconds: float  # for a lock

    async def apply(self) -> str | None:
        """The name of what was applied; None: nothing is missing."""
        for left in reversed(range(TRIES)):
            try:
                return await self._in_turn()
            except (*_LOCKED, _Blocked) as error:
                pids = error.pids if isinstance(error, _Blocked) else None
            rows = await self.connection.fetch(HOLDERS, pids, LOCK)
            holders = ", ".join(row[0] for row in rows) or "somebody whom our account does not see"
            if left:
                self.log.warning("migration_waits tries_left=%d holders=%s", left, holders)
        raise MigrationError(
            f"a lock did not come within {TRIES} times {self.seconds:g} s; it is held by "
            f"{holders}: wait for its end or end it, and run this again"
        )

    async def _in_turn(self) -> str | None:
        """Apply the next one in a transaction, while no other program migrates."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.seconds
        while True:
            # Read committed keeps no snapshot between statements that an index would wait for.
            async with self.connection.transaction(isolation="read_committed"):
                if await self.connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK):
                    await self.connection.execute(LIFT_LIMITS)
                    await self.connection.execute(f"SET LOCAL lock_timeout = '{self.seconds}s'")
                    return await self._apply_next()
            if loop.time() > until:
                raise _Blocked
            await asyncio.sleep(LOOK_SECONDS)

    async def _apply_next(self) -> str | None:
        try:
            await self.connection.execute(CREATE_SCHEMA)
        except asyncpg.InsufficientPrivilegeError as error:
            raise MigrationError(
                f"the schema voice cannot be prepared: {first_line(error)}; give the account of "
                "DATABASE_URL the right CREATE on the database, or a schema voice of its own"
            ) from error
        rows = await self.connection.fetch("SELECT name, checksum FROM voice.migrations")
        pending = find_pending(self.migrations, {row["name"]: row["checksum"] for row in rows})
        if not pending:
            return None
        migration = pending[0]
        try:
            if migration.is_outside:
                # What was read above keeps its snapshot, which an index would wait for, until the
                # next statement of this connection.
                await self.connection.execute("SELECT")
                await self._run_outside(migration.sql)
            else:
                await self.connection.execute(migration.sql)
        except (*_LOCKED, asyncpg.PostgresConnectionError):
            raise
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.name} failed: {first_line(error)}") from error
        await self.connection.execute(
            "INSERT INTO voice.migrations (name, checksum, compatible) VALUES ($1, $2, $3)",
            migration.name,
            migration.checksum,
            migration.is_compatible,
        )
        return migration.name

    async def _run_outside(self, sql: str) -> None:
        async with connected(self.url) as worker, connected(self.url) as watcher:
            drops = [row[0] for row in await watcher.fetch(UNFINISHED, sql)]
            for statement in (*drops, sql):
                await self._run_watched(worker, watcher, statement)

    async def _run_watched(self, worker: Connection, watcher: Connection, sql: str) -> None:
        """Raises `_Blocked` when it waits for one lock for too long."""
        loop = asyncio.get_running_loop()
        work = asyncio.create_task(worker.execute(sql), name="migration statement")
        until = loop.time() + self.seconds
        try:
            while not (await asyncio.wait({work}, timeout=LOOK_SECONDS))[0]:
                row = await watcher.fetchrow(BLOCKED, sql)
                if row is None:
                    until = loop.time() + self.seconds
                elif loop.time() > until:
                    await watcher.fetchval("SELECT pg_cancel_backend($1)", row["pid"])
                    await asyncio.wait({work})
                    if work.exception() is not None:
                        raise _Blocked(row["holders"])
            work.result()
        finally:
            work.cancel()  # the driver tells the server, too
            await asyncio.wait({work})
