"""Whether a function call is due to be submitted again: the SQL.

Control plane. It works within the transaction that its connection is in.
"""

from __future__ import annotations

from control.db.batch_writer import Connection


async def exist(connection: Connection) -> bool:
    found: bool = await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM voice.intents WHERE status = 'submitting' AND next_attempt_at <= now()
        )
        """
    )
    return found
