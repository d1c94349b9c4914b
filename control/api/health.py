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

from config.version import VERSION
from control.api.request_limits import UNCOUNTED
from control.api.sessions import Live
from control.db.database_check import find_applied, find_lacking
from control.db.migrate import MigrationError, find_pending, load_migrations
from control.db.pool import SILENT
from control.db.store import Store, StoreUnavailable
from relay.journal.journal import Journal
from relay.supervisor import Supervisor

READY_SECONDS = 3.0  # a probe gives up soon; so do we, with a reason
KEPT_SECONDS = 1.0  # what the database said goes for whoever asks meanwhile
STUCK_SECONDS = 60.0  # that the journal cannot write is worth a word only when it goes on


class Health(msgspec.Struct, frozen=True):
    status: str
    reasons: list[str] = []
    version: str = VERSION


class Readiness:
    """What the database says, which is asked once at a time and once in a while, however many want
    to know: anybody may, without a sign-in."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._reasons: list[str] = []

    async def find_reasons(self) -> list[str]:
        """Of `find_reasons`, a moment old at most."""
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if clock() - self._asked_at >= KEPT_SECONDS:
                self._reasons = await find_reasons(self._store)
                self._asked_at = clock()
        return list(self._reasons)


@get(
    "/health/live",
    tags=["health"],
    summary="The process answers, and its background tasks run",
    responses={503: ResponseSpec(Health, generate_examples=False, description="restart it")},
    opt=UNCOUNTED,
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
    opt=UNCOUNTED,
)
async def get_ready(
    readiness: NamedDependency[Readiness],
    live: Live,
    journal: SkipValidation[NamedDependency[Journal]],
    supervisor: NamedDependency[Supervisor],
) -> Response[Health]:
    if live.is_draining:
        reasons = ["the relay stops"]
    elif live.is_drained:
        reasons = ["an administrator has drained this node"]
    else:
        reasons = await readiness.find_reasons()
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
