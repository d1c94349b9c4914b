"""The outbox: finishes accepted calls that whoever accepted them did not finish.

Control plane; it runs in every process. A call that is `submitting` and due is claimed for a while,
submitted with the same Idempotency-Key, and what came of it goes through the journal like
everything else that is stored; so it survives a database that is away, and it counts only while the
claim holds. What is not settled is tried again, later and later, until the call is too old. A call
that was taken back when it may have arrived is `cancelling`, and is undone in the same way. One
that waits for the user's word (`awaiting`) ends when it is due.

Here, too, the sessions of this process hear what became of calls that were saved for later.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from config.intents import Intent, Registry
from control.db import calls
from control.db.rows import Claimed
from control.db.store import Store, StoreUnavailable
from control.outbox.circuit_breaker import State
from control.outbox.orchestrator_client import Orchestrator
from relay.backoff import Backoff
from relay.core.records import IntentCalled
from relay.functions import submission
from relay.functions.executor import Functions
from relay.functions.submission import (
    UNCERTAIN,
    UNDECIDED,
    Delayed,
    Failed,
    Outcome,
    Settled,
    Submission,
    Submitted,
)
from relay.journal.journal import Journal
from relay.protocol.relay_events import IntentStatus
from relay.supervisor import Contained, Supervisor
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

AT_ONCE = 8  # requests of one process; a planner that comes back is not to be overrun
POLL_SECONDS = 2.0
COUNT_SECONDS = 15.0
ATTEMPT_SECONDS = 30.0  # nobody waits, so it may take longer than the intent's time-out
SETTLE_SECONDS = 5.0
LEASE_MARGIN = 15.0
BACKOFF = Backoff(first=1.0, longest=300.0, shortest=0.5)
# A young call may have many attempts behind it, of when somebody waited: it is sent again before it
# is twice as old, and has this long (seconds) at least.
YOUNG = 15.0
# A 409 to a repetition may mean that the first copy is still at work; after that it is an answer.
CONFLICTS = 6


class OutboxWorker:
    """`registry` gives the newest. `max_age` is in seconds; a call that is older than that is not
    sent any more."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        registry: Callable[[], Registry],
        metrics: Metrics,
        *,
        planner: Orchestrator,
        listener: Functions,
        max_age: float,
        supervisor: Supervisor | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._journal = journal
        self._registry = registry
        self._metrics = metrics
        self._supervisor = supervisor or Supervisor(metrics)
        self._planner = planner
        self._listener = listener
        self._max_age = max_age
        self._jitter = jitter
        self._running: set[asyncio.Task[Any]] = set()
        self._count_at = 0.0
        self._full = False

    def __repr__(self) -> str:
        return f"<OutboxWorker running={len(self._running)}>"

    @property
    def _intents(self) -> dict[str, Intent]:
        return {intent.name: intent for intent in self._registry().intents}

    @asynccontextmanager
    async def running(self, *, grace: float) -> AsyncIterator[None]:
        """Deliver while inside; what does not end within `grace` seconds is left to others."""
        async with (
            self._supervisor.containing("delivery call", seconds=grace) as tasks,
            self._supervisor.repeating(
                "delivery",
                partial(self.look, tasks),
                pause=self._pause,
                foreseen=(StoreUnavailable,),
                say=lambda error: log.error("delivery_paused reason=%s", error),
            ),
        ):
            self._running = tasks.running
            yield

    async def look(self, tasks: Contained) -> None:
        """Begin to deliver what is due now, as much as goes at once; tell the sessions of this
        process what became of their saved calls."""
        self._full = False
        for call in await self._claim():
            tasks.start(self._deliver(call), name=f"delivery {call.id}")
        self._full = len(tasks.running) >= AT_ONCE
        if awaited := self._listener.awaited:
            for one in await calls.list_named(self._store, awaited):
                self._listener.settled(
                    one.id, one.status, one.result, one.response or "", taken_back=one.taken_back
                )
        await self._count()

    async def _pause(self) -> None:
        if len(self._running) >= AT_ONCE:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        elif not self._full:  # else one has ended since, and there may be more that is due
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS * (0.5 + self._jitter())):
                    await self._listener.decided.wait()
            self._listener.decided.clear()

    async def _claim(self) -> list[Claimed]:
        if not await calls.is_any_due(self._store):
            return []
        # What came of a call may be on our disk and not in its row yet: then it is not open.
        if not await self._journal.settled(SETTLE_SECONDS):
            return []
        wanted = [name for name, i in self._intents.items() if i.confirm_timeout == "submit"]
        await calls.end_waits(self._store, wanted, response=UNDECIDED)
        free = AT_ONCE - len(self._running)
        if self._planner.wait > 0 or free <= 0:
            return []
        if self._planner.state is not State.CLOSED:
            free = 1  # to see whether it is well again
        longest = max((intent.timeout for intent in self._intents.values()), default=0.0)
        lease = max(ATTEMPT_SECONDS, longest) + LEASE_MARGIN
        return await calls.claim_calls(self._store, free, lease=lease)

    async def _count(self) -> None:
        if time.monotonic() >= self._count_at:
            self._count_at = time.monotonic() + COUNT_SECONDS
            count, oldest = await calls.count_waiting(self._store)
            self._metrics.outbox_waiting.set(count)
            self._metrics.outbox_oldest_seconds.set(oldest)

    # --- one call ----------------------------------------------------------------------------

    async def _deliver(self, call: Claimed) -> None:
        outcome: Outcome
        try:
            outcome = self._given_up(call) or await self._planner.submit(self._submission(call))
        except asyncio.CancelledError:
            self._note(call, call.status, None, due_in=0.0, in_doubt=True)
            raise
        except Exception:
            # The top of this task: one call that breaks us must not stop the others.
            self._supervisor.count("delivery call")
            log.exception("delivery_broken intent=%s call=%s", call.intent, call.id)
            outcome = Delayed(reason="something went wrong on our side", cause="defect", attempts=1)
        attempts = call.attempts + outcome.attempts
        if isinstance(outcome, Delayed):
            self._delay(call, outcome, attempts)
        else:
            self._finish(call, outcome, attempts)

    def _given_up(self, call: Claimed) -> Settled | None:
        """What is to be said of a call that is not to be sent."""
        intent = self._intents.get(call.intent or "")
        if intent is None:
            return Failed("this is no longer offered", 0)
        if call.age >= self._max_age:
            return Failed(self._too_old(), 0)
        if call.status is IntentStatus.CANCELLING:
            return None if intent.cancel_path else Failed("this cannot be undone", 0)
        if call.in_doubt and (call.taken_back or not intent.retry):
            return Failed(UNCERTAIN, 0)
        return None

    def _too_old(self) -> str:
        return f"it could not be delivered within {self._max_age / 3600:g} hours"

    def _submission(self, call: Claimed) -> Submission:
        intent = self._intents[call.intent or ""]
        return Submission(
            intent=intent,
            parameters=msgspec.json.decode(call.arguments or "{}"),  # valid when it was accepted
            user_id=call.user_id,
            conversation_id=call.conversation_id,
            call_id=call.call_id if call.idempotency_key is None else call.idempotency_key,
            seconds=max(ATTEMPT_SECONDS, intent.timeout),
            in_doubt=call.in_doubt and call.claim <= CONFLICTS,
            is_cancel=call.status is IntentStatus.CANCELLING,
        )

    def _delay(self, call: Claimed, outcome: Delayed, attempts: int) -> None:
        intent = self._intents.get(call.intent or "")  # None: a reload has just taken it away
        undoes = call.status is IntentStatus.CANCELLING  # which may be asked again
        if intent is None or not (
            undoes or submission.may_repeat(intent, outcome, in_doubt=call.in_doubt)
        ):
            self._finish(call, Failed(outcome.reason, 0), attempts)
            return
        pause = min(BACKOFF.pause(max(attempts, 1), self._jitter()), max(call.age, YOUNG))
        pause = max(pause, outcome.wait)
        if call.age + pause >= self._max_age:
            self._finish(call, Failed(f"{self._too_old()}: {outcome.reason}", 0), attempts)
            return
        self._note(
            call,
            call.status,
            "delayed",
            attempts=attempts,
            due_in=pause,
            in_doubt=call.in_doubt or not outcome.unsent,
            error=f"{outcome.reason} ({outcome.cause})",
        )

    def _finish(self, call: Claimed, outcome: Settled, attempts: int) -> None:
        if call.status is IntentStatus.CANCELLING:
            self._end_cancelling(call, outcome, attempts)
            return
        status, result, content = submission.answer(outcome)
        error = None if isinstance(outcome, Submitted) else outcome.reason
        said = {"result": result, "response": content, "error": error}
        self._note(call, status, status.value, attempts=attempts, in_doubt=False, **said)

    def _end_cancelling(self, call: Claimed, outcome: Settled, attempts: int) -> None:
        """It is undone, or else it was carried out all the same."""
        if isinstance(outcome, Submitted):
            done = IntentStatus.CANCELLED
            self._note(call, done, done.value, attempts=attempts, in_doubt=False)
            return
        said = {"response": submission.CARRIED_OUT, "error": outcome.reason}
        status = IntentStatus.SUBMITTED
        self._note(call, status, "not_undone", attempts=attempts, in_doubt=False, **said)

    def _known(self, call: Claimed) -> str:
        """Its intent, for who counts; an old name is not told."""
        return call.intent if call.intent in self._intents else "none"

    def _note(
        self, call: Claimed, status: IntentStatus, counted_as: str | None, **changes: Any
    ) -> None:
        """`changes` are fields of the record. None: it was not attempted, and does not count."""
        known = {name: getattr(call, name) for name in IntentCalled.__struct_fields__}
        now = {"status": status, "at": datetime.now(UTC)}
        record = IntentCalled(**known | changes | now)
        self._journal.append(record)  # if it is full, the lease runs out, and somebody asks again
        if counted_as is None:
            return
        counted = self._metrics.outbox_deliveries
        counted.labels(intent=self._known(call), status=counted_as).inc()
        log.info(
            "outbox_delivery intent=%s status=%s attempts=%d age=%.0f session=%s call=%s",
            call.intent,
            counted_as,
            record.attempts,
            call.age,
            call.session_id,
            call.id,
        )
