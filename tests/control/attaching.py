"""A browser attaches, for tests of the control plane: the first ticket, or a resume ticket."""

from __future__ import annotations

from uuid import UUID

from control.db import ownership
from control.db.rows import AttachRequest
from control.sessions.admission import Admission

NODE = UUID(int=0xA)


async def take(store, session_id, ticket_hash, **given):
    """Use a ticket up, at node A unless `given` (fields of `AttachRequest`) says otherwise."""
    fields = {"node_id": NODE, "resume_hash": b"next", "grace": 30.0} | given
    request = AttachRequest(session_id=session_id, ticket_hash=ticket_hash, **fields)
    async with store.transaction() as connection:
        return await ownership.take(connection, request)


def admission(store, settle, **given):
    return Admission(store, settle, **{"node_id": NODE, "grace": 30.0} | given)
