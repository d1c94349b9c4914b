"""Runs a function call beside the audio, never in its way.

A call is checked against the registry, noted in the journal, sent to the Orchestrator and noted
again; the session hears of it through `report`. Calls outlive their session: what was accepted is
carried to its end when the browser has gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from config.intents import ArgumentsError, Intent, Registry
from relay import deepgram
from relay.events import FunctionReturned, FunctionStarted
from relay.journal import Journal
from relay.metrics import Metrics
from relay.opening import Opening
from relay.records import IntentCalled, IntentStatus
from relay.submission import Failed, Outcome, Rejected, Submission, Submit, Submitted

log = logging.getLogger(__name__)

Report = Callable[[FunctionStarted | FunctionReturned], None]

_MAX_SHOWN = 4_000  # characters of arguments that are not JSON, as a browser sees them


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One function call with where it belongs; `id` names its row."""

    id: UUID
    opening: Opening
    function: deepgram.FunctionCall
    after_seq: int


class Functions:
    """Owns the tasks of the calls; one for the whole process."""

    def __init__(self, registry: Registry, journal: Journal, metrics: Metrics) -> None:
        self._registry = registry
        self._submit: Submit | None = None
        self._journal = journal
        self._metrics = metrics
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self, submit: Submit, *, grace: float) -> AsyncIterator[None]:
        """Calls may start while inside; on the way out they get `grace` seconds to end."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks, self._submit = tasks, submit
            yield
            self._tasks = None
            if self._running:
                _, late = await asyncio.wait(self._running, timeout=grace)
                for task in late:
                    log.error("function_call_abandoned task=%s", task.get_name())
                    task.cancel()

    def start(
        self, opening: Opening, function: deepgram.FunctionCall, after_seq: int, report: Report
    ) -> None:
        """Run one call; `report` is called from the event loop, also after the session ended."""
        if self._tasks is None or self._submit is None:
            raise RuntimeError("functions are not running")
        call = Call(id=uuid7(), opening=opening, function=function, after_seq=after_seq)
        task = self._tasks.create_task(
            self._run(call, self._submit, report), name=f"call {call.id}"
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, call: Call, submit: Submit, report: Report) -> None:
        intent = self._registry.by_function(call.function.name)
        if intent is None:
            known = ", ".join(i.function for i in self._registry.intents)
            reason = f"there is no function {call.function.name[:64]!r}; there are: {known}"
            self._finish(
                call, None, _shown(call.function.arguments), Rejected(reason, None, 0), report
            )
            return
        try:
            parameters = self._registry.check_arguments(intent, call.function.arguments)
        except ArgumentsError as error:
            shown = _shown(call.function.arguments)
            self._finish(call, intent, shown, Rejected(str(error), None, 0), report)
            return
        self._note(call, intent, IntentStatus.SUBMITTING, 0, None, None)
        report(
            FunctionStarted(
                call_id=call.function.id,
                intent=intent.name,
                arguments=parameters,
                say=intent.say,
                say_after=intent.say_after,
            )
        )
        submission = Submission(
            intent=intent,
            parameters=parameters,
            user_id=call.opening.user_id,
            conversation_id=call.opening.conversation_id,
            call_id=call.function.id,
        )
        try:
            outcome = await submit(submission)
        except Exception:
            # The top of this task: a defect here must still give the model its one answer.
            log.exception("function_call_broken intent=%s call=%s", intent.name, call.id)
            outcome = Failed("something went wrong on our side", 0)
        self._finish(call, intent, parameters, outcome, report)

    def _finish(
        self, call: Call, intent: Intent | None, arguments: Any, outcome: Outcome, report: Report
    ) -> None:
        status, result, content = _told(outcome)
        self._note(call, intent, status, outcome.attempts, result, content)
        self._metrics.calls.labels(status=status.value).inc()
        log.info(
            "function_call intent=%s status=%s attempts=%d session=%s call=%s",
            intent.name if intent else None,
            status.value,
            outcome.attempts,
            call.opening.session_id,
            call.id,
        )
        report(
            FunctionReturned(
                call_id=call.function.id,
                intent=intent.name if intent else None,
                status=status,
                arguments=arguments,
                result=result,
                content=content,
            )
        )

    def _note(
        self,
        call: Call,
        intent: Intent | None,
        status: IntentStatus,
        attempts: int,
        result: Any,
        response: str | None,
    ) -> None:
        self._journal.append(
            IntentCalled(
                id=call.id,
                conversation_id=call.opening.conversation_id,
                session_id=call.opening.session_id,
                call_id=call.function.id,
                after_seq=call.after_seq,
                function=call.function.name,
                intent=intent.name if intent else None,
                arguments=call.function.arguments,
                status=status,
                attempts=attempts,
                result=result,
                response=response,
                at=datetime.now(UTC),
            )
        )


def _told(outcome: Outcome) -> tuple[IntentStatus, Any, str]:
    """Status, result for people, and the text for the model (Deepgram wants a string)."""
    match outcome:
        case Submitted(result=result):
            return (
                IntentStatus.SUBMITTED,
                result,
                json.dumps({"status": "submitted", "result": result}),
            )
        case Rejected(reason=reason, result=result):
            content = json.dumps({"status": "rejected", "error": reason})
            return IntentStatus.REJECTED, result or {"error": reason}, content
        case Failed(reason=reason):
            content = json.dumps({"status": "failed", "error": reason})
            return IntentStatus.FAILED, {"error": reason}, content


def _shown(arguments: str) -> Any:
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError):
        return arguments[:_MAX_SHOWN]
