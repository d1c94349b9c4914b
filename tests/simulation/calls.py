"""Function calls of one relay process, and the outbox: the product's own code, on our clock.

`Functions` and `OutboxWorker` wait for nothing but the Orchestrator, a pause and the database; here
they get these from the simulation. Only what is SQL is said again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from unittest.mock import patch

from config.intents import Intent, Registry
from control.db.rows import Claimed
from control.outbox import worker
from control.outbox.worker import ATTEMPT_SECONDS, POLL_SECONDS, OutboxWorker
from control.outbox.worker import LEASE_MARGIN as OUTBOX_MARGIN
from relay.functions import executor
from relay.functions.executor import Functions
from relay.functions.submission import UNDECIDED, Outcome, Submission
from relay.supervisor import Supervisor
from relay.telemetry.metrics import Metrics
from tests.simulation.clock import Process, Waiting, Work
from tests.simulation.database import CallRow, Unavailable
from tests.simulation.promises import Broken

CONFIRM_SECONDS = 8.0


@cache
def metrics() -> Metrics:
    """Nobody reads them."""
    return Metrics()


@cache
def registry(can_cancel: bool, confirms: bool) -> Registry:
    return Registry(
        [
            Intent(
                name="GOAL",
                title="A goal",
                function="create_goal",
                description="Makes a goal",
                parameters={"type": "object", "properties": {"title": {"type": "string"}}},
                path="/goals",
                cancel_path="/goals/cancel" if can_cancel else None,
                timeout=10.0,
                retry=True,
                confirm="card" if confirms else "none",
                confirm_seconds=CONFIRM_SECONDS,
            )
        ]
    )


@contextmanager
def wall_clock(now: Callable[[], datetime]) -> Iterator[None]:
    """What calls are dated with, meanwhile."""

    class Wall(datetime):
        @classmethod
        def now(cls, tz=None):
            return now()

    with (
        patch.object(executor, "datetime", Wall),
        patch.object(worker, "datetime", Wall),
    ):
        yield


class Unbroken(Supervisor):
    """A defect of the product is a finding, and not one for the log."""

    def count(self, work: str) -> None:
        raise Broken("no defect", work)


class Planner:
    """The Orchestrator as a relay process sees it."""

    wait = 0.0

    def __init__(self, world, process: Process) -> None:
        self._world = world
        self._process = process

    async def submit(self, one: Submission) -> Outcome:
        asked = self._world.orchestrator.submit(
            self._process,
            one.call_id,
            json.dumps(one.parameters),
            one.seconds,
            is_cancel=one.is_cancel,
        )
        return await Waiting(asked)


async def _sleep(seconds: float) -> None:
    await Waiting(seconds)


class Calls(Functions):
    """`Functions` whose tasks are steps of the simulation."""

    def __init__(self, world, process: Process, journal) -> None:
        chance = world.chance(f"calls {process.name}")
        super().__init__(
            journal,
            metrics(),
            supervisor=Unbroken(metrics()),
            sleep=_sleep,
            clock=lambda: world.clock.now,
            jitter=chance.random,
        )
        self._tasks = process
        self._submit = Planner(world, process).submit


class Outbox(OutboxWorker):
    """`OutboxWorker` that asks the simulated database."""

    def __init__(self, world, process: Process, journal, calls: Calls) -> None:
        self._chance = world.chance(f"outbox {process.name}")
        super().__init__(
            world.database,
            journal,
            lambda: world.registry,
            metrics(),
            planner=Planner(world, process),
            listener=calls,
            max_age=24 * 3600.0,
            supervisor=Unbroken(metrics()),
            jitter=self._chance.random,
        )
        self._process = process
        self._records = journal
        self._database = world.database
        process.start(self._work())

    def _work(self) -> Work:
        database = self._database
        while True:
            yield POLL_SECONDS * (0.5 + self._chance.random())
            if not (database.has_open_calls or self._listener.awaited):
                continue  # it would find nothing
            try:
                yield from self._look()
            except Unavailable:
                continue

    def _look(self) -> Work:
        database, process = self._database, self._process
        if (yield database.ask(process, database.is_any_due)):
            # What came of a call may be on our disk and not in its row yet: then it is not open.
            yield self._records.settled()
            yield database.ask(process, database.end_waits, UNDECIDED)
            claimed = yield database.ask(process, database.claim, ATTEMPT_SECONDS + OUTBOX_MARGIN)
            for row in claimed:
                process.start(self._deliver(self._claimed(row)), name="delivery")
        if awaited := self._listener.awaited:
            for row in (yield database.ask(process, database.named, awaited)):
                self._listener.settled(
                    row.record.id,
                    row.status,
                    row.result,
                    row.response or "",
                    taken_back=row.taken_back,
                )

    def _claimed(self, row: CallRow) -> Claimed:
        record = row.record
        return Claimed(
            id=record.id,
            conversation_id=record.conversation_id,
            session_id=record.session_id,
            call_id=record.call_id,
            after_seq=record.after_seq,
            function=record.function,
            intent=record.intent,
            arguments=record.arguments,
            status=row.status,
            attempts=row.attempts,
            at=record.at,
            in_doubt=row.in_doubt,
            claim=row.claims,
            idempotency_key=record.idempotency_key,
            taken_back=row.taken_back,
            user_id="user",
            age=self._database.clock.now - row.accepted_at,
        )
