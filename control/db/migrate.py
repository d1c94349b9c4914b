"""Brings a database to the schema of this program: the files of migrations/, in order, once each.

Control plane. Forward only, one transaction each, checksums kept, so that an edited migration is
noticed. The lock belongs to the transaction and not to the connection: that also holds behind a
transaction pooler. Nobody waits for it inside a transaction: one who does holds up the index that
the other one builds, for ever (control/db/concurrent_index.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import asyncpg
import msgspec

from config.errors import Explained
from control.db.concurrent_index import Blocked, Connection, name_holders, run_outside
from control.db.errors import first_line
from control.db.pool import ConnectFailed, connected, log_ignored

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

_LOCKED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


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
    log_ignored(database_url, log)
    known = load_migrations() if migrations is None else migrations
    try:
        async with connected(database_url) as connection:
            return await _Migrator(database_url, connection, known, log, lock_seconds).apply_all()
    except ConnectFailed as error:
        raise MigrationError(str(error)) from error
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise MigrationError(f"the database went away: {first_line(error)}") from error
    except asyncpg.PostgresError as error:
        raise MigrationError(f"the database refuses to be migrated: {first_line(error)}") from error


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

    async def apply_all(self) -> list[str]:
        await self._patiently(self._prepare)
        names: list[str] = []
        while (name := await self._patiently(self._apply_next)) is not None:
            names.append(name)
            self.log.info("migration_applied name=%s", name)
        return names

    async def _patiently(self, work: Callable[[], Awaitable[str | None]]) -> str | None:
        for left in reversed(range(TRIES)):
            try:
                return await self._in_turn(work)
            except _LOCKED:
                holders = await name_holders(self.connection, LOCK)
            except Blocked as error:
                holders = str(error)
            if left:
                self.log.warning("migration_waits tries_left=%d holders=%s", left, holders)
        raise MigrationError(
            f"a lock did not come within {TRIES} times {self.seconds:g} s; it is held by "
            f"{holders}: wait for its end or end it, and run this again"
        )

    async def _in_turn(self, work: Callable[[], Awaitable[str | None]]) -> str | None:
        """In a transaction, while no other program migrates."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.seconds
        while True:
            # Read committed keeps no snapshot between statements that an index would wait for.
            async with self.connection.transaction(isolation="read_committed"):
                if await self.connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK):
                    await self.connection.execute(LIFT_LIMITS)
                    await self.connection.execute(f"SET LOCAL lock_timeout = '{self.seconds}s'")
                    return await work()
            if loop.time() > until:
                raise Blocked(await name_holders(self.connection, LOCK))
            await asyncio.sleep(LOOK_SECONDS)

    async def _prepare(self) -> None:
        try:
            await self.connection.execute(CREATE_SCHEMA)
        except asyncpg.InsufficientPrivilegeError as error:
            raise MigrationError(
                f"the schema voice cannot be prepared: {first_line(error)}; give the account of "
                "DATABASE_URL the right CREATE on the database, or a schema voice of its own"
            ) from error

    async def _apply_next(self) -> str | None:
        """The name of what was applied; None: nothing is missing."""
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
                await run_outside(self.url, migration.sql, self.seconds)
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
