"""REST for administrators: live sessions, nodes, and the state of the one that is asked.

Control plane, under /admin/api. What changes something is in the audit log.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter, SkipValidation
from msgspec.structs import replace

from config.settings import Settings
from control.admin.people import Administrator
from control.api.pagination import LIMIT, Cursor, Limit, cut_page, read_cursor
from control.api.problems import describe_problems
from control.api.sessions import HUNG_UP, Database, Live, show
from control.cluster.capacity import Capacity
from control.db import audit, calls, fleet, sessions
from control.db.audit import AuditLine
from control.db.fleet import AnySession, LiveSession, Node
from control.errors import ProblemError, require
from relay.core.records import Figures
from relay.journal import condemned
from relay.journal.condemned import RestoreFailed
from relay.journal.journal import Journal, JournalFigures
from relay.supervisor import Supervisor


class SessionPage(msgspec.Struct, frozen=True):
    items: list[LiveSession]
    next_cursor: str | None


class NodeList(msgspec.Struct, frozen=True):
    items: list[Node]
    next_cursor: None = None


class AuditPage(msgspec.Struct, frozen=True):
    items: list[AuditLine]
    next_cursor: str | None


class Condemned(msgspec.Struct, frozen=True):
    """Records that Postgres refuses, in `condemned.jsonl`; `oldest`: when the first was put there,
    null if there is none or the line cannot be read."""

    records: int
    oldest: datetime | None


class Outbox(msgspec.Struct, frozen=True):
    """Of all nodes: calls without an outcome, and the seconds since the oldest was accepted."""

    waiting: int
    oldest_seconds: float


class Governor(msgspec.Struct, frozen=True):
    """`limit` is for all nodes (0: none), `size` our part of it, `used` what we have of that."""

    limit: int
    size: int
    used: int
    free: int


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """Of the node that is asked, but for the outbox. `failing`: background tasks that have only
    failed for a minute."""

    node_id: UUID
    drained: bool
    stopping: bool
    sessions: int
    journal: JournalFigures
    condemned: Condemned
    outbox: Outbox
    governor: Governor
    failing: list[str]


class Restored(msgspec.Struct, frozen=True):
    restored: int


class SessionController(Controller):
    path = "/sessions"
    tags = ("operations",)

    @get("/", summary="Live sessions of all nodes, newest first", responses=describe_problems(400))
    async def list_sessions(
        self,
        store: Database,
        live: Live,
        *,
        node: Annotated[UUID | None, QueryParameter(description="of this node only")] = None,
        limit: Limit = LIMIT,
        cursor: Cursor = None,
    ) -> SessionPage:
        (before,) = read_cursor(cursor, tuple[UUID]) or (None,)
        found = await fleet.list_live(store, node_id=node, before=before, limit=limit + 1)
        shown = []
        for session in found:
            figures = live.figures(session.id)
            shown.append(replace(session, **_counted(figures)) if figures else session)
        return SessionPage(*cut_page(shown, limit, lambda last: (last.id,)))

    @get("/{session_id:uuid}", summary="One session", responses=describe_problems(404))
    async def get_session(
        self,
        store: Database,
        live: Live,
        settings: NamedDependency[Settings],
        session_id: FromPath[UUID],
    ) -> AnySession:
        session = require(await fleet.get_session(store, session_id), "session")
        return await show(store, live, session, settings.price_per_minute)

    @post(
        "/{session_id:uuid}/hang-up",
        summary="End a session, wherever it is",
        status_code=202,
        responses=describe_problems(404),
    )
    async def hang_up(
        self, store: Database, live: Live, administrator: Administrator, session_id: FromPath[UUID]
    ) -> None:
        require(await fleet.get_session(store, session_id), "session")
        async with store.transaction() as connection:
            await sessions.end_session(connection, session_id, reason=HUNG_UP)
            await audit.note(connection, administrator, "session.hang_up", session_id, {})
        live.hang_up(session_id)


def _counted(figures: Figures) -> dict[str, int]:
    names = ("browser_frames", "browser_bytes", "agent_frames", "agent_bytes")
    return {name: getattr(figures, name) for name in names}


class NodeController(Controller):
    path = "/nodes"
    tags = ("operations",)

    @get("/", summary="The nodes that are known, oldest first", responses=describe_problems())
    async def list_nodes(self, store: Database) -> NodeList:
        return NodeList(await fleet.list_nodes(store))

    @post(
        "/{drained_id:uuid}/drain",
        summary="Let a node take no new sessions; live ones go on",
        status_code=202,
        responses=describe_problems(404),
    )
    async def drain(
        self, store: Database, administrator: Administrator, drained_id: FromPath[UUID]
    ) -> Node:
        return await _drain(store, administrator, drained_id, on=True)

    @post(
        "/{drained_id:uuid}/undrain",
        summary="Let a node take new sessions again",
        status_code=202,
        responses=describe_problems(404),
    )
    async def undrain(
        self, store: Database, administrator: Administrator, drained_id: FromPath[UUID]
    ) -> Node:
        return await _drain(store, administrator, drained_id, on=False)


async def _drain(store: Database, administrator: str, node_id: UUID, *, on: bool) -> Node:
    async with store.transaction() as connection:
        node = require(await fleet.drain(connection, node_id, on=on), "node")
        act = "node.drain" if on else "node.undrain"
        await audit.note(connection, administrator, act, node_id, {})
    return node


@get("/state", tags=["operations"], summary="This node's state", responses=describe_problems())
async def get_state(
    store: Database,
    live: Live,
    journal: SkipValidation[NamedDependency[Journal]],
    supervisor: NamedDependency[Supervisor],
    capacity: NamedDependency[Capacity],
    settings: NamedDependency[Settings],
    node_id: NamedDependency[UUID],
) -> NodeState:
    return NodeState(
        node_id=node_id,
        drained=live.is_drained,
        stopping=live.is_draining,
        sessions=len(live),
        journal=journal.figures,
        condemned=Condemned(*await asyncio.to_thread(condemned.look, _condemned(settings))),
        outbox=Outbox(*await calls.count_waiting(store)),
        governor=Governor(*capacity.figures),
        failing=supervisor.failing,
    )


@post(
    "/condemned/restore",
    tags=["operations"],
    summary="Put the condemned records of this node back into its journal",
    status_code=200,
    responses=describe_problems(409),
)
async def restore_condemned(
    store: Database, administrator: Administrator, settings: NamedDependency[Settings]
) -> Restored:
    path = _condemned(settings)
    try:
        count = await asyncio.to_thread(condemned.restore, path) if path.exists() else 0
    except RestoreFailed as error:
        raise ProblemError(409, "condemned_unreadable", str(error)) from error
    async with store.transaction() as connection:
        await audit.note(connection, administrator, "condemned.restore", None, {"records": count})
    return Restored(count)


@get("/audit", tags=["audit"], summary="What was done, newest first", responses=describe_problems())
async def list_audit(store: Database, *, limit: Limit = LIMIT, cursor: Cursor = None) -> AuditPage:
    before = read_cursor(cursor, tuple[datetime, UUID])
    found = await audit.list_lines(store, before=before, limit=limit + 1)
    return AuditPage(*cut_page(found, limit, lambda last: (last.at, last.id)))


def _condemned(settings: Settings) -> Path:
    return settings.data_dir / "journal" / condemned.NAME
