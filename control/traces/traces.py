"""OpenTelemetry traces of this process: what watches sessions, and where spans go.

Control plane, of the extra `otel`. Where spans go, and how many of them, the SDK reads from the
standard variables `OTEL_…`; what is sent is in control/traces/session_trace.py. A thread of the SDK
sends; it keeps 2,048 spans (`OTEL_BSP_MAX_QUEUE_SIZE`) and drops the oldest with a warning.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from config.version import VERSION
from control.traces.session_trace import SessionTrace
from relay.core.beginning import Beginning
from relay.core.records import Record, SessionEnded
from relay.functions.submission import Delayed, Outcome, Submission, Submit
from relay.telemetry.log_context import LogContext, RequestIds, current

NAME = "voice-relay"
STOP_SECONDS = 3.0  # for what is not sent yet, when we stop
MAX_FLUSHES = 10_000  # sessions that have ended and are not in Postgres; then the oldest is let go

Write = Callable[[Sequence[Record]], Awaitable[None]]


class _Ids(RandomIdGenerator):
    """A trace that begins here has the id that our log lines and headers have already."""

    def generate_trace_id(self) -> int:
        ids = current.get().ids
        return super().generate_trace_id() if ids is None else int(ids.trace_id, 16)


class Traces:
    """`make_processor` makes what gets each span when it has ended; that may begin a thread, so it
    is called when this runs. `node_id` names this process. `with_content`: also what was said."""

    def __init__(
        self, make_processor: Callable[[], SpanProcessor], node_id: UUID, *, with_content: bool
    ) -> None:
        self._make_processor = make_processor
        self._provider = TracerProvider(
            resource=_describe(node_id), id_generator=_Ids(), shutdown_on_exit=False
        )
        self._tracer = self._provider.get_tracer(NAME, VERSION)
        self._with_content = with_content
        self._calls: dict[str, Span] = {}
        self._flushes: dict[UUID, Span] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Spans are sent while inside; on the way out those that are left, for a moment."""
        self._provider.add_span_processor(self._make_processor())
        try:
            yield
        finally:
            for session_id in list(self._flushes):
                self._end_flush(session_id, error="on_disk")
            await _stop(self._provider)

    def watch(self, beginning: Beginning) -> SessionTrace:
        """For a session that is about to begin, in the request of its browser."""
        while len(self._flushes) > MAX_FLUSHES:  # Postgres is away for long
            self._end_flush(next(iter(self._flushes)), error="too_many")
        return SessionTrace(
            self._tracer,
            beginning,
            _parent(current.get().ids),
            calls=self._calls,
            flushes=self._flushes,
            with_content=self._with_content,
        )

    def trace_submit(self, submit: Submit) -> Submit:
        """The same, in a span where the call has one; the Orchestrator is told of it."""

        async def submit_in_span(submission: Submission) -> Outcome:
            parent = self._calls.get(submission.call_id)
            if parent is None:
                return await submit(submission)
            path = submission.intent.path
            span = self._tracer.start_span(
                f"POST {path}",
                set_span_in_context(parent),
                SpanKind.CLIENT,
                {"http.request.method": "POST", "url.template": path},
            )
            context = current.get()
            outside = current.set(LogContext(_ids(span, context.ids), context.fields))
            try:
                outcome = await submit(submission)
                span.set_attribute("voice.outcome", type(outcome).__name__.lower())
                if isinstance(outcome, Delayed):
                    span.set_status(Status(StatusCode.ERROR, outcome.cause))
                return outcome
            finally:
                span.end()
                current.reset(outside)

        return submit_in_span

    def trace_write(self, write: Write) -> Write:
        """The same; when it has written the end of a session, all of that is stored."""

        async def write_and_look(records: Sequence[Record]) -> None:
            await write(records)
            for record in records:
                if isinstance(record, SessionEnded):
                    self._end_flush(record.session_id)

        return write_and_look

    def _end_flush(self, session_id: UUID, *, error: str | None = None) -> None:
        if span := self._flushes.pop(session_id, None):
            if error:
                span.set_attribute("error.type", error)
                span.set_status(Status(StatusCode.ERROR, error))
            span.end()


def _describe(node_id: UUID) -> Resource:
    """Who sends, as the variables say, and what they do not say."""
    named = Resource.create({"service.version": VERSION, "service.instance.id": str(node_id)})
    if str(named.attributes[SERVICE_NAME]).startswith("unknown_service"):
        named = named.merge(Resource({SERVICE_NAME: NAME}))
    return named


def _parent(ids: RequestIds | None) -> Context:
    """Whoever made the request, if it said so."""
    if ids is None or ids.parent_id is None:
        return Context()
    parent = SpanContext(
        int(ids.trace_id, 16), int(ids.parent_id, 16), True, TraceFlags(int(ids.flags, 16))
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _ids(span: Span, ids: RequestIds | None) -> RequestIds:
    """What is told to who is asked in this span."""
    about = span.get_span_context()
    trace_id = f"{about.trace_id:032x}"
    return RequestIds(
        request_id=ids.request_id if ids else trace_id,
        trace_id=trace_id,
        flags=f"{about.trace_flags:02x}",
        span_id=f"{about.span_id:016x}",
    )


async def _stop(provider: TracerProvider) -> None:
    """Not longer than we may: a thread that still sends does not hold the process."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        provider.shutdown()
        try:
            loop.call_soon_threadsafe(stopped.set)
        except RuntimeError:
            pass  # it took too long, and the loop is closed

    threading.Thread(target=stop, name="traces", daemon=True).start()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await stopped.wait()
    except TimeoutError:
        pass  # the SDK has said what it could not send
