"""Counts for how long agents are connected, and keeps to the minutes of a day.

Control plane. Every 30 s each node writes what its live sessions have used (of those that ended the
journal has it) and hears what is left of the day, which the sessions of a user share, on whatever
node they are. In between each session counts by itself, also while the database is away.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from config.limits import Limits
from control.db import usage
from control.db.errors import ValuesRefused
from control.db.pool import Connection
from control.db.store import Store, StoreUnavailable
from control.db.usage import Used, UsedByAll
from relay.live.session_registry import SessionRegistry
from relay.protocol.refusal import Refused
from relay.supervisor import Supervisor

log = logging.getLogger(__name__)

METER_SECONDS = 30.0
LEAVE_SECONDS = 2.0
LEAST_SECONDS = 1.0  # what is left after a session is a part of that: the way to its agent
CODE = "daily_minutes"


def cost(agent_seconds: float, price_per_minute: float) -> float | None:
    """In US dollars; None: there is no price."""
    return round(agent_seconds / 60 * price_per_minute, 4) if price_per_minute else None


class Meter:
    """`limits` has the minutes of a day, of one user and of all; 0: no limit.

    What all have used is looked up once in 30 s by each node: what their live sessions use is not
    written more often anyway.
    """

    def __init__(
        self,
        store: Store,
        live: SessionRegistry,
        limits: Limits,
        supervisor: Supervisor,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._live = live
        self._seconds = limits.daily_minutes_per_user * 60 or math.inf
        self._seconds_of_all = limits.daily_minutes * 60 or math.inf
        self._supervisor = supervisor
        self._clock = clock
        self._by_all: UsedByAll | None = None  # None: there is no limit
        self._by_all_until = -math.inf

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read it while inside, and once more on the way out: sessions have ended by then."""
        async with self._supervisor.repeating(
            "meter",
            self.read,
            pause=METER_SECONDS,
            foreseen=(StoreUnavailable,),
            say=lambda error: log.error("meter_unread reason=%s", error),
        ):
            yield
        with suppress(StoreUnavailable, ValuesRefused, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.read()

    async def read(self) -> None:
        """Write what was used by now, and tell each session how much longer it may go on.

        Raises `StoreUnavailable`.
        """
        times = self._live.agent_times
        if not times:
            return
        users = self._live.users
        async with self._store.transaction() as connection:
            await usage.keep(connection, times)
            left = await self._left(connection, users.values())
        for each in times:
            self._live.counted(each)
        for session_id, user_id in users.items():
            self._live.allow(session_id, left.get(user_id))

    async def check(self, connection: Connection, user_id: str) -> float | None:
        """How many seconds a session of this user may last that begins now; None: without an end.

        Works within the transaction that the connection is in. Raises `Refused` when the minutes
        of today are used up.
        """
        if not self._is_limited:
            return None
        (used,) = await usage.read_used(connection, [user_id])
        await self._look_at_all(connection)
        for left, whose in (
            (self._seconds - used.seconds, "your minutes of today"),
            (self._left_of_all, "the minutes of today, of all users,"),
        ):
            if left < LEAST_SECONDS:
                detail = f"{whose} are used up; the next day begins at 00:00 UTC"
                raise Refused(429, CODE, detail, retry_after=math.ceil(used.to_midnight))
        return self._share(used)

    async def _look_at_all(self, connection: Connection) -> None:
        if self._seconds_of_all == math.inf or self._clock() < self._by_all_until:
            return
        self._by_all = by_all = await usage.read_used_by_all(connection)
        self._by_all_until = self._clock() + min(METER_SECONDS, by_all.to_midnight)

    @property
    def _left_of_all(self) -> float:
        return self._seconds_of_all - (self._by_all.seconds if self._by_all else 0.0)

    @property
    def _is_limited(self) -> bool:
        return min(self._seconds, self._seconds_of_all) < math.inf

    async def _left(self, connection: Connection, user_ids: Iterable[str]) -> dict[str, float]:
        """For how long the sessions of each of these users may go on; without those that may go on
        beyond midnight."""
        if not self._is_limited:
            return {}
        await self._look_at_all(connection)
        found = await usage.read_used(connection, user_ids)
        shares = {used.user_id: self._share(used) for used in found}
        return {user_id: share for user_id, share in shares.items() if share is not None}

    def _share(self, used: Used) -> float | None:
        """What one session gets of what is left; None: more than today has."""
        share = min(
            (self._seconds - used.seconds) / max(1, used.live),
            self._left_of_all / max(1, self._by_all.live if self._by_all else 0),
        )
        return max(0.0, share) if share < used.to_midnight else None
