"""Which node has which session: the SQL of nodes, takeovers and ends that another node asks for.

Control plane. Every function works within the transaction that its connection is in; the store
opens it and translates errors. All instants are those of the database.
"""

from __future__ import annotations

from uuid import UUID

from control.flush import Connection

DEAD_SECONDS = 20.0  # without a heartbeat


async def beat(connection: Connection, node_id: UUID) -> None:
    """This node is alive; it is known from its first beat on."""
    await connection.execute(
        """
        INSERT INTO voice.nodes (id) VALUES ($1)
        ON CONFLICT (id) DO UPDATE SET seen_at = now()
        """,
        node_id,
    )


async def leave(connection: Connection, node_id: UUID) -> None:
    """This node stops; with sessions that are not ended in the database it stays, and is dead soon.

    Then others see for how long those may be taken over.
    """
    await connection.execute(
        """
        DELETE FROM voice.nodes WHERE id = $1 AND NOT EXISTS (
            SELECT FROM voice.sessions WHERE node_id = $1 AND state <> 'ended'
        )
        """,
        node_id,
    )


async def sweep(connection: Connection, grace: float) -> int:
    """End the sessions of nodes that are dead for `grace` seconds, and forget these nodes.

    How many sessions that were. The epoch stays: an owner that lives after all and could not reach
    the database goes on.
    """
    done = await connection.execute(
        """
        UPDATE voice.sessions AS s
        SET state = 'ended', ended_at = now(), end_reason = 'node_lost'
        WHERE s.state <> 'ended' AND s.node_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM voice.nodes AS n
            WHERE n.id = s.node_id AND n.seen_at > now() - make_interval(secs => $1)
        )
        """,
        DEAD_SECONDS + grace,
    )
    await connection.execute(
        "DELETE FROM voice.nodes WHERE seen_at <= now() - make_interval(secs => $1)",
        DEAD_SECONDS + grace,
    )
    return int(done.split()[-1])
