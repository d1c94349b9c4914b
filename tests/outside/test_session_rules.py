"""What a session does with events that come at an odd moment, and with a defect of its own."""

from __future__ import annotations

import asyncio
import json
import struct
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config.limits import Limits
from relay.core.agent_lifecycle import State
from relay.core.events import AgentOpened, FromAgent, Woken
from relay.core.records import SessionEnded
from relay.protocol import deepgram
from relay.telemetry.metrics import Metrics
from relay.telemetry.session_timing import SessionTiming
from tests.relay.conftest import LIMITS as QUIET
from tests.relay.conftest import make_session
from tests.relay.core import test_any_order, test_session
from tests.relay.wires import LIMITS, agent_and_relay, next_event

WELCOME = FromAgent(deepgram.Welcome(request_id="r"))
OPENED = [AgentOpened(), WELCOME, FromAgent(deepgram.SettingsApplied())]
AT_ONCE = 40  # wakes at one instant that change something: calls, notices, an end


@given(
    st.integers(0, 3),
    st.sampled_from(
        [QUIET, Limits(), Limits(idle_seconds=20.0, session_seconds=60.0, audio_burst_seconds=1.0)]
    ),
    st.lists(st.tuples(test_any_order.events, st.floats(0, 5)), max_size=40),
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_after_every_event_the_deadline_lies_ahead_or_waking_changes_something(
    opened, limits, steps
):
    session = make_session(test_any_order.OPENING, deepgram.Settings(audio={}, agent={}), limits)
    now, asked_for = 0.0, []
    for step, passed in [(event, 0.0) for event in OPENED[:opened]] + steps:
        now += passed
        event = test_any_order.event_of(step, asked_for)
        asked_for += test_session.ids_of(session.handle(event, now))
        for _ in range(AT_ONCE):
            if session.state is State.CLOSED or session.deadline > now:
                break
            session.handle(Woken(0), now)
        else:
            raise AssertionError(f"{session!r} wants to be woken at {session.deadline}, at {now}")


def test_a_call_before_settings_are_applied_does_not_wake_the_session_for_ever():
    session = make_session(test_any_order.OPENING, deepgram.Settings(audio={}, agent={}))
    session.handle(AgentOpened(), 0.1)
    session.handle(WELCOME, 0.2)
    (called,) = session.handle(test_session.request(test_session.call()), 0.3)
    session.handle(test_session.started(called.id, say="One moment.", say_after=1.0), 0.4)

    session.handle(Woken(0), 2.0)

    assert session.deadline > 2.0
    session.handle(FromAgent(deepgram.SettingsApplied()), 3.0)
    asked = session.handle(Woken(0), session.deadline)
    assert "One moment." in repr(asked)


def pcm(*samples):
    return struct.pack(f"<{len(samples)}h", *samples)


@pytest.mark.parametrize("odd", [1, 3, 641])
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_an_odd_message_does_not_shift_the_samples_of_the_next(odd, times):
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        next_one = pcm(*range(1000, 1040))
        for _ in range(times):
            await browser.send(b"\x7f" * odd)
        for _ in range(40):  # some go the short way, some are measured
            await browser.send(next_one)
        await agent.until(lambda: agent.audio[-40:] == [next_one] * 40)

        before = b"".join(agent.audio[:-40])
        assert len(before) % 2 == 0
        assert before.count(b"\x7f") == odd * times, "nothing of it is lost"


async def test_an_odd_message_that_waits_for_its_agent_does_not_either():
    async with agent_and_relay() as (agent, relay):
        agent.answers = False
        async with relay.attach() as browser:
            await agent.connected.wait()
            await browser.send(b"\x7f" * 3)
            await browser.send(pcm(1, 2))
            await (await browser.ping())
            agent.answers = True
            await agent.say(type="Welcome", request_id="r")
            await agent.until(lambda: len(agent.audio) == 2)

        assert agent.audio == [b"\x7f\x7f\x7f\0", pcm(1, 2)]


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000, 60000, 65535])
async def test_a_close_code_that_may_not_be_sent_does_not_go_on(code):
    async with agent_and_relay() as (agent, relay):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            browser.transport.write(masked_close(struct.pack("!H", code) + b"bye"))
            await browser.wait_closed()
        async with asyncio.timeout(3):
            await agent.gone.wait()

        assert agent.closed == (1000, "")
        assert (await relay.until(SessionEnded)).browser_code


