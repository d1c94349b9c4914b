"""What is known of the user, over real sockets: asked with the dial, told with Settings."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from websockets.asyncio.server import serve

from relay.core.user_context import UserContext
from tests.relay.wires import ABOUT, Agent, agent_and_relay, next_event, relaying


class Knower:
    """Answers each question with the next of `answers`, an exception is raised; the last one again
    and again. `holds`: not before `go_on`."""

    def __init__(self, *answers, holds=False):
        self.answers = list(answers)
        self.asked = []
        self.cancelled = asyncio.Event()
        self.go_on = asyncio.Event()
        if not holds:
            self.go_on.set()

    async def ask(self, about):
        self.asked.append((about.user_id, about.timezone))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer


def keyterms_of(settings):
    return settings["agent"]["listen"]["provider"].get("keyterms", [])


ADA, BOB = UserContext(names=["Ada"]), UserContext(names=["Bob"])


async def test_settings_say_what_is_known():
    knower = Knower(UserContext(facts={"tasks": ["call Bob"]}, greeting="Welcome back!"))
    async with agent_and_relay(ask=knower.ask) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")

    (settings,) = agent.texts
    assert '  - "call Bob"' in settings["agent"]["think"][0]["prompt"]
    assert settings["agent"]["greeting"] == "Welcome back!"
    assert knower.asked == [("user", "UTC")]


async def test_the_question_is_asked_while_the_agent_is_dialled():
    agent, knower = Agent(), Knower(ADA)
    dialled, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(connection, request):
        dialled.set()
        await go_on.wait()

    async with serve(agent.handle, "127.0.0.1", 0, process_request=slowly) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            relaying(f"ws://127.0.0.1:{port}/", ask=knower.ask) as relay,
            relay.attach() as browser,
        ):
            async with asyncio.timeout(5):
                await dialled.wait()
            await next_event(browser, "RelaySession")
            assert knower.asked, "the dial is not over yet"
            go_on.set()
            await next_event(browser, "SettingsApplied")

    assert keyterms_of(agent.texts[0]) == ["Ada"]


async def test_settings_wait_for_an_answer_that_is_late_and_the_browser_has_its_welcome():
    knower = Knower(ADA, holds=True)
    async with agent_and_relay(ask=knower.ask) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "Welcome")
        assert agent.texts == []
        knower.go_on.set()
        await next_event(browser, "SettingsApplied")

    assert keyterms_of(agent.texts[0]) == ["Ada"]


async def test_a_defect_of_who_asks_does_not_silence_a_conversation():
    knower = Knower(ZeroDivisionError())
    async with agent_and_relay(ask=knower.ask) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")

        assert keyterms_of(agent.texts[0]) == []
        assert b'relay_task_failures_total{task="session"} 1.0' in relay.metrics.text()


async def test_with_an_agent_that_is_dialled_ahead_it_is_asked_ahead_and_once():
    knower = Knower(ADA)
    async with agent_and_relay(ask=knower.ask) as (agent, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        await agent.connected.wait()
        assert len(knower.asked) == 1

        async with relay.attach(session_id) as browser:
            await next_event(browser, "SettingsApplied")

        assert len(knower.asked) == 1
        assert keyterms_of(agent.texts[0]) == ["Ada"]


async def test_a_defect_while_asking_ahead_does_not_either():
    knower = Knower(ZeroDivisionError(), ADA)
    async with agent_and_relay(ask=knower.ask) as (agent, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        async with relay.attach(session_id) as browser:
            await next_event(browser, "SettingsApplied")

        assert keyterms_of(agent.texts[0]) == []


async def test_nobody_is_asked_for_a_session_that_was_hung_up():
    knower = Knower(ADA, holds=True)
    async with agent_and_relay(ask=knower.ask) as (agent, relay):
        session_id = uuid4()
        relay.session_registry.expect(session_id, ABOUT)
        await agent.connected.wait()

        relay.session_registry.hang_up(session_id)

        async with asyncio.timeout(5):
            await knower.cancelled.wait()


async def test_the_next_agent_is_told_what_is_known_then():
    knower = Knower(ADA, BOB, None)
    async with agent_and_relay(ask=knower.ask) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        for _ in range(2):
            agent.connections[-1].transport.abort()
            await next_event(browser, "RelayReconnecting")
            await next_event(browser, "RelayReconnected")

    told = [keyterms_of(text) for text in agent.texts if text["type"] == "Settings"]
    assert told == [["Ada"], ["Bob"], ["Bob"]]


async def test_a_question_of_an_agent_that_is_lost_is_not_waited_for():
    knower = Knower(ADA, BOB, holds=True)
    async with agent_and_relay(ask=knower.ask) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "Welcome")
        agent.connections[-1].transport.abort()
        async with asyncio.timeout(5):
            await knower.cancelled.wait()
        knower.go_on.set()
        await next_event(browser, "SettingsApplied")

    assert keyterms_of(agent.texts[-1]) == ["Bob"]
