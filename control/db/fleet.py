"""Live sessions and nodes of all relays on the database, as administrators see them: the SQL.

Control plane.
"""

from __future__ import annotations

import time
from datetime import datetime
from uuid import UUID

import msgspec

from control.db import ownership
from control.db.pool import Connection
from control.db.rows import SessionState, SessionView, columns, read
from control.db.sessions import session_columns
from control.db.store import Store

DIRECT_SECONDS = 7500.0  # as long as one that nobody ends can be live (direct_sessions.py)


class LiveSession(msgspec.Struct, frozen=True, kw_only=True):
    """`node_id` is null for a direct session, which nobody here carries, and until a browser
    attaches. Frames and bytes are those of a session of the node that is asked; else 0."""

    id: UUID
    conversation_id: UUID
    user_id: str
    node_id: UUID | None
    transport: str
    state: SessionState
    created_at: datetime
    started_at: datetime | None
    end_asked: str | None
    browser_frames: int
    browser_bytes: int
    agent_frames: int
    agent_bytes: int


class AnySession(SessionView, frozen=True, kw_only=True):
    """What only operators see besides: whose it is, which node has it (its owner of that `epoch`),
    and why it ended in our own words."""

    user_id: str
    node_id: UUID | None
    transport: str
    epoch: int
    end_asked: str | None
    end_detail: str | None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """`sessions` are live there. `agents` is its part of all agents; null without a governor.
    `cleared_at`: its files have nothing of who was erased until then."""

    id: UUID
    name: str | None
    started_at: datetime
    seen_at: datetime
    alive: bool
    drained: bool
    sessions: int
    agents: int | None
    cleared_at: datetime | None


async def list_live(
    store: Store, *, node_id: UUID | None = None, before: UUID | None = None, limit: int
) -> list[LiveSession]:
    """Newest first; `before` is the id of the last one seen."""
    # Each part has an index: that of what nodes have, and the ids, which are in order of time.
    sql = f"""
        SELECT {columns(LiveSession)} FROM (
            SELECT * FROM voice.sessions WHERE state <> 'ended' AND node_id IS NOT NULL
            UNION ALL
            SELECT * FROM voice.sessions WHERE transport = 'direct' AND state = 'live' AND id > $4
        ) AS s
        WHERE ($1::uuid IS NULL OR node_id = $1) AND ($2::uuid IS NULL OR id < $2)
        ORDER BY id DESC LIMIT $3
    """
    oldest = UUID(int=int((time.time() - DIRECT_SECONDS) * 1000) << 80)
    return await store.fetch(LiveSession, sql, node_id, before, limit, oldest)


async def get_session(store: Store, session_id: UUID) -> AnySession | None:
    sql = f"SELECT {session_columns(AnySession)} FROM voice.sessions WHERE id = $1"
    return next(iter(await store.fetch(AnySession, sql, session_id)), None)


NODES = f"""
    SELECT n.id, n.name, n.started_at, n.seen_at, n.seen_at > {ownership.ALIVE_SINCE} AS alive,
           n.drained, n.cleared_at,
           (SELECT count(*) FROM voice.sessions AS s WHERE s.node_id = n.id AND s.state <> 'ended')
               AS sessions,
           (SELECT size FROM voice.agent_shares AS a WHERE a.node_id = n.id) AS agents
    FROM voice.nodes AS n ORDER BY n.started_at, n.id
"""


async def list_nodes(store: Store) -> list[Node]:
    return await store.fetch(Node, NODES)


async def drain(connection: Connection, node_id: UUID, *, on: bool) -> Node | None:
    """Let it take no new sessions, or again; it hears that within a heartbeat. None: no such node.

    Works within the transaction that the connection is in.
    """
    sql = "UPDATE voice.nodes SET drained = $2 WHERE id = $1 RETURNING id"
    if await connection.fetchval(sql, node_id, on) is None:
        return None
    await ownership.notify(connection, [node_id])
    nodes = [read(Node, row) for row in await connection.fetch(NODES)]
    return next(node for node in nodes if node.id == node_id)
