"""Runs a function call beside the audio, never in its way.

A call is checked against the registry and noted in the journal: from then on it is accepted, and
the Orchestrator is asked at once. Who waits for the answer waits for the intent's `timeout` at
most. What is not settled by then stays in the outbox, the rows of `voice.intents` that are
`submitting`; control/outbox/worker.py goes on with it, in this process or another one, and the
session hears of it through `report` if it is still there.

Calls outlive their session: what was accepted is carried on when the browser has gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from config import function_arguments
from config.function_arguments import ArgumentsError
from config.intents import Intent, Registry
from relay.backoff import Backoff
from relay.core.admitted import Admitted
from relay.core.events import FunctionReturned, FunctionStarted
from relay.core.records import FACTS, IntentCalled
from relay.functions import submission
from relay.functions.submission import (
    MAX_ATTEMPTS,
    Delayed,
    Failed,
    Rejected,
    Settled,
    Submission,
    Submit,
)
from relay.journal.journal import Journal
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus
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
MAX_AWAITED = 1_000  # saved calls that live sessions wait for; the oldest are only in the history


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One function call with where it belongs; `id` names its row."""

    id: UUID
    admitted: Admitted
    function: deepgram.FunctionCall
    after_seq: int
    report: Report


class _Progress(msgspec.Struct):
    """How far a call has come; `on_its_way`: a request of it may have arrived, or may yet.

    `heard`: its session is still there to hear of a later outcome.
    """

    call: Call
    attempts: int = 0
    on_its_way: bool = False
    cancelled: bool = False
    heard: bool = True


class _Awaited(msgspec.Struct, frozen=True):
    """A saved call whose session may still want to hear what comes of it."""

    call: Call
    intent: Intent
    shown: Any
    reported: IntentStatus = IntentStatus.SUBMITTING


