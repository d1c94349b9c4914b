"""REST: is the process alive, and can it do its work.

Control plane, outside the API prefix. For probes: a status and, where it is not well, the reasons.
"""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import SkipValidation

from control.api.sessions import Database, Live
from control.db.database_check import find_applied, find_lacking
from control.db.migrate import MigrationError, find_pending, load_migrations
from control.db.pool import SILENT
from control.db.store import Store, StoreUnavailable
from relay.journal.journal import Journal
from relay.supervisor import Supervisor

READY_SECONDS = 3.0  # a probe gives up soon; so do we, with a reason
STUCK_SECONDS = 60.0  # that the journal cannot write is worth a word only when it goes on


class Health(msgspec.Struct, frozen=True):
    status: str
    reasons: list[str] = []


@get(
    "/health/live",
    tags=["health"],
    summary="The process answers, and its background tasks run",
    responses={503: ResponseSpec(Health, generate_examples=False, description="restart it")},
    sync_to_thread=False,
)
def get_live(supervisor: NamedDependency[Supervisor]) -> Response[Health]:
    if supervisor.is_alive:
        return Response(Health("live"))
    return Response(Health("dead", ["a background task has ended"]), status_code=503)


@get(
    "/health/ready",
    tags=["health"],
    summary="The database has our schema and takes records; background tasks work; no stop is near",
    responses={503: ResponseSpec(Health, generate_examples=False, description="with reasons")},
)
async def get_ready(
    store: Database,
    live: Live,
    journal: SkipValidation[NamedDependency[Journal]],
    supervisor: NamedDependency[Supervisor],
) -> Response[Health]:
    if live.is_draining:
        reasons = ["the relay stops"]
    elif live.is_drained:
        reasons = ["an administrator has drained this node"]
    else:
        reasons = await find_reasons(store)
        reasons += [f"the background task {name!r} fails" for name in supervisor.failing]
        if journal.failing_seconds > STUCK_SECONDS:
            reasons.append("the database does not take what the journal has")
    if reasons:
        return Response(Health("not_ready", reasons), status_code=503)
    return Response(Health("ready"))


async def find_reasons(store: Store) -> list[str]:
    """Why this program cannot do its work; empty when it can."""
    try:
        async with asyncio.timeout(READY_SECONDS), store.reading() as connection:
            applied = await find_applied(connection)
            lacking = await find_lacking(connection)
        pending = find_pending(load_migrations(), applied)
    except StoreUnavailable as error:
        return [error.reason]  # its kind; more is in the log, which may name hosts
    except TimeoutError:
        return [SILENT]
    except MigrationError as error:
        return [str(error)]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return [f"our account lacks {lacking[0]}{more}"]
    return [f"migration {migration.name} is not applied" for migration in pending]
