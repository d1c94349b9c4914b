"""Brings a database to the schema of this program: the files of migrations/, in order, once each.

Control plane. Forward only, one transaction each, checksums kept, so that an edited migration is
noticed. The lock belongs to the transaction and not to the connection: that also holds behind a
transaction pooler.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
from collections.abc import Mapping, Sequence

import asyncpg
import msgspec

LOCK = 0x766F6963  # "voic": one number for all who migrate this database
CONNECT_SECONDS = 10.0

# Everything of ours is in one schema: other programs may share the database. Postgres asks for the
# right to make a schema even where IF NOT EXISTS makes none, so one that an operator made is kept.
CREATE_SCHEMA = """
    DO $$ BEGIN
        IF to_regnamespace('voice') IS NULL THEN
            CREATE SCHEMA voice;
        END IF;
    END $$;
    CREATE TABLE IF NOT EXISTS voice.migrations (
        name        text PRIMARY KEY,
        checksum    text NOT NULL,
        applied_at  timestamptz NOT NULL DEFAULT now()
    );
    ALTER TABLE voice.migrations ENABLE ROW LEVEL SECURITY;
    ALTER TABLE voice.migrations ADD COLUMN IF NOT EXISTS compatible boolean NOT NULL DEFAULT false;
"""


# A line of a migration after which programs without it may still start: docs/decisions/0010.
COMPATIBLE = "-- compatible: "


class Migration(msgspec.Struct, frozen=True):
    """One file: its name without the ending, its SQL, and the SHA-256 of that."""

    name: str
    sql: str
    checksum: str

    @property
    def is_compatible(self) -> bool:
        """Whether programs that do not know it go on working with it."""
        return any(line.startswith(COMPATIBLE) for line in self.sql.splitlines())


class MigrationError(Exception):
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
) -> list[str]:
    """Apply what is missing; returns the names. Safe when several programs do it at once.

    Raises `MigrationError`, also when the database cannot be reached.
    """
    if migrations is None:
        migrations = load_migrations()
    connection = await _connect(database_url)
    try:
        return await _apply(connection, migrations, log)
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise MigrationError(f"the database went away: {describe(error)}") from error
    finally:
        connection.terminate() if connection.is_closed() else await connection.close()


async def refuse_newer(database_url: str, *, migrations: Sequence[Migration] | None = None) -> None:
    """Raises `MigrationError` when the database has a migration that a newer program brought, and
    that is not marked as compatible with older ones; also when it cannot be reached.

    For the start. A program that runs goes on: an upgrade migrates while old ones still run.
    """
    known = [migration.name for migration in migrations or load_migrations()]
    connection = await _connect(database_url)
    try:
        # As JSON: a database that was last migrated by an older program has no such column.
        newer = await connection.fetchval(
            """
            SELECT string_agg(name, ', ' ORDER BY name) FROM voice.migrations AS m
            WHERE name <> ALL ($1) AND (to_jsonb(m) ->> 'compatible') IS DISTINCT FROM 'true'
            """,
            known,
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise MigrationError(f"the database does not let us look: {describe(error)}") from error
    finally:
        connection.terminate()
    if newer:
        raise MigrationError(
            f"the database is newer than this program, which does not know {newer}: start the "
            "version that migrated it, or a later one"
        )


class Seen(msgspec.Struct, frozen=True):
    """A database as it is: its major version, the applied migrations, whether it takes writes."""

    version: int
    applied: Mapping[str, str]
    read_only: bool


async def inspect(database_url: str) -> Seen:
    """Look without changing anything. Raises `MigrationError` when it cannot be reached."""
    connection = await _connect(database_url)
    try:
        version = await connection.fetchval("SELECT current_setting('server_version_num')::int")
        read_only = await connection.fetchval(
            "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"
        )
        applied = {}
        if await connection.fetchval("SELECT to_regclass('voice.migrations')::text"):
            rows = await connection.fetch("SELECT name, checksum FROM voice.migrations")
            applied = {row["name"]: row["checksum"] for row in rows}
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise MigrationError(f"the database does not let us look: {describe(error)}") from error
    finally:
        connection.terminate() if connection.is_closed() else await connection.close()
    return Seen(version // 10_000, applied, read_only)


async def _connect(database_url: str) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(database_url, timeout=CONNECT_SECONDS, statement_cache_size=0)
    except (
        OSError,
        TimeoutError,
        ValueError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
    ) as error:
        raise MigrationError(
            f"the database does not answer: {describe(error)}; check DATABASE_URL"
        ) from error


async def _apply(
    connection: asyncpg.Connection[asyncpg.Record],
    migrations: Sequence[Migration],
    log: logging.Logger,
) -> list[str]:
    names: list[str] = []
    while True:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            try:
                await connection.execute(CREATE_SCHEMA)
            except asyncpg.InsufficientPrivilegeError as error:
                raise MigrationError(
                    f"the schema voice cannot be prepared: {describe(error)}; give the account of "
                    "DATABASE_URL the right CREATE on the database, or a schema voice of its own"
                ) from error
            rows = await connection.fetch("SELECT name, checksum FROM voice.migrations")
            pending = find_pending(migrations, {row["name"]: row["checksum"] for row in rows})
            if not pending:
                return names
            migration = pending[0]
            try:
                await connection.execute(migration.sql)
            except asyncpg.PostgresError as error:
                if isinstance(error, asyncpg.PostgresConnectionError):
                    raise
                raise MigrationError(f"{migration.name} failed: {describe(error)}") from error
            await connection.execute(
                "INSERT INTO voice.migrations (name, checksum, compatible) VALUES ($1, $2, $3)",
                migration.name,
                migration.checksum,
                migration.is_compatible,
            )
        names.append(migration.name)
        log.info("migration_applied name=%s", migration.name)


def describe(error: BaseException) -> str:
    """One line about an error of the database's driver, which may have several or none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