class Functions:
    """Owns the tasks of the calls; one for the whole process.

    `sleep`, `clock` (monotonic seconds) and `jitter` (0..1) are arguments so that a test needs
    neither time nor luck.
    """

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        metrics: Metrics,
        *,
        supervisor: Supervisor | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._registry = registry
        self._submit: Submit | None = None
        self._journal = journal
        self._metrics = metrics
        self._supervisor = supervisor or Supervisor(metrics)
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._tasks: Contained | None = None
        self._running: dict[asyncio.Task[None], _Progress] = {}
        self._awaited: dict[UUID, _Awaited] = {}

    def __repr__(self) -> str:
        return f"<Functions running={len(self._running)} awaited={len(self._awaited)}>"

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
                _, late = await asyncio.wait(self._running, timeout=grace)
                for task in late:
                    log.warning("function_call_left task=%s", task.get_name())

    def start(
        self,
        admitted: Admitted,
        function: deepgram.FunctionCall,
        after_seq: int,
        report: Report,
        *,
        row_id: UUID,
    ) -> None:
        """Run one call; `report` is called from the event loop, also after the session ended."""
        if self._tasks is None or self._submit is None:
            raise RuntimeError("functions are not running")
        call = Call(
            id=row_id,
            admitted=admitted,
            function=function,
            after_seq=after_seq,
            report=report,
        )
        progress = _Progress(call)
        work = self._run(progress, self._submit)
        task = self._tasks.start(work, name=f"call {call.id}")
        self._running[task] = progress
        task.add_done_callback(self._running.pop)

    def cancel(self, row_id: UUID) -> None:
        """The model took a call back. One that may have reached the Orchestrator goes on."""
        for task, progress in self._running.items():
            if progress.call.id != row_id or progress.on_its_way or progress.cancelled:
                continue
            progress.cancelled = True
            task.cancel()
            self._finish_cancelled(progress)

    def forget(self, session_id: UUID) -> None:
        """The session is over: nobody waits for its saved calls any more."""
        for progress in self._running.values():
            if progress.call.admitted.session_id == session_id:
                progress.heard = False
        ended = [i for i, a in self._awaited.items() if a.call.admitted.session_id == session_id]
        for call_id in ended:
            del self._awaited[call_id]

    @property
    def awaited(self) -> list[UUID]:
        """The rows of saved calls that live sessions want to hear of."""
        return list(self._awaited)

    def settled(self, row_id: UUID, status: IntentStatus, result: Any, content: str) -> None:
        """A saved call has an outcome, wherever it was delivered: tell its session, once.

        An answer of the Orchestrator is the last word; what is not one may be replaced by it.
        """
        awaited = self._awaited.pop(row_id, None)
        if awaited is None:
            return
        if status not in FACTS:  # it may still turn out to have arrived
            self._awaited[row_id] = msgspec.structs.replace(awaited, reported=status)
        if status is not awaited.reported:
            self._report(awaited.call, awaited.intent, status, awaited.shown, result, content)

    # --- one call ----------------------------------------------------------------------------

    async def _run(self, progress: _Progress, submit: Submit) -> None:
        call = progress.call
        try:
            accepted = await self._accept(progress)
        except Exception:
            # The top of this task: nothing was sent, and the model gets its one answer.
            self._supervisor.count("call")
            log.exception(
                "function_call_broken function=%.64r call=%s", call.function.name, call.id
            )
            shown = function_arguments.show(call.function.arguments)
            self._finish(progress, None, shown, Failed(BROKEN, 0))
            return
        if accepted is not None:
            await self._deliver(progress, *accepted, submit)

    async def _accept(self, progress: _Progress) -> tuple[Intent, dict[str, Any]] | None:
        """Check it and have it on disk; None: it has its answer already."""
        call = progress.call
        name, text = call.function.name, call.function.arguments
        try:
            intent, parameters = await check_call(self._registry, name, text)
        except ArgumentsError as error:
            rejected = Rejected(str(error), None, 0)
            shown = function_arguments.show(text)
            self._finish(progress, self._registry.by_function(name), shown, rejected)
            return None
        # In doubt from the start: if we die, nobody can know how far we came.
        lease = intent.timeout + LEASE_MARGIN
        if not self._note(progress, intent, IntentStatus.SUBMITTING, due_in=lease, in_doubt=True):
            self._finish(progress, intent, parameters, Failed(UNSAVED, 0))
            return None
        call.report(
            FunctionStarted(
                id=call.id,
                call_id=call.function.id,
                intent=intent.name,
                arguments=parameters,
                say=intent.say,
                say_after=intent.say_after,
            )
        )
        return intent, parameters

    async def _deliver(
        self, progress: _Progress, intent: Intent, parameters: dict[str, Any], submit: Submit
    ) -> None:
        try:
            outcome, due_in = await self._try(progress, intent, parameters, submit)
        except asyncio.CancelledError:
            if not progress.cancelled:  # we stop: the next one to look takes it over
                self._note(
                    progress,
                    intent,
                    IntentStatus.SUBMITTING,
                    due_in=0.0,
                    in_doubt=progress.on_its_way,
                )
            raise
        except Exception:
            # A defect here must still give the model its one answer, and the call its way to the
            # Orchestrator.
            self._supervisor.count("call")
            log.exception("function_call_broken intent=%s call=%s", intent.name, progress.call.id)
            progress.attempts += 1
            outcome, due_in = Delayed(reason=BROKEN, cause="defect", attempts=1), IN_CALL.longest
            if not submission.may_repeat(intent, outcome, in_doubt=progress.on_its_way):
                outcome = Failed(BROKEN, 0)
        if isinstance(outcome, Delayed):
            self._save(progress, intent, parameters, outcome, due_in)
        else:
            self._finish(progress, intent, parameters, outcome)

    async def _try(
        self, progress: _Progress, intent: Intent, parameters: dict[str, Any], submit: Submit
    ) -> tuple[Settled | Delayed, float]:
        """Ask until it is settled or the model should not wait longer; then, when to go on."""
        deadline = self._clock() + intent.timeout
        in_doubt = False
        while True:
            progress.on_its_way = True
            outcome = await submit(
                Submission(
                    intent=intent,
                    parameters=parameters,
                    user_id=progress.call.admitted.user_id,
                    conversation_id=progress.call.admitted.conversation_id,
                    call_id=str(progress.call.id),
                    seconds=deadline - self._clock(),
                    in_doubt=in_doubt,
                )
            )
            progress.attempts += outcome.attempts
            if not isinstance(outcome, Delayed):
                return outcome, 0.0
            if not submission.may_repeat(intent, outcome, in_doubt=in_doubt):
                return Failed(outcome.reason, 0), 0.0
            in_doubt = in_doubt or not outcome.unsent
            progress.on_its_way = in_doubt
            pause = max(IN_CALL.pause(max(progress.attempts, 1), self._jitter()), outcome.wait)
            tired = progress.attempts >= MAX_ATTEMPTS or outcome.attempts == 0
            if tired or self._clock() + pause + LEAST_SECONDS > deadline:
                return outcome, pause
            await self._sleep(pause)

    # --- what is reported and noted-------------------------------------------------------------

    def _finish(
        self, progress: _Progress, intent: Intent | None, shown: Any, outcome: Settled
    ) -> None:
        status, result, content = submission.answer(outcome)
        error = None if isinstance(outcome, submission.Submitted) else outcome.reason
        self._note(progress, intent, status, result=result, response=content, error=error)
        self._count(progress, intent, status.value)
        self._report(progress.call, intent, status, shown, result, content)

    def _finish_cancelled(self, progress: _Progress) -> None:
        call = progress.call
        intent = self._registry.by_function(call.function.name)
        self._note(progress, intent, IntentStatus.CANCELLED)
        self._count(progress, intent, IntentStatus.CANCELLED.value)
        shown = function_arguments.show(call.function.arguments)
        self._report(call, intent, IntentStatus.CANCELLED, shown, None, "")

    def _save(
        self,
        progress: _Progress,
        intent: Intent,
        shown: Any,
        outcome: Delayed,
        due_in: float,
    ) -> None:
        content = submission.saved(outcome.reason)
        self._note(
            progress,
            intent,
            IntentStatus.SUBMITTING,
            due_in=due_in,
            in_doubt=progress.on_its_way,
            response=content,
            error=f"{outcome.reason} ({outcome.cause})",
        )
        call = progress.call
        if progress.heard:
            while len(self._awaited) >= MAX_AWAITED:
                del self._awaited[next(iter(self._awaited))]
            self._awaited[call.id] = _Awaited(call, intent, shown)
        self._count(progress, intent, "saved")
        result = {"saved": True, "because": outcome.reason}
        again = datetime.now(UTC) + timedelta(seconds=due_in)
        self._report(call, intent, IntentStatus.SUBMITTING, shown, result, content, again)

    def _count(self, progress: _Progress, intent: Intent | None, status: str) -> None:
        self._metrics.calls.labels(status=status).inc()
        log.info(
            "function_call intent=%s status=%s attempts=%d session=%s call=%s",
            intent.name if intent else None,
            status,
            progress.attempts,
            progress.call.admitted.session_id,
            progress.call.id,
        )

    def _report(
        self,
        call: Call,
        intent: Intent | None,
        status: IntentStatus,
        shown: Any,
        result: Any,
        content: str,
        next_attempt_at: datetime | None = None,
    ) -> None:
        call.report(
            FunctionReturned(
                id=call.id,
                call_id=call.function.id,
                intent=intent.name if intent else None,
                status=status,
                arguments=shown,
                result=result,
                content=content,
                next_attempt_at=next_attempt_at,
            )
        )

    def _note(
        self,
        progress: _Progress,
        intent: Intent | None,
        status: IntentStatus,
        *,
        result: Any = None,
        response: str | None = None,
        error: str | None = None,
        due_in: float | None = None,
        in_doubt: bool = False,
    ) -> bool:
        call = progress.call
        return self._journal.append(
            IntentCalled(
                id=call.id,
                conversation_id=call.admitted.conversation_id,
                session_id=call.admitted.session_id,
                call_id=call.function.id,
                idempotency_key=str(call.id),
                after_seq=call.after_seq,
                function=call.function.name,
                intent=intent.name if intent else None,
                # What is longer was refused.
                arguments=call.function.arguments[: function_arguments.MAX_LENGTH],
                status=status,
                attempts=progress.attempts,
                result=result,
                response=response,
                at=datetime.now(UTC),
                due_in=due_in,
                in_doubt=in_doubt,
                error=error,
            )
        )


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
