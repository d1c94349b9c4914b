"""The spans of sessions over real sockets, with OpenTelemetry's own exporter in memory."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
import pytest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from control.traces.exporter import open_traces
from control.traces.traces import Traces
from relay.core.records import SessionEnded
from relay.functions.submission import Delayed, Rejected, Submitted
from relay.telemetry.log_context import outgoing
from tests.relay.wires import LIMITS, agent_and_relay, next_event, relaying

ASKED = "I want to run a marathon"
CALL = {"id": "call-1", "name": "create_goal", "client_side": True}
ARGUMENTS = json.dumps({"title": "marathon", "deadline": "none"})


class Spans(SpanProcessor):
    """What was begun, and what has ended: in an exporter in memory."""

    def __init__(self):
        self.begun = []
        self.exporter = InMemorySpanExporter()
        self._simple = SimpleSpanProcessor(self.exporter)

    def on_start(self, span, parent_context=None):
        self.begun.append(span)

    def on_end(self, span):
        self._simple.on_end(span)

    @property
    def ended(self):
        return self.exporter.get_finished_spans()

    def of(self, name):
        """Those whose name begins so, in the order of their end."""
        return [span for span in self.ended if span.name.startswith(name)]

    @property
    def tree(self):
        """Pairs of a name and the name of its parent, each with how often it is there."""
        names = {span.context.span_id: span.name for span in self.ended}
        return Counter((s.name, s.parent and names[s.parent.span_id]) for s in self.ended)


@asynccontextmanager
async def traced(*, with_content=False, submit=None, limits=LIMITS):
    """A relay whose sessions are traced, and its agent; afterwards `spans` has all of them."""
    spans = Spans()
    traces = Traces(lambda: spans, uuid4(), with_content=with_content)

    async def take(submission):
        return Submitted({"id": 7}, 1)

    async with (
        traces.running(),
        agent_and_relay(
            watches=(traces.watch,), submit=traces.trace_submit(submit or take), limits=limits
        ) as (agent, relay),
    ):
        yield agent, relay, spans


async def talk(agent, browser, *, call=True):
    """A turn of the user with a function call, and its answer."""
    await agent.say(type="UserStartedSpeaking")
    await agent.say(type="ConversationText", role="user", content=ASKED)
    await agent.say(type="LatencyReport", stt_latency=0.21)
    if call:
        await agent.say(type="FunctionCallRequest", functions=[CALL | {"arguments": ARGUMENTS}])
        await agent.until(lambda: any(t["type"] == "FunctionCallResponse" for t in agent.texts))
    await agent.say(type="LatencyReport", ttt_token_latency=0.4)
    await agent.say(type="ConversationText", role="assistant", content="It is saved.")
    await agent.connections[-1].send(b"\0" * 640)
    await agent.say(type="AgentAudioDone")
    await next_event(browser, "AgentAudioDone")


async def test_a_session_is_one_trace_of_spans_that_know_their_parents():
    async with traced() as (agent, relay, spans):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await agent.say(type="ConversationText", role="assistant", content="Hello.")
            await agent.say(type="AgentAudioDone")
            await talk(agent, browser)
        await relay.until(SessionEnded)

    assert spans.tree == {
        ("session", None): 1,
        ("dial", "session"): 1,
        ("settings", "session"): 1,
        ("invoke_agent", "session"): 2,
        ("execute_tool create_goal", "invoke_agent"): 1,
        ("POST /goals", "execute_tool create_goal"): 1,
        ("flush", "session"): 1,
    }
    assert len({span.context.trace_id for span in spans.ended}) == 1
    assert len(spans.begun) == len(spans.ended)
    assert all(span.start_time <= span.end_time for span in spans.ended)
    (root,) = spans.of("session")
    assert root.attributes["session.id"] == str(relay.session_id)
    assert root.attributes["voice.end_reason"] == "browser_left"
    assert root.status.status_code is StatusCode.UNSET
    assert root.resource.attributes["service.name"] == "voice-relay"
    greeting, turn = spans.of("invoke_agent")
    assert "gen_ai.response.time_to_first_chunk" not in greeting.attributes
    assert turn.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert turn.attributes["gen_ai.provider.name"] == "deepgram"
    assert turn.attributes["gen_ai.conversation.id"] == root.attributes["gen_ai.conversation.id"]
    assert turn.attributes["voice.turn.outcome"] == "answered"
    assert turn.attributes["voice.agent.listen_seconds"] == 0.21
    assert turn.attributes["voice.agent.think_seconds"] == 0.4
    assert 0 < turn.attributes["gen_ai.response.time_to_first_chunk"] < 5
    (call,) = spans.of("execute_tool")
    assert call.attributes["gen_ai.tool.name"] == "create_goal"
    assert call.attributes["gen_ai.tool.call.id"] == "call-1"
    assert call.attributes["voice.call.status"] == "submitted"


@pytest.mark.parametrize("with_content", [False, True])
async def test_what_was_said_is_there_only_if_content_is_recorded(with_content):
    async with traced(with_content=with_content) as (agent, relay, spans):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await talk(agent, browser)
        await relay.until(SessionEnded)

    told = "".join(span.to_json() for span in spans.ended)
    for text in (ASKED, "It is saved.", "deadline"):
        assert (text in told) is with_content
    if with_content:
        (turn,) = spans.of("invoke_agent")
        (line,) = json.loads(turn.attributes["gen_ai.input.messages"])
        assert line == {"role": "user", "parts": [{"type": "text", "content": ASKED}]}


async def test_the_orchestrator_is_told_the_span_of_the_attempt():
    told = []

    async def submit(submission):
        told.append(outgoing())
        if len(told) == 1:
            return Delayed(reason="busy", cause="status 503", attempts=1, unsent=True)
        return Rejected("no", None, 1)

    async with traced(submit=submit) as (agent, relay, spans):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await talk(agent, browser)
        await relay.until(SessionEnded)

    attempts = spans.of("POST")
    (call,) = spans.of("execute_tool")
    for headers, span in zip(told, attempts, strict=True):
        _, trace_id, span_id, flags = headers["traceparent"].split("-")
        assert int(trace_id, 16) == span.context.trace_id
        assert int(span_id, 16) == span.context.span_id
        assert int(flags, 16) & 1
        assert span.parent.span_id == call.context.span_id
    assert [span.attributes["voice.outcome"] for span in attempts] == ["delayed", "rejected"]
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.UNSET]
    assert call.status.status_code is StatusCode.ERROR
    assert call.attributes["error.type"] == "rejected"


async def test_of_a_session_that_loses_its_agent_twice_every_span_is_closed():
    async with traced() as (agent, relay, spans):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await agent.say(type="UserStartedSpeaking")
            await agent.say(type="ConversationText", role="user", content=ASKED)
            await next_event(browser, "ConversationText")
            await agent.connections[0].close(1011)  # before it has answered
            await next_event(browser, "RelayReconnected")
            await agent.say(type="ConversationText", role="assistant", content="It")
            await next_event(browser, "ConversationText")
            await agent.connections[1].close(1011)  # in its answer
            await next_event(browser, "RelayReconnected")
            await agent.say(type="UserStartedSpeaking")
            await next_event(browser, "UserStartedSpeaking")
        await relay.until(SessionEnded)

    assert spans.tree == {
        ("session", None): 1,
        ("dial", "session"): 3,
        ("settings", "session"): 3,
        ("invoke_agent", "session"): 2,
        ("flush", "session"): 1,
    }
    assert len(spans.begun) == len(spans.ended)
    first, second = spans.of("invoke_agent")
    assert first.attributes["voice.turn.outcome"] == "agent_lost"
    assert first.status.status_code is StatusCode.ERROR
    assert second.attributes["voice.turn.outcome"] == "session_ended"
    (root,) = spans.of("session")
    assert [event.name for event in root.events][:2] == ["agent_closed"] * 2


async def test_an_interruption_ends_a_turn_and_what_is_left_of_its_answer_does_not():
    async with traced() as (agent, relay, spans):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await agent.say(type="UserStartedSpeaking")
            await agent.say(type="ConversationText", role="user", content=ASKED)
            await agent.say(type="ConversationText", role="assistant", content="A long")
            await agent.say(type="UserStartedSpeaking")
            await agent.say(type="AgentAudioDone")  # of what was interrupted
            await agent.say(type="ConversationText", role="user", content="Stop")
            await agent.say(type="ConversationText", role="assistant", content="Yes.")
            await agent.say(type="AgentAudioDone")
            await next_event(browser, "AgentAudioDone")
            await next_event(browser, "AgentAudioDone")
        await relay.until(SessionEnded)

    turns = spans.of("invoke_agent")
    assert [t.attributes["voice.turn.outcome"] for t in turns] == ["interrupted", "answered"]


async def test_an_agent_that_cannot_be_reached_is_an_error_of_dial_and_session():
    limits = msgspec.structs.replace(LIMITS, setup_seconds=0.3)
    spans = Spans()
    traces = Traces(lambda: spans, uuid4(), with_content=False)
    async with traces.running(), _nobody(traces, limits) as relay, relay.attach() as browser:
        await next_event(browser, "RelayError")
        await relay.until(SessionEnded)

    (root,) = spans.of("session")
    assert root.status.status_code is StatusCode.ERROR
    assert {span.status.status_code for span in spans.of("dial")} == {StatusCode.ERROR}
    assert len(spans.begun) == len(spans.ended)


@asynccontextmanager
async def _nobody(traces, limits):
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        relaying(f"ws://127.0.0.1:{port}/", watches=(traces.watch,), limits=limits) as relay,
    ):
        yield relay


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("zipkin", "expected otlp, console or none, got 'zipkin'"), ("none", None)],
)
def test_what_cannot_be_traced_is_said_once(kind, reason, caplog):
    assert open_traces(kind, uuid4(), with_content=False) is None
    assert [record.getMessage() for record in caplog.records] == (
        [f"traces_off reason=OTEL_TRACES_EXPORTER: {reason}"] if reason else []
    )


def test_a_relay_without_traces_does_not_load_their_sdk():
    program = (
        "import sys; from config.loader import load; from control.app import create_app;"
        "from config.settings import CONFIG_DIR, STAND_INS, from_environment;"
        "create_app(from_environment(STAND_INS), load(CONFIG_DIR, {}));"
        "sys.exit([n for n in sys.modules if n.startswith('opentelemetry.sdk')] or None)"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
