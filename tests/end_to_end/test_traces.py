"""Traces of the whole program, as a collector gets them: OTLP over HTTP."""

from __future__ import annotations

import asyncio
import gzip

from litestar import Litestar, Request, post
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from control.dev import orchestrator as local_orchestrator
from relay.sandbox.script import Script, Turn
from tests.end_to_end.test_relay import GOAL, type_line, whole
from tests.relay.wires import listening, next_event

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SCRIPT = Script(turns=(Turn(when="text", calls=(GOAL,), say=("Done.",)),))


class Collector:
    """Keeps the spans that it gets, and who they are from."""

    def __init__(self):
        self.spans = []
        self.resources = []
        self.app = Litestar([post("/v1/traces", status_code=200)(self._take)])

    async def _take(self, request: Request) -> bytes:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            found = sent.resource.attributes
            self.resources.append({one.key: one.value.string_value for one in found})
            self.spans += [span for scope in sent.scope_spans for span in scope.spans]
        return b""


async def converse(program, **headers):
    """A session with one call; the headers are of its WebSocket."""
    begun = await program.begin()
    async with program.attach(begun, additional_headers=headers) as browser:
        await next_event(browser, "SettingsApplied")
        await type_line(browser, "I want to swim")
        await next_event(browser, "AgentAudioDone")
        while (await next_event(browser, "RelayIntent"))["status"] != "submitted":
            pass
    await program.ended(begun)


async def test_a_collector_gets_the_trace_that_the_orchestrator_was_told_of(
    database_url, tmp_path, monkeypatch
):
    told = []

    def make_orchestrator(database_url):
        app = local_orchestrator.create_app(database_url)

        async def hear(scope, receive, send):
            headers = {n.decode(): v.decode() for n, v in scope.get("headers", [])}
            if "idempotency-key" in headers:
                told.append(headers["traceparent"])
            await app(scope, receive, send)

        return hear

    collector = Collector()
    async with listening(collector.app) as (port, _):
        endpoint = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "voice")
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        async with whole(
            database_url,
            tmp_path,
            script=SCRIPT,
            environ=environ,
            make_orchestrator=make_orchestrator,
        ) as program:
            await converse(program, traceparent=f"00-{TRACE}-{PARENT}-01")
        spans = {span.name: span for span in collector.spans}

    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert spans["session"].parent_span_id.hex() == PARENT
    attempt, flush = spans["POST /goals"], spans["flush"]
    (traceparent,) = told
    assert traceparent.startswith(f"00-{TRACE}-{attempt.span_id.hex()}-")
    assert attempt.parent_span_id == spans["execute_tool create_goal"].span_id
    assert flush.parent_span_id == spans["session"].span_id
    assert not [a for a in flush.attributes if a.key == "error.type"]
    assert collector.resources[0]["service.name"] == "voice"
    assert collector.resources[0]["service.instance.id"]


async def test_who_is_not_to_be_traced_is_not_and_a_collector_that_is_away_stops_nobody(
    database_url, tmp_path, monkeypatch
):
    collector = Collector()
    async with listening(collector.app) as (port, _):
        endpoint = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        async with whole(database_url, tmp_path, script=SCRIPT, environ=environ) as program:
            await converse(program, traceparent=f"00-{TRACE}-{PARENT}-00")
    assert collector.spans == []

    environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = "http://127.0.0.1:9/"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/")
    async with asyncio.timeout(30):
        async with whole(database_url, tmp_path / "b", script=SCRIPT, environ=environ) as program:
            await converse(program)
