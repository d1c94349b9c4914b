"""Hundreds of relays on one database that carry nobody: what only their being there costs it.

Load tests. Each node is what a relay has beside its conversations, the program's own heartbeat,
part of the agents, meter and outbox, with sessions that are rows and nothing else. The nodes share
few connections, as behind a pooler; each has one of its own that listens. All start at once, run,
notify one another, and a part of them dies.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import asyncpg
import msgspec
import uuid_utils.compat as uuids

from config.intents import Registry
from config.limits import Limits
from control.cluster.capacity import Capacity
from control.cluster.heartbeat import Heartbeat
from control.db import ownership
from control.db.migrate import migrate
from control.db.pool import connected
from control.db.store import Store, StoreUnavailable
from control.dev.postgres import EmbeddedPostgres
from control.outbox.circuit_breaker import State
from control.outbox.worker import OutboxWorker
from control.sessions.meter import Meter
from loadtests import database_load
from loadtests.database_load import DatabaseLoad, Observer, observing
from loadtests.percentiles import Latency, summarize_values
from loadtests.processes import ANYWHERE
from loadtests.worker_process import WorkerProcess, running
from relay.core.events import EndReason
from relay.core.records import AgentTime
from relay.functions.executor import Functions
from relay.journal.journal import Journal
from relay.live.quotas import AgentQuota
from relay.live.session_registry import SessionRegistry
from relay.supervisor import Supervisor
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PROCESSES = 2
SESSION_SECONDS = 300.0  # that one lasts on the average
GRACE = 5.0  # for how long sessions of a dead node may be taken over
START_SECONDS = 60.0  # the longest that a phase may take to come about
SPARE_AGENTS = 1.2  # the limit, in agents that are used

Samples = dict[str, list[float]]  # seconds that something took, by its name


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Of the fleet. `sessions` are those of each node, `seconds` of each phase, `notices` a second
    of all, `connections` of each process. `day`: rows that `voice.usage` has of today; without any
    there is no limit of the minutes of a day."""

    nodes: int = 500
    sessions: int = 100
    seconds: float = 20.0
    notices: float = 20.0
    connections: int = 20
    day: int = 0

    @property
    def deaths(self) -> int:
        return self.nodes // 5

    @property
    def agents(self) -> int:
        return int(self.nodes * self.sessions * SPARE_AGENTS)


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` until it had come about, or how long it was looked at; what took how long, what
    was counted, how many clients of the database waited for what on the average and at most."""

    name: str
    seconds: float
    cores: float  # that the nodes took, all together
    load: DatabaseLoad
    took: dict[str, Latency]
    counts: dict[str, int]
    waits: dict[str, tuple[float, int]]


# --- one node ------------------------------------------------------------------------------------


class _Sessions:
    """In place of the registry of live sessions: what others ask it for, of sessions that nobody
    has."""

    def __init__(self, counts: Counter[str]) -> None:
        self.owned: dict[UUID, int] = {}
        self.is_drained = False
        self._counts = counts
        self._began = time.monotonic()

    def epoch(self, session_id: UUID) -> int | None:
        self._counts["notices delivered"] += 1
        return self.owned.get(session_id)

    def hang_up(self, session_id: UUID, _: EndReason) -> None:
        self._counts["hung up"] += 1
        self.owned.pop(session_id, None)

    @property
    def agent_times(self) -> list[AgentTime]:
        now, seconds = datetime.now(UTC), time.monotonic() - self._began
        return [
            AgentTime(session_id=session_id, epoch=epoch, seconds=seconds, at=now)
            for session_id, epoch in self.owned.items()
        ]

    @property
    def users(self) -> dict[UUID, str]:
        return {session_id: f"user {session_id.int % 1000}" for session_id in self.owned}

    def counted(self, _: AgentTime) -> None: ...

    def allow(self, _: UUID, __: float | None) -> None: ...


class _Planner:
    """An Orchestrator and a journal that nobody has anything for."""

    wait = 0.0
    state = State.CLOSED
    awaited: tuple[UUID, ...] = ()

    def __init__(self) -> None:
        self.decided = asyncio.Event()

    async def settled(self, _: float) -> bool:
        return True


class _Heartbeat(Heartbeat):
    """`timing` measures what it does; `looked` hears when it has looked."""

    def measured(self, timing: Callable[[str], Any], looked: Callable[[], None]) -> _Heartbeat:
        self._timing, self._looked = timing, looked
        return self

    async def beat(self) -> None:
        with self._timing("heartbeat"):
            await super().beat()

    async def look(self) -> None:
        await super().look()
        self._looked()


class _Capacity(Capacity):
    def measured(self, timing: Callable[[str], Any]) -> _Capacity:
        self._timing = timing
        return self

    async def ask(self, *, hungry: bool = False) -> None:
        with self._timing("share"):
            await super().ask(hungry=hungry)


class _Meter(Meter):
    def measured(self, timing: Callable[[str], Any]) -> _Meter:
        self._timing = timing
        return self

    async def read(self) -> None:
        with self._timing("meter"):
            await super().read()


class _Node:
    def __init__(self, fleet: Fleet, node_id: UUID, owned: dict[UUID, int]) -> None:
        self.id = node_id
        self.sessions = _Sessions(fleet.counts)
        self.sessions.owned = owned
        self.noticed: float | None = None  # since when it should look at a session
        self.task: asyncio.Task[None] | None = None
        self._fleet = fleet
        registry = cast(SessionRegistry, self.sessions)
        self._share = AgentQuota(fleet.size.agents)
        self._capacity = _Capacity(fleet.store, node_id, self._share, fleet.supervisor)
        self._capacity.measured(fleet.timing)
        # Sessions that are there already count whether or not there is room.
        self._ends = deque(self._share.linger() for _ in owned)
        limits = Limits(daily_minutes=1e9) if fleet.size.day else Limits()
        self._meter = _Meter(fleet.store, registry, limits, fleet.supervisor)
        self._meter.measured(fleet.timing)
        self._heartbeat = _Heartbeat(
            fleet.store,
            registry,
            fleet.database_url,
            node_id=node_id,
            grace=GRACE,
            name="fleet",
            supervisor=fleet.supervisor,
            clock=fleet.clock,
        ).measured(fleet.timing, self._has_looked)

    def begin(self) -> None:
        self.task = asyncio.create_task(self._live())

    async def die(self) -> None:
        """As with SIGKILL: nobody is told."""
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task

    async def _live(self) -> None:
        nobody = _Planner()
        outbox = OutboxWorker(
            self._fleet.store,
            cast(Journal, nobody),
            lambda: Registry(intents=[]),
            self._fleet.metrics,
            planner=cast(Any, nobody),
            listener=cast(Functions, nobody),
            max_age=3600.0,
            supervisor=self._fleet.supervisor,
        )
        async with (
            self._heartbeat.running(),
            self._capacity.running(),
            outbox.running(grace=0.0),
            self._meter.running(),
        ):
            await self._come_and_go()

    async def _come_and_go(self) -> None:
        """Agents are used and let go as by sessions of a mean length."""
        counts, share = self._fleet.counts, self._share
        rate = max(1, len(self._ends)) / SESSION_SECONDS
        while True:
            await asyncio.sleep(random.expovariate(rate))
            if self._ends:
                self._ends.popleft()()
            key = object()
            counts["begun"] += 1
            if not share.enter(key):
                counts["asked for an agent"] += 1
                await self._capacity.grow()
                if not share.enter(key):
                    counts["refused"] += 1
                    continue
            self._ends.append(partial(share.leave, key))

    def _has_looked(self) -> None:
        if self.noticed is not None:
            self._fleet.took["notice"].append(time.monotonic() - self.noticed)
            self.noticed = None


class Fleet:
    """The nodes of one process (worker_process.py)."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.took: Samples = defaultdict(list)
        self.metrics = Metrics()
        self.supervisor = Supervisor(self.metrics)
        self.nodes: dict[UUID, _Node] = {}
        self._later = 0.0

    def clock(self) -> float:
        return time.monotonic() + self._later

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
            self.took[name].append(time.monotonic() - began)
        except StoreUnavailable:
            self.counts[f"{name}: database unavailable"] += 1
            raise

    async def open(self, database_url: str, size: Size, ids: Sequence[UUID]) -> None:
        """Have these nodes ready, with the sessions that the database says are theirs."""
        self.database_url, self.size = database_url, size
        self.store = Store(database_url, size=size.connections)
        await self.store.open()
        owned: dict[UUID, dict[UUID, int]] = {node_id: {} for node_id in ids}
        async with self.store.reading() as connection:
            sql = "SELECT id, node_id, epoch FROM voice.sessions WHERE node_id = ANY ($1::uuid[])"
            for row in await connection.fetch(sql, list(ids)):
                owned[row["node_id"]][row["id"]] = row["epoch"]
        self.nodes = {node_id: _Node(self, node_id, owned[node_id]) for node_id in ids}

    async def begin(self) -> None:
        for node in self.nodes.values():
            node.begin()

    async def age(self) -> None:
        """They believe that they have run for so long that they may end what the dead leave."""
        self._later += ownership.DEAD_SECONDS + GRACE

    async def kill(self, ids: Sequence[UUID]) -> None:
        """Those of them that are here die."""
        await asyncio.gather(*(self.nodes.pop(i).die() for i in ids if i in self.nodes))

    async def notify(self, rate: float, seconds: float) -> None:
        """Somebody wants something of a session here, so many times a second."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            node = random.choice(list(self.nodes.values()))
            async with self.store.transaction() as connection:
                await ownership.notify(connection, [random.choice(list(node.sessions.owned))])
                # Before the commit: the node may have looked by the time that we hear of it.
                node.noticed = node.noticed or time.monotonic()
            self.counts["notices"] += 1
            await asyncio.sleep(random.expovariate(rate))

    async def collect(self) -> tuple[Samples, Counter[str], float]:
        """What took how long and how often since it was asked last, and the processor time so far
        of this process."""
        took, counts = dict(self.took), Counter(self.counts)
        self.took.clear()
        self.counts.clear()
        return took, counts, time.process_time()


# --- all of them ---------------------------------------------------------------------------------


class _Trial:
    """Leads the fleet through its phases."""

    def __init__(
        self,
        size: Size,
        ids: Sequence[UUID],
        observer: Observer,
        connection: asyncpg.Connection[asyncpg.Record],
        fleets: Sequence[WorkerProcess[Fleet]],
    ) -> None:
        self._size = size
        self._ids = ids
        self._observer = observer
        self._connection = connection
        self._fleets = fleets

    async def start(self) -> None:
        """All at once."""
        await asyncio.gather(*(fleet.ask(Fleet.begin) for fleet in self._fleets))
        sql = "SELECT count(*) >= $1 FROM voice.agent_shares"
        await self._until(sql, self._size.nodes)
        await asyncio.gather(*(fleet.ask(Fleet.age) for fleet in self._fleets))

    async def run(self) -> None:
        await asyncio.sleep(self._size.seconds)

    async def notify(self) -> None:
        rate = self._size.notices / len(self._fleets)
        await asyncio.gather(
            *(fleet.ask(Fleet.notify, rate, self._size.seconds) for fleet in self._fleets)
        )

    async def die(self) -> None:
        """A part of them, at once. Nobody waits until they are dead for others: their rows are
        made older."""
        dead = random.Random(1).sample(list(self._ids), self._size.deaths)
        await asyncio.gather(*(fleet.ask(Fleet.kill, dead) for fleet in self._fleets))
        sql = """
            UPDATE voice.nodes SET seen_at = seen_at - make_interval(secs => $2)
            WHERE id = ANY ($1::uuid[])
        """
        await self._connection.execute(sql, dead, ownership.DEAD_SECONDS + GRACE)
        sql = """
            SELECT NOT EXISTS (
                SELECT FROM voice.sessions WHERE node_id = ANY ($1::uuid[]) AND state <> 'ended'
            )
        """
        await self._until(sql, dead)

    async def _until(self, sql: str, *values: object) -> None:
        async with asyncio.timeout(START_SECONDS):
            # Others do it: there is no event to wait for.
            while not await self._connection.fetchval(sql, *values):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def look(self, name: str, phase: Callable[[], Any]) -> Phase:
        looks: list[Counter[str]] = []
        _, _, cpu = await self._collect()
        before = await self._observer.mark()
        watch = asyncio.create_task(self._observer.watch(looks))
        await phase()
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        after = await self._observer.mark()
        took, counts, cpu_then = await self._collect()
        waits = sum(looks, Counter[str]())
        return Phase(
            name=name,
            seconds=after.at - before.at,
            cores=(cpu_then - cpu) / (after.at - before.at),
            load=await self._observer.between(before, after),
            took={what: summarize_values(s * 1e6 for s in each) for what, each in took.items()},
            counts=dict(counts),
            waits={
                what: (clients / len(looks), max(look[what] for look in looks))
                for what, clients in waits.items()
            },
        )

    async def _collect(self) -> tuple[Samples, Counter[str], float]:
        took: Samples = defaultdict(list)
        counts: Counter[str] = Counter()
        cpu = 0.0
        for fleet in self._fleets:
            some, counted, used = await fleet.ask(Fleet.collect)
            counts += counted
            cpu += used
            for name, values in some.items():
                took[name] += values
        return took, counts, cpu


async def measure(size: Size, tell: Callable[[str], None]) -> list[Phase]:
    """Everything that was started has ended on return. Raises EmbeddedError, MigrationError,
    WorkerFailed, and TimeoutError when a phase does not come about."""
    ids = [uuids.uuid7() for _ in range(size.nodes)]
    async with _database(size) as (url, pid):
        tell(f"{size.nodes} nodes with {size.sessions} sessions each")
        async with (
            connected(url) as connection,
            observing(url, pid) as observer,
            running(Fleet, ANYWHERE) as one,
            running(Fleet, ANYWHERE) as two,
        ):
            await _fill(connection, size, ids)
            fleets = one, two
            for number, fleet in enumerate(fleets):
                await fleet.ask(Fleet.open, url, size, ids[number::PROCESSES])
            trial = _Trial(size, ids, observer, connection, fleets)
            phases = []
            for name, phase in (
                ("all start at once", trial.start),
                ("they are there", trial.run),
                (f"{size.notices:g} notices a second", trial.notify),
                (f"{size.deaths} die at once", trial.die),
                ("without them", trial.run),
            ):
                phases.append(await trial.look(name, phase))
                tell("\n".join(describe(phases[-1])))
    return phases


@asynccontextmanager
async def _database(size: Size) -> AsyncIterator[tuple[str, int]]:
    connections = size.nodes + PROCESSES * size.connections + 20
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        server = EmbeddedPostgres(
            Path(folder) / "database",
            parameters=(*database_load.PARAMETERS, f"max_connections={connections}"),
        )
        try:
            url = await asyncio.to_thread(server.start)
            await migrate(url, log=log)
            assert server.pid is not None, "it has just started"
            yield url, server.pid
        finally:
            await asyncio.to_thread(server.stop)


async def _fill(
    connection: asyncpg.Connection[asyncpg.Record], size: Size, ids: Sequence[UUID]
) -> None:
    """Live sessions of each node, and what was used today."""
    await connection.execute(
        """
        WITH begun AS (
            SELECT gen_random_uuid() AS id, gen_random_uuid() AS conversation_id, node_id,
                   'user ' || n % 1000 AS user_id
            FROM unnest($1::uuid[]) AS node_id, generate_series(1, $2::int) AS n
        ), there AS (
            INSERT INTO voice.conversations (id, user_id)
            SELECT conversation_id, user_id FROM begun
        )
        INSERT INTO voice.sessions (id, conversation_id, user_id, ticket_hash, ticket_expires_at,
                                    timezone, audio, node_id, state, epoch, ticket_used_at)
        SELECT id, conversation_id, user_id, 'x', now(), 'UTC', '{}', node_id, 'live', 1, now()
        FROM begun
        """,
        list(ids),
        size.sessions,
    )
    await connection.execute(
        """
        INSERT INTO voice.usage (session_id, epoch, day, user_id, seconds)
        SELECT gen_random_uuid(), 1, (now() AT TIME ZONE 'UTC')::date, 'user ' || n % 1000, 60
        FROM generate_series(1, $1::int) AS n
        """,
        size.day,
    )
    await connection.execute("VACUUM ANALYZE")


def describe(phase: Phase) -> list[str]:
    """Lines for people."""
    lines = [f"{phase.name}: {phase.seconds:.1f} s; the nodes took {phase.cores:.2f} cores"]
    lines += [
        f"  {name:10} {took.count:6} x  p50 {took.p50 / 1000:8.1f} ms  p99 {took.p99 / 1000:8.1f}"
        f"  max {took.max / 1000:8.1f}"
        for name, took in sorted(phase.took.items())
    ]
    lines += [f"  {what}: {number}" for what, number in sorted(phase.counts.items())]
    lines += [
        f"  waiting for {what}: {mean:.2f} clients, at most {most}"
        for what, (mean, most) in sorted(phase.waits.items())
        if what.startswith("Lock/")
    ]
    return lines + database_load.describe(phase.load, per=phase.seconds, unit="a second")
