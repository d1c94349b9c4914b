"""Gives the account of `serve` what it needs and no more: rows, not tables.

Control plane, beside migrations: whoever owns the tables runs it, and again after tables were made
by somebody else. Repeating it changes nothing.
"""

from __future__ import annotations

import asyncpg

from control.db.errors import first_line
from control.db.migrate import MigrationError
from control.db.pool import ConnectFailed, connected

# {role} is quoted. Later tables of the same owner are granted as they are made. The list of
# migrations is only read. The two policies: without a constant one a search cannot use its indexes
# (docs/security.md).
GRANTS = """
    GRANT USAGE ON SCHEMA voice TO {role};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA voice TO {role};
    REVOKE INSERT, UPDATE, DELETE ON voice.migrations FROM {role};
    ALTER DEFAULT PRIVILEGES IN SCHEMA voice
        GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
    DROP POLICY IF EXISTS {role} ON voice.conversations;
    DROP POLICY IF EXISTS {role} ON voice.messages;
    CREATE POLICY {role} ON voice.conversations TO {role} USING (true);
    CREATE POLICY {role} ON voice.messages TO {role} USING (true);
"""


async def grant(database_url: str, role: str) -> None:
    """To the account `role`, which exists. Raises `MigrationError`."""
    try:
        async with connected(database_url) as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '5s'")
            quoted = await connection.fetchval("SELECT quote_ident($1)", role)
            await connection.execute(GRANTS.format(role=quoted))
    except ConnectFailed as error:
        raise MigrationError(str(error)) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise MigrationError(
            f"{role} cannot be given its rights: {first_line(error)}; make the account first, and "
            "run this as the owner of the schema voice"
        ) from error
