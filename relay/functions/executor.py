"""Runs a function call beside the audio, never in its way.

A call is checked against the registry and noted in the journal: from then on it is accepted, and
the Orchestrator is asked at once. Who waits for the answer waits for the intent's `timeout` at
most. What is not settled by then stays in the outbox, the rows of `voice.intents` that are
`submitting`; control/outbox/worker.py goes on with it, in this process or another one, and the
session hears of it through `report` if it is still there. What the user has to confirm waits there
from the start.

Calls outlive their session: what was accepted is carried on when the browser has gone. A call that
the model takes back is not sent, or undone, if that is possible; that too is noted in the journal
and done by the outbox.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec.structs import replace

from config import function_arguments
from config.function_arguments import ArgumentsError
from config.intents import Intent, Registry
from relay.backoff import Backoff
from relay.core.admitted import Admitted
from relay.core.events import FunctionReturned, FunctionStarted
from relay.core.records import CallDecided, IntentCalled
from relay.functions import submission
from relay.functions.submission import (
    MAX_ATTEMPTS,
    Delayed,
    Failed,
    Outcome,
    Rejected,
    Settled,
    Submission,
    Submit,
    Submitted,
)
from relay.journal.journal import Journal
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus, RelayIntent
from relay.supervisor import Contained, Supervisor
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

Report = Callable[[FunctionStarted | FunctionReturned], None]

IN_CALL = Backoff(first=0.2, longest=2.0)  # somebody waits
LEAST_SECONDS = 0.25  # an attempt that gets less would only look like a failure
LEASE_MARGIN = 15.0  # beyond the time-out: others leave a call alone for so long
UNSAVED = "it could not be saved, so it was not sent"
BROKEN = "something went wrong on our side"
# Characters of arguments that are checked on the event loop. Measured: 0.1 ms for the intents that
# ship, at most some 5 ms for schemas made to be slow; the longest ones may take 0.1 s.
CHECKED_AT_ONCE = 1_000
MAX_KEPT = 1_000  # calls of live sessions; what becomes of older ones is only in the history

# What a call is counted as.
COUNTED = ("submitted", "rejected", "failed", "cancelled", "saved", "awaiting")

# What is the last word. `failed` is what we think: it gives way, whenever a fact comes.
FACTS = (IntentStatus.SUBMITTED, IntentStatus.REJECTED, IntentStatus.CANCELLED)
_MAY_BE_DONE = (IntentStatus.SUBMITTING, IntentStatus.SUBMITTED)


class Call(msgspec.Struct, kw_only=True, eq=False):
    """One function call: where it belongs, and how far it has come. `id` names its row.

    `on_its_way`: a request of it may have arrived, or may yet. `is_saved`: the outbox has it, and
    its session wants to hear of that; `reported` is what it heard last. `is_taken_back`: the model
    does not want it any more.
    """

    id: UUID
    admitted: Admitted
    function: deepgram.FunctionCall
    intent: Intent | None  # None: there is no such function
    after_seq: int
    report: Report
    attempts: int = 0
    on_its_way: bool = False
    is_saved: bool = False
    is_taken_back: bool = False
    began: float = 0.0  # by the clock of `Functions`
    reported: IntentStatus = IntentStatus.SUBMITTING

    @property
    def can_cancel(self) -> bool:
        """Whether the Orchestrator can undo it."""
        return self.intent is not None and self.intent.cancel_path is not None

    def event(self, status: IntentStatus) -> RelayIntent:
        """What a browser is told of it."""
        return RelayIntent(
            id=self.id,
            call_id=self.function.id,
            intent=self.intent.name if self.intent else None,
            status=status,
            arguments=function_arguments.show(self.function.arguments),
            taken_back=self.is_taken_back and status in _MAY_BE_DONE,
        )

    def record(self, status: IntentStatus) -> IntentCalled:
        """What is stored of it."""
        return IntentCalled(
            id=self.id,
            conversation_id=self.admitted.conversation_id,
            session_id=self.admitted.session_id,
            call_id=self.function.id,
            idempotency_key=str(self.id),
            after_seq=self.after_seq,
            function=self.function.name,
            intent=self.intent.name if self.intent else None,
            # What is longer was refused.
            arguments=self.function.arguments[: function_arguments.MAX_LENGTH],
            status=status,
            attempts=self.attempts,
            at=datetime.now(UTC),
        )


class Functions:
    """Owns the tasks of the calls; one for the whole process.

    `sleep`, `clock` (monotonic seconds) and `jitter` (0..1) are arguments so that a test needs
    neither time nor luck.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        *,
        supervisor: Supervisor | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._submit: Submit | None = None
        self._journal = journal
        self._metrics = metrics
        self._supervisor = supervisor or Supervisor(metrics)
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._tasks: Contained | None = None
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._calls: dict[UUID, Call] = {}  # of live sessions
        self.decided = asyncio.Event()  # a decision is in the outbox: there may be work for it

    def __repr__(self) -> str:
        return f"<Functions running={len(self._running)} kept={len(self._calls)}>"

    @asynccontextmanager
    async def running(self, submit: Submit, *, grace: float) -> AsyncIterator[None]:
        """Calls may start while inside; on the way out they get `grace` seconds to end.

        One that has not ended by then stays in the outbox.
        """
        async with self._supervisor.containing("call", seconds=0.0) as tasks:
            self._tasks, self._submit = tasks, submit
            yield
            self._tasks = None
            if self._running:
                _, late = await asyncio.wait(self._running.values(), timeout=grace)
                for task in late:
                    log.warning("function_call_left task=%s", task.get_name())

    def start(
        self,
        registry: Registry,
        admitted: Admitted,
        function: deepgram.FunctionCall,
        after_seq: int,
        report: Report,
        *,
        row_id: UUID,
    ) -> None:
        """Run one call, of a session that was told this registry; `report` is called from the event
        loop, also after the session ended."""
        if self._tasks is None or self._submit is None:
            raise RuntimeError("functions are not running")
        call = Call(
            id=row_id,
            admitted=admitted,
            function=function,
            intent=registry.by_function(function.name),
            after_seq=after_seq,
            report=report,
            began=self._clock(),
        )
        self._keep(call)
        task = self._tasks.start(self._run(call, registry, self._submit), name=f"call {call.id}")
        self._running[call.id] = task
        task.add_done_callback(lambda _: self._running.pop(call.id))

    def adopt(self, registry: Registry, admitted: Admitted, report: Report) -> None:
        """A session goes on with these open calls of its conversation: it hears of them now."""
        for record in admitted.open_calls:
            call = Call(
                id=record.id,
                admitted=admitted,
                function=record.asked,
                intent=registry.by_function(record.function),
                after_seq=record.after_seq,
                report=report,
                is_saved=True,
                is_taken_back=record.status is IntentStatus.CANCELLING,
                reported=record.status,
            )
            self._keep(call)

    def _keep(self, call: Call) -> None:
        self._calls[call.id] = call
        if len(self._calls) > MAX_KEPT:
            del self._calls[next(iter(self._calls))]

    def cancel(self, row_id: UUID) -> None:
        """The model took a call back, also one that was answered. What may have reached the
        Orchestrator is undone, if its intent says how."""
        call = self._calls.get(row_id)
        if call is None or call.is_taken_back or call.reported is IntentStatus.CANCELLED:
            return
        call.is_taken_back = True
        task = self._running.get(row_id)
        if task is None or task.done():
            self._take_back(call, call.reported)
        elif not call.on_its_way:
            task.cancel()
            record = call.record(IntentStatus.CANCELLED)
            self._journal.append(record)
            self._conclude(call, record, "cancelled", None)
        # else when its outcome is there

    def decide(self, row_id: UUID, wanted: Literal["submit", "cancel"]) -> None:
        """The user decided about a call that is `awaiting`."""
        call = self._calls.get(row_id)
        if call is None or call.reported is not IntentStatus.AWAITING:
            return
        if wanted == "submit":
            self._decide(call, wanted)
            self._report(call, IntentStatus.SUBMITTING, None, submission.CONFIRMED)
        else:
            self._decide(call, wanted, response=submission.DECLINED)
            self._report(call, IntentStatus.CANCELLED, None, submission.DECLINED)

    def forget(self, session_id: UUID) -> None:
        """The session is over: nobody waits for its calls any more."""
        for call in list(self._calls.values()):
            if call.admitted.session_id == session_id:
                del self._calls[call.id]

    @property
    def awaited(self) -> list[UUID]:
        """The rows of calls in the outbox that live sessions want to hear of."""
        return [call.id for call in self._calls.values() if call.is_saved]

    def settled(
        self,
        row_id: UUID,
        status: IntentStatus,
        result: Any,
        content: str,
        *,
        taken_back: bool = False,
    ) -> None:
        """How a call in the outbox stands, whoever has it: tell its session what is new, once.

        An answer of the Orchestrator is the last word; what is not one may be replaced by it.
        """
        call = self._calls.get(row_id)
        if call is None or not call.is_saved or (call.is_taken_back and not taken_back):
            return  # the last: the row does not know that yet
        call.is_taken_back = taken_back
        call.is_saved = status not in FACTS  # else it may still turn out to have arrived
        # A row may be older than what we told; only that the wait is over comes from there.
        is_old = status is IntentStatus.AWAITING or (
            status is IntentStatus.SUBMITTING and call.reported is not IntentStatus.AWAITING
        )
        if is_old or status is call.reported:
            return
        told = submission.retold(status, content, taken_back=call.is_taken_back)
        self._report(call, status, result, told or "")

    # --- one call ----------------------------------------------------------------------------

    async def _run(self, call: Call, registry: Registry, submit: Submit) -> None:
        """The top of its task: whatever breaks, the model gets its one answer, and a call that was
        accepted its way to the Orchestrator."""
        outcome: Outcome
        accepted: Intent | None = None
        try:
            name, text = call.function.name, call.function.arguments
            intent, parameters = await check_call(registry, name, text)
            if intent.confirm == "card":
                self._ask_user(call, intent)
                return
            if self._accept(call, intent):
                accepted = intent
                outcome = await self._try(call, intent, parameters, submit)
            else:
                outcome = Failed(UNSAVED, 0)
        except ArgumentsError as error:
            outcome = Rejected(str(error), None, 0)
        except asyncio.CancelledError:
            # We stop: the next one to look takes it over.
            if accepted and (call.on_its_way or not call.is_taken_back):
                record = call.record(IntentStatus.SUBMITTING)
                self._journal.append(replace(record, due_in=0.0, in_doubt=call.on_its_way))
                if call.is_taken_back:
                    self._decide(call, "cancel")
            raise
        except Exception:
            self._supervisor.count("call")
            log.exception(
                "function_call_broken function=%.64s call=%s", call.function.name, call.id
            )
            outcome = self._broken(call, accepted) if accepted else Failed(BROKEN, 0)
        if isinstance(outcome, Delayed):
            self._save(call, outcome)
        else:
            self._finish(call, outcome)

    def _ask_user(self, call: Call, intent: Intent) -> None:
        """Have it on disk until the user decides."""
        record = replace(
            call.record(IntentStatus.AWAITING),
            due_in=intent.confirm_seconds,
            response=submission.AWAITING,
        )
        if self._journal.append(record):
            call.is_saved = True
            self._conclude(call, record, "awaiting", None)
        else:
            self._finish(call, Failed(UNSAVED, 0))

    def _accept(self, call: Call, intent: Intent) -> bool:
        """Have it on disk; False: it cannot be."""
        # In doubt from the start: if we die, nobody can know how far we came.
        lease = intent.timeout + LEASE_MARGIN
        record = call.record(IntentStatus.SUBMITTING)
        if not self._journal.append(replace(record, due_in=lease, in_doubt=True)):
            return False
        shown = call.event(IntentStatus.SUBMITTING)
        call.report(FunctionStarted(shown, intent.say, intent.say_after))
        return True

    async def _try(
        self, call: Call, intent: Intent, parameters: dict[str, Any], submit: Submit
    ) -> Outcome:
        """Ask until it is settled or the model should not wait longer; then, when to go on."""
        deadline = self._clock() + intent.timeout
        in_doubt = False
        while True:
            call.on_its_way = True
            outcome = await submit(
                Submission(
                    intent=intent,
                    parameters=parameters,
                    user_id=call.admitted.user_id,
                    conversation_id=call.admitted.conversation_id,
                    call_id=str(call.id),
                    seconds=deadline - self._clock(),
                    in_doubt=in_doubt,
                )
            )
            call.attempts += outcome.attempts
            if not isinstance(outcome, Delayed):
                return outcome
            if not submission.may_repeat(intent, outcome, in_doubt=in_doubt):
                return Failed(outcome.reason, 0)
            in_doubt = in_doubt or not outcome.unsent
            call.on_its_way = in_doubt
            pause = max(IN_CALL.pause(max(call.attempts, 1), self._jitter()), outcome.wait)
            tired = call.attempts >= MAX_ATTEMPTS or outcome.attempts == 0 or call.is_taken_back
            if tired or self._clock() + pause + LEAST_SECONDS > deadline:
                return replace(outcome, wait=pause)
            await self._sleep(pause)
            if call.is_taken_back:
                return outcome

    def _broken(self, call: Call, intent: Intent) -> Delayed | Failed:
        call.attempts += 1
        outcome = Delayed(reason=BROKEN, cause="defect", attempts=1, wait=IN_CALL.longest)
        may_repeat = submission.may_repeat(intent, outcome, in_doubt=call.on_its_way)
        return outcome if may_repeat else Failed(BROKEN, 0)

    # --- what is reported and noted-------------------------------------------------------------

    def _finish(self, call: Call, outcome: Settled) -> None:
        status, result, content = submission.answer(outcome)
        error = None if isinstance(outcome, Submitted) else outcome.reason
        record = replace(call.record(status), result=result, response=content, error=error)
        self._journal.append(record)
        self._conclude(call, record, status.value, result)

    def _save(self, call: Call, outcome: Delayed) -> None:
        """The outbox goes on with it."""
        record = replace(
            call.record(IntentStatus.SUBMITTING),
            due_in=outcome.wait,
            in_doubt=call.on_its_way,
            response=submission.saved(outcome.reason),
            error=f"{outcome.reason} ({outcome.cause})",
        )
        self._journal.append(record)
        call.is_saved = True
        self._conclude(call, record, "saved", {"saved": True, "because": outcome.reason})

    def _conclude(self, call: Call, record: IntentCalled, counted_as: str, result: Any) -> None:
        """The model has its answer, if it wants one; it is noted: tell its session."""
        intent, seconds = record.intent or "none", self._clock() - call.began
        self._metrics.function_calls.labels(intent=intent, status=counted_as).inc()
        self._metrics.function_call_seconds.labels(intent=intent).observe(seconds)
        log.info(
            "function_call intent=%s status=%s attempts=%d seconds=%.3f session=%s call=%s"
            " call_id=%.80s",
            record.intent,
            counted_as,
            record.attempts,
            seconds,
            record.session_id,
            record.id,
            record.call_id,
        )
        if call.is_taken_back and record.status is not IntentStatus.CANCELLED:
            self._take_back(call, record.status, result)
            return
        again = None if record.due_in is None else record.at + timedelta(seconds=record.due_in)
        self._report(call, record.status, result, record.response or "", again)

    def _take_back(self, call: Call, status: IntentStatus, result: Any = None) -> None:
        """The model does not want it any more, and this is how far it has come."""
        if status is IntentStatus.AWAITING:
            self._decide(call, "cancel")
            self._report(call, IntentStatus.CANCELLED, None, "")
        elif status in _MAY_BE_DONE:
            self._decide(call, "cancel")
            call.is_saved = call.can_cancel or status is IntentStatus.SUBMITTING
            shown = IntentStatus.CANCELLING if call.can_cancel else status
            told = submission.retold(shown, "", taken_back=True)
            self._report(call, shown, result, told or "")
        else:
            self._report(call, status, result, "")

    def _decide(
        self,
        call: Call,
        wanted: Literal["submit", "cancel"],
        *,
        response: str | None = None,
    ) -> None:
        """What is wanted of it now is on its way to its row."""
        decided = CallDecided(
            id=call.id,
            conversation_id=call.admitted.conversation_id,
            wanted=wanted,
            at=datetime.now(UTC),
            can_cancel=call.can_cancel,
            response=response,
        )
        log.info("function_call_decided wanted=%s call=%s", wanted, call.id)
        self._journal.append(decided, self.decided.set, in_a_hurry=True)

    def _report(
        self,
        call: Call,
        status: IntentStatus,
        result: Any,
        content: str,
        next_attempt_at: datetime | None = None,
    ) -> None:
        call.reported = status
        shown = replace(call.event(status), result=result, next_attempt_at=next_attempt_at)
        call.report(FunctionReturned(shown, content))


async def check_call(registry: Registry, name: str, text: str) -> tuple[Intent, dict[str, Any]]:
    """The intent of a function, and the arguments of a call, decoded and valid.

    Raises `ArgumentsError`, also when there is no such function: the text is for the model.
    """
    intent = registry.by_function(name)
    if intent is None:
        known = ", ".join(each.function for each in registry.intents)
        raise ArgumentsError(f"there is no function {name[:64]!r}; there are: {known}")
    if len(text) <= CHECKED_AT_ONCE:
        return intent, registry.check_arguments(intent, text)
    return intent, await asyncio.to_thread(registry.check_arguments, intent, text)
