"""REST: is the process alive, and can it do its work.

Control plane, outside the API prefix. For probes: a status and, where it is not well, the reasons.
"""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from control.database import find_reason
from control.migrate import MigrationError, find_pending, load_migrations
from control.sessions import Live
from control.store import Store, StoreUnavailable

READY_SECONDS = 3.0  # a probe gives up soon; so do we, with a reason


class Health(msgspec.Struct, frozen=True):
    status: str
    reasons: list[str] = []


@get("/health/live", tags=["health"], summary="The process answers", sync_to_thread=False)
def get_live() -> Health:
    return Health("live")


@get(
    "/health/ready",
    tags=["health"],
    summary="The database answers and has the schema of this program; it is not about to stop",
    responses={503: ResponseSpec(Health, generate_examples=False, description="with reasons")},
)
async def get_ready(store: NamedDependency[Store], live: Live) -> Response[Health]:
    reasons = ["the relay stops"] if live.is_draining else await find_reasons(store)
    if reasons:
        return Response(Health("not_ready", reasons), status_code=503)
    return Response(Health("ready"))


async def find_reasons(store: Store) -> list[str]:
    """Why this program cannot do its work; empty when it can."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            applied = await store.applied_migrations()
            lacking = await store.lacking_privileges()
        pending = find_pending(load_migrations(), applied)
    except (StoreUnavailable, TimeoutError) as error:
        return [find_reason(error)]  # its kind; more is in the log, which may name hosts
    except MigrationError as error:
        return [str(error)]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return [f"our account lacks {lacking[0]}{more}"]
    return [f"migration {migration.name} is not applied" for migration in pending]