def masked_close(payload):
    return bytes([0x88, 0x80 | len(payload)]) + bytes(4) + payload


async def test_keepalive_goes_out_while_audio_is_blocked_for_its_speed():
    """What a browser sends too fast is thrown away: the agent hears nothing and must be told."""
    limits = msgspec.structs.replace(LIMITS, audio_speed=2.0, audio_burst_seconds=1.0)
    async with agent_and_relay(limits=limits) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")

        async def speak():
            while True:
                await browser.send(bytes(16_000))
                await asyncio.sleep(0.1)  # five times real time

        speaking = asyncio.create_task(speak())
        async with asyncio.timeout(15):
            while {"type": "KeepAlive"} not in agent.texts:
                agent.arrived.clear()
                await agent.arrived.wait()
        speaking.cancel()


async def test_an_answer_for_one_agent_does_not_reach_the_next():
    """The agent asks before it has applied its Settings and is gone before the answer."""
    async with agent_and_relay() as (agent, relay):
        agent.answers = False
        async with relay.attach() as browser:
            await agent.connected.wait()
            await agent.say(type="Welcome", request_id="r")
            await agent.until(lambda: agent.texts)
            call = {"id": "call_0", "name": "create_goal", "client_side": True}
            call["arguments"] = json.dumps({"title": "swim", "deadline": "none"})
            await agent.say(type="FunctionCallRequest", functions=[call])
            while (await next_event(browser, "RelayIntent"))["status"] == "submitting":
                pass
            agent.answers = True
            agent.connections[0].transport.abort()
            await next_event(browser, "SettingsApplied")
            typed = {"type": "InjectUserMessage", "content": "still there?"}
            await browser.send(json.dumps(typed))
            await agent.until(lambda: typed in agent.texts)

            kinds = [text["type"] for text in agent.texts]
            assert kinds == ["Settings", "Settings", "InjectUserMessage"]


async def test_what_a_browser_typed_meanwhile_reaches_the_next_agent():
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        agent.connections[0].transport.abort()
        await next_event(browser, "RelayReconnecting")
        typed = {"type": "InjectUserMessage", "content": "still there?"}
        await browser.send(json.dumps(typed))
        await agent.until(lambda: typed in agent.texts)


class Broken(Exception):
    """Something that nobody foresaw."""


def break_session(relay, how):
    """A defect in the session of the browser that attached last."""
    runner = relay.session_registry._live[relay.session_id]

    def broken(*anything, **more):
        raise Broken

    if how == "timer":
        rules = runner._session
        runner._session = SimpleNamespace(deadline=0.0, handle=broken, admitted=rules.admitted)
        runner._wake()
        runner._session = rules
    elif how == "core":
        runner._session.handle = broken
    elif how == "journal":
        runner._record._journal = type("Journal", (), {"append": broken})()
    elif how == "answer":
        runner._browser.connection.queue.send_text = broken


@pytest.mark.parametrize("how", ["timer", "core", "journal", "answer"])
async def test_a_defect_in_one_session_ends_that_one_alone(how):
    async with agent_and_relay() as (agent, relay), relay.attach() as neighbour:
        await next_event(neighbour, "SettingsApplied")
        first = agent.connections[-1]
        async with relay.attach() as victim:
            await next_event(victim, "SettingsApplied")
            break_session(relay, how)
            if how != "timer":
                await agent.say(type="ConversationText", role="user", content="hello")
            async with asyncio.timeout(5):
                await victim.wait_closed()
            if how != "journal":
                assert victim.close_code == 1011
                assert (await relay.until(SessionEnded)).reason == "internal_error"
        await first.send(json.dumps({"type": "UserStartedSpeaking"}))
        await next_event(neighbour, "UserStartedSpeaking")
        async with relay.attach() as another:
            await next_event(another, "SettingsApplied")


def test_an_agent_that_was_open_before_it_was_wanted_has_no_connect_time():
    """A drop-in whose agent was dialled ahead: 1,030,180 ms were reported."""
    watch = SessionTiming(Metrics())
    watch.opened(1000.0)
    watch.dialled(1030.0)
    watch.settings_sent(1030.5)
    watch.applied(1031.0)

    assert watch.latency.connect_ms is None
    assert watch.latency.settings_ms == 500.0
