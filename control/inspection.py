"""A database as this program finds it, without changing anything: for the doctor.

Control plane. Postgres itself is asked what the account may do, for each table that there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import uuid4

import asyncpg
import msgspec

from control.database import CONNECT_SECONDS, ConnectFailed, connected, describe

NOTICE_SECONDS = 2.0

TABLES = """
    SELECT c.oid, c.relname::text AS name FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('voice') AND c.relkind IN ('r', 'p') ORDER BY 2
"""
# `serve` writes all of them but the list of migrations.
LACKING = """
    SELECT privilege FROM unnest($2::text[]) AS privilege
    WHERE NOT has_table_privilege($1::oid, privilege)
"""
# `program` is the policy of migrations/0012; it is not for a role that one has switched to.
HIDDEN = """
    SELECT row_security_active($1::oid) AND NOT EXISTS (
        SELECT FROM pg_policy p WHERE p.polrelid = $1::oid AND p.polpermissive AND p.polcmd = '*'
        AND (p.polname <> 'program' OR current_user = session_user)
        AND EXISTS (
            SELECT FROM unnest(p.polroles) AS role
            WHERE role = 0 OR pg_has_role(current_user, role, 'USAGE')
        )
    )
"""


class Inspected(msgspec.Struct, frozen=True):
    """`lacking`: privileges that `serve` needs, as `INSERT on voice.messages`; `hidden`: tables of
    which row security shows the account nothing. `applied` is empty where it may not be read."""

    version: int  # major
    read_only: bool
    lacking: tuple[str, ...]
    hidden: tuple[str, ...]
    applied: Mapping[str, str]
    hears: bool  # notices come


class InspectionFailed(Exception):
    """It does not let us look; the text is one line that says why."""


async def inspect(database_url: str) -> Inspected:
    """Look without changing anything. Raises `InspectionFailed`."""
    try:
        async with (
            connected(database_url, command_timeout=CONNECT_SECONDS) as connection,
            connection.transaction(readonly=True),
        ):
            found = await _look(connection)
        return msgspec.structs.replace(found, hears=await _hears(database_url))
    except ConnectFailed as error:
        raise InspectionFailed(str(error)) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise InspectionFailed(f"the database does not let us look: {describe(error)}") from error


async def _look(connection: asyncpg.Connection[asyncpg.Record]) -> Inspected:
    version = await connection.fetchval("SELECT current_setting('server_version_num')::int")
    read_only = await connection.fetchval(
        "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"
    )
    lacking: list[str] = []
    hidden: list[str] = []
    applied: dict[str, str] = {}
    tables = await connection.fetch(TABLES)
    if tables and not await connection.fetchval("SELECT has_schema_privilege('voice', 'USAGE')"):
        lacking.append("USAGE on schema voice")
        tables = []
    for table in tables:
        is_list = table["name"] == "migrations"
        needed = ["SELECT"] if is_list else ["SELECT", "INSERT", "UPDATE", "DELETE"]
        rows = await connection.fetch(LACKING, table["oid"], needed)
        lacking += [f"{row['privilege']} on voice.{table['name']}" for row in rows]
        if await connection.fetchval(HIDDEN, table["oid"]):
            hidden.append(f"voice.{table['name']}")
        elif is_list and not rows:
            found = await connection.fetch("SELECT name, checksum FROM voice.migrations")
            applied = {row["name"]: row["checksum"] for row in found}
    return Inspected(version // 10_000, read_only, tuple(lacking), tuple(hidden), applied, True)


async def _hears(database_url: str) -> bool:
    """Whether a notice comes: not behind a pooler in transaction mode."""
    channel, heard = f"doctor_{uuid4().hex}", asyncio.Event()
    async with connected(database_url) as listener, connected(database_url) as speaker:
        await listener.add_listener(channel, lambda *_: heard.set())
        try:
            await speaker.execute(f"NOTIFY {channel}")
            async with asyncio.timeout(NOTICE_SECONDS):
                await heard.wait()
        except (TimeoutError, asyncpg.ReadOnlySQLTransactionError):
            pass
        await listener.remove_listener(channel, lambda *_: None)
    return heard.is_set()
