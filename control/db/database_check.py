"""A database as this program finds it, without changing anything: for the doctor.

Control plane. Postgres itself is asked what the account may do, for each table that there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import uuid4

import asyncpg
import msgspec

from control.db.errors import first_line
from control.db.pool import CONNECT_SECONDS, ConnectFailed, Connection, connected

NOTICE_SECONDS = 2.0

# `serve` writes all tables but the list of migrations.
LACKING = """
    SELECT format('%s on voice.%s', privilege, c.relname)
    FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    WHERE c.relnamespace = to_regnamespace('voice') AND c.relkind IN ('r', 'p')
    AND (c.relname <> 'migrations' OR privilege = 'SELECT')
    AND NOT has_table_privilege(c.oid, privilege)
    AND has_schema_privilege(c.relnamespace, 'USAGE')
    UNION SELECT 'USAGE on schema voice'
    WHERE NOT has_schema_privilege(to_regnamespace('voice')::oid, 'USAGE')
    ORDER BY 1
"""
# `program` is the policy of migrations/0012; it is not for a role that one has switched to.
HIDDEN = """
    SELECT 'voice.' || c.relname FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('voice') AND c.relkind IN ('r', 'p')
    AND row_security_active(c.oid) AND NOT EXISTS (
        SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd = '*'
        AND (p.polname <> 'program' OR current_user = session_user)
        AND EXISTS (
            SELECT FROM unnest(p.polroles) AS role
            WHERE role = 0 OR pg_has_role(current_user, role, 'USAGE')
        )
    )
    ORDER BY 1
"""
SERVER = """
    SELECT current_setting('server_version_num')::int / 10000 AS version,
           pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool
               AS read_only
"""
# Without these nobody is told which migrations there are.
TO_READ_MIGRATIONS = {"USAGE on schema voice", "SELECT on voice.migrations"}


class Inspected(msgspec.Struct, frozen=True):
    """`lacking`: privileges that `serve` needs, as `INSERT on voice.messages`; `hidden`: tables of
    which row security shows the account nothing. `applied` is empty where it may not be read."""

    version: int  # major
    read_only: bool
    lacking: tuple[str, ...]
    hidden: tuple[str, ...]
    applied: Mapping[str, str]
    hears: bool  # notices come


async def inspect(database_url: str, direct_url: str | None = None) -> Inspected:
    """Look without changing anything; `direct_url` is where notices are listened for, if not there.

    Raises `ConnectFailed`, also when it does not let us look.
    """
    try:
        async with (
            connected(database_url, command_timeout=CONNECT_SECONDS) as connection,
            connection.transaction(readonly=True),
        ):
            ((version, read_only),) = await connection.fetch(SERVER)
            lacking = await find_lacking(connection)
            hidden = tuple(row[0] for row in await connection.fetch(HIDDEN))
            may_read = TO_READ_MIGRATIONS.isdisjoint(lacking) and "voice.migrations" not in hidden
            applied = await find_applied(connection) if may_read else {}
        hears = await _hears(direct_url or database_url, database_url)
        return Inspected(version, read_only, lacking, hidden, applied, hears)
    except ConnectFailed:
        raise
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ConnectFailed("the database does not let us look", first_line(error)) from error


async def find_lacking(connection: Connection) -> tuple[str, ...]:
    """Privileges on tables that `serve` needs and the account has not."""
    return tuple(row[0] for row in await connection.fetch(LACKING))


async def find_applied(connection: Connection) -> Mapping[str, str]:
    """Applied migrations, name to checksum; empty when nothing was ever applied."""
    if not await connection.fetchval("SELECT to_regclass('voice.migrations')::text"):
        return {}
    rows = await connection.fetch("SELECT name, checksum FROM voice.migrations")
    if not rows and await connection.fetchval("SELECT row_security_active('voice.migrations')"):
        raise ConnectFailed(
            "row security hides our tables from our account",
            "voice.migrations has no row for it",
            "run `voice-relay migrate` as their owner, and sign in as the account itself, without "
            "a role",
        )
    return {row["name"]: row["checksum"] for row in rows}


async def _hears(direct_url: str, database_url: str) -> bool:
    """Whether a notice comes: not behind a pooler in transaction mode."""
    channel, heard = f"doctor_{uuid4().hex}", asyncio.Event()
    async with connected(direct_url) as listener, connected(database_url) as speaker:
        await listener.add_listener(channel, lambda *_: heard.set())
        try:
            await speaker.execute(f"NOTIFY {channel}")
            async with asyncio.timeout(NOTICE_SECONDS):
                await heard.wait()
        except (TimeoutError, asyncpg.ReadOnlySQLTransactionError):
            pass
        await listener.remove_listener(channel, lambda *_: None)
    return heard.is_set()
