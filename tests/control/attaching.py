"""A browser attaches, for tests of the control plane: the first ticket, or a resume ticket."""

from __future__ import annotations

from uuid import UUID

from config.agent import Audio
from control.db import ownership
from control.sessions.admission import Admission
from control.sessions.meter import Meter
from relay.supervisor import Supervisor
from tests.closed_network import settings_of

NODE = UUID(int=0xA)


async def take(store, session_id, ticket_hash, **given):
    """Use a ticket up, at node A unless `given` (arguments of `ownership.take`) says otherwise."""
    arguments = {"node_id": NODE, "resume_hash": b"next", "grace": 30.0} | given
    async with store.transaction() as connection:
        return await ownership.take(connection, session_id, ticket_hash, **arguments)


def admission(store, settle, *, node_id=NODE, grace=30.0):
    """`relay.core.admitted.Admit`."""
    settings = settings_of(RELAY_GRACE_SECONDS=f"{grace:g}")
    meter = Meter(store, None, settings, Supervisor())
    return Admission(store, settle, settings, Audio, print, meter, node_id=node_id).admit
