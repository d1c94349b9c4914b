"""The whole program in one process: REST, Postgres, the relay, a scripted sandbox agent.

No speech engine: what the agent says comes from a script, so these take a second each.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import config
from config.loader import load
from config.settings import from_environment
from control.app import create_app
from control.dev import orchestrator as local_orchestrator
from relay.sandbox.options import Options
from relay.sandbox.script import Call, Ending, Script, Turn
from relay.sandbox.server import serve
from tests.relay.wires import listening, next_event

GOAL = Call("create_goal", {"title": "swim", "deadline": "none"})
MOVE = Call("reschedule_task", {"task": "dentist", "when": "Friday"})
API = "/api/v1/voice"


class Whole:
    """A running program: `http` speaks REST, `sandbox` shows what the agent got."""

    def __init__(self, http, sandbox, orchestrator):
        self.http = http
        self.sandbox = sandbox
        self.orchestrator = orchestrator

    async def begin(self, **body):
        answer = await self.http.post(f"{API}/session", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def attach(self, begun, **more):
        more = {"subprotocols": ["relay.v1", begun["ticket"]], "compression": None} | more
        return connect(begun["websocket_url"], **more)

    async def get(self, path):
        answer = await self.http.get(API + path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ended(self, begun):
        """The session once its end is stored."""
        async with asyncio.timeout(5):
            while True:
                session = await self.get(f"/session/{begun['session_id']}")
                if session["state"] == "ended":
                    return session


@asynccontextmanager
async def whole(
    database_url,
    tmp_path,
    *,
    folder=Path(config.__file__).parent,
    make_orchestrator=local_orchestrator.create_app,
    environ={},  # noqa: B006  # read only
    **options,
):
    """`folder` has the configuration, `environ` more settings, `options` are the sandbox's."""
    quick = {
        "greeting_delay": 0.0,
        "think_delay": 0.01,
        "call_delay": 0.0,
        "pace": 50.0,
    }
    async with (
        serve(Options(**quick | options)) as sandbox,
        listening(make_orchestrator(database_url)) as (orchestrator_port, _),
    ):
        settings = from_environment(
            {
                "DEEPGRAM_API_KEY": "the-real-key",
                "DEEPGRAM_AGENT_URL": sandbox.agent_url,
                "DATABASE_URL": database_url,
                "ORCHESTRATOR_URL": f"http://127.0.0.1:{orchestrator_port}",
                "RELAY_DATA_DIR": str(tmp_path),
                **environ,
            }
        )
        configuration = load(folder, {})
        async with (
            listening(create_app(settings, configuration)) as (port, _),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            orchestrator = f"http://127.0.0.1:{orchestrator_port}"
            yield Whole(http, sandbox, orchestrator)


async def closed(browser):
    async with asyncio.timeout(5):
        try:
            while True:
                await browser.recv()
        except ConnectionClosed:
            return browser.close_code, browser.close_reason


async def type_line(browser, text):
    await browser.send(json.dumps({"type": "InjectUserMessage", "content": text}))


def turns(*more):
    return Script(turns=(Turn(when="text", say=("All right.", "What else?")), *more))


async def test_what_was_said_is_in_the_history_and_goes_to_the_agent_on_resume(
    database_url, tmp_path
):
    script = Script(
        turns=(Turn(when="text", calls=(GOAL,), say=("Done.", "What else?")),), loop=True
    )
    async with whole(database_url, tmp_path, script=script) as program:
        begun = await program.begin(timezone="Europe/Vienna")
        assert begun["messages"] == []
        async with program.attach(begun) as browser:
            greeting = await next_event(browser, "ConversationText")
            await type_line(browser, "I want to swim")
            shown = [greeting["content"]]
            while "What else?" not in shown:
                shown.append((await next_event(browser, "ConversationText"))["content"])

        # Taken up again at once: nothing of the first session may be missing.
        again = await program.begin(conversation_id=begun["conversation_id"])
        async with program.attach(again) as browser:
            await next_event(browser, "SettingsApplied")
            agent = await program.sandbox.session(1)
            settings = agent.settings
            await type_line(browser, "And a second one")
            await next_event(browser, "RelayIntent")
            await next_event(browser, "RelayIntent")

        await program.ended(again)
        listed = (await program.get(f"/conversations/{begun['conversation_id']}/messages"))["items"]
        intents = (await program.get(f"/conversations/{begun['conversation_id']}/intents"))["items"]
        assert [m["content"] for m in listed][: len(shown)] == shown
        assert [m["seq"] for m in listed] == list(range(1, len(listed) + 1))
        assert "greeting" not in settings["agent"]
        context = settings["agent"]["context"]["messages"]
        assert [m.get("content") for m in context if "content" in m] == shown
        (call,) = [m["function_calls"][0] for m in context if "function_calls" in m]
        assert call["name"] == "create_goal"
        assert json.loads(call["response"])["status"] == "submitted"
        # In its place: after the user's words, before the reply.
        kinds = ["call" if "function_calls" in m else m["role"] for m in context]
        assert kinds == ["assistant", "user", "call", "assistant", "assistant"]
        assert [i["status"] for i in intents] == ["submitted", "submitted"]
        goals = (await program.http.get(f"{program.orchestrator}/goals")).json()["items"]
        assert [g["title"] for g in goals] == ["swim", "swim"]


async def test_a_refused_intent_is_stored_with_its_reason(database_url, tmp_path):
    script = Script(turns=(Turn(when="text", calls=(MOVE,), say=("I could not do that.",)),))
    async with whole(database_url, tmp_path, script=script) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            await next_event(browser, "SettingsApplied")
            await type_line(browser, "Move the dentist to Friday")
            await next_event(browser, "RelayIntent")
            told = await next_event(browser, "RelayIntent")
            await next_event(browser, "ConversationText")

        assert told["status"] == "rejected"
        assert "dentist" in json.dumps(told["result"])
        agent = await program.sandbox.session(0)
        (answer,) = agent.messages("FunctionCallResponse")
        assert "dentist" in json.loads(answer["content"])["error"]


async def test_a_session_is_listed_from_beginning_to_end(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=turns()) as program:
        begun = await program.begin()
        path = f"/session/{begun['session_id']}"
        assert (await program.get(path))["state"] == "new"
        async with program.attach(begun) as browser:
            await next_event(browser, "AgentAudioDone")
            live = await program.get(path)
            assert live["state"] == "live"
            assert live["agent_frames"] > 0
        ended = await program.ended(begun)
        assert ended["close_reason"] == "browser_left"
        assert ended["agent_request_id"]
        assert ended["agent_frames"] >= live["agent_frames"]
        assert ended["latency"]["settings_ms"] > 0


@pytest.mark.parametrize("seconds", [0.0, 3.0], ids=["live", "still dialling"])
async def test_delete_hangs_up_in_every_state(database_url, tmp_path, seconds):
    options = {"script": turns(), "handshake_delay": seconds}
    async with whole(database_url, tmp_path, **options) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            await next_event(browser, "RelaySession" if seconds else "SettingsApplied")
            answer = await program.http.delete(f"{API}/session/{begun['session_id']}")
            assert answer.status_code == 204
            assert await closed(browser) == (1000, "hung up")
        kept = await program.get(f"/conversations/{begun['conversation_id']}")
        assert kept["status"] == "closed"
        if not seconds:
            agent = await program.sandbox.session(0)
            await agent.until(lambda s: s.close_code is not None)
            assert agent.close_code == 1000


async def test_a_newer_session_of_a_conversation_takes_over_from_the_older(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=turns()) as program:
        first = await program.begin()
        async with program.attach(first) as old:
            await next_event(old, "ConversationText")
            second = await program.begin(conversation_id=first["conversation_id"])
            async with program.attach(second) as new:
                assert await closed(old) == (1000, "continued elsewhere")
                await next_event(new, "SettingsApplied")
                await type_line(new, "hello")
                await next_event(new, "RelayMessageSaved")

        listed = (await program.get(f"/conversations/{first['conversation_id']}/messages"))["items"]
        assert [m["seq"] for m in listed] == list(range(1, len(listed) + 1))
        assert len({m["session_id"] for m in listed}) == 2


async def test_a_ticket_opens_one_session_once(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=turns()) as program:
        begun, other = await program.begin(), await program.begin()
        async with program.attach(begun) as browser:
            await next_event(browser, "SettingsApplied")

        unknown = begun["websocket_url"].replace(begun["session_id"], str(uuid4()))
        wrong = [
            begun,  # used
            other | {"ticket": "x" * 43},
            other | {"websocket_url": begun["websocket_url"]},  # of another session
            other | {"websocket_url": unknown},
        ]
        for attempt in wrong:
            with pytest.raises(InvalidStatus) as refused:
                async with program.attach(attempt):
                    pass
            assert refused.value.response.status_code in (401, 409)
        async with program.attach(other) as browser:
            await next_event(browser, "SettingsApplied")


async def test_an_agent_that_errs_for_good_is_told_and_stored(database_url, tmp_path):
    script = Script(turns=(Turn(end=Ending("error", "INVALID_SETTINGS")),))
    async with whole(database_url, tmp_path, script=script) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            told = await next_event(browser, "Error")
            assert told["code"] == "INVALID_SETTINGS"
            assert await closed(browser) == (1011, "INVALID_SETTINGS")
        assert (await program.ended(begun))["close_reason"] == "agent_error"


async def test_a_lost_agent_is_replaced_and_nothing_that_was_said_is_lost(database_url, tmp_path):
    script = Script(
        turns=(
            Turn(when="text", calls=(GOAL,), say=("Done.",)),
            Turn(when="text", say=("Never heard.",), end=Ending("drop")),
            Turn(when="text", say=("Still here.",)),
        )
    )
    async with whole(database_url, tmp_path, script=script) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            await next_event(browser, "SettingsApplied")
            await next_event(browser, "AgentAudioDone")  # of the greeting
            await type_line(browser, "I want to swim")
            await next_event(browser, "AgentAudioDone")
            await type_line(browser, "And you?")
            await next_event(browser, "RelayReconnecting")
            await next_event(browser, "RelayReconnected")
            await type_line(browser, "Hello again")
            while (await next_event(browser, "ConversationText"))["content"] != "Done.":
                pass  # the next agent begins its script again
        await program.ended(begun)

        second = await program.sandbox.session(1)
        context = second.settings["agent"]["context"]["messages"]
        said = [line["content"] for line in context if "content" in line]
        assert said[1:] == ["I want to swim", "Done.", "And you?", "Never heard."]
        assert any("function_calls" in line for line in context)
        assert "greeting" not in second.settings["agent"]
        listed = (await program.get(f"/conversations/{begun['conversation_id']}/messages"))["items"]
        assert [m["seq"] for m in listed] == list(range(1, len(listed) + 1))
        assert [m["content"] for m in listed][: len(said)] == said
        assert len({m["session_id"] for m in listed}) == 1


async def test_the_key_the_prompt_and_the_functions_reach_no_browser(database_url, tmp_path):
    script = Script(turns=(Turn(when="text", calls=(GOAL,), say=("Done.",)),))
    async with whole(database_url, tmp_path, script=script) as program:
        begun = await program.begin()
        seen = [json.dumps(begun)]
        async with program.attach(begun) as browser:
            await next_event(browser, "SettingsApplied")
            await type_line(browser, "I want to swim")
            async with asyncio.timeout(5):
                while "Done." not in seen[-1]:
                    frame = await browser.recv()
                    if isinstance(frame, str):
                        seen.append(frame)
        agent = await program.sandbox.session(0)
        for path in ["/conversations", "/intents", f"/session/{begun['session_id']}"]:
            seen.append(json.dumps(await program.get(path)))

        everything = "\n".join(seen)
        assert "the-real-key" not in everything
        assert "create_goal" not in everything
        assert "FunctionCall" not in everything
        prompt = agent.settings["agent"]["think"][0]["prompt"]
        sentences = [line.strip() for line in prompt.splitlines() if len(line.strip()) > 20]
        assert sentences
        assert not [line for line in sentences if line in everything]


async def test_sessions_do_not_touch_one_another(database_url, tmp_path):
    async with whole(database_url, tmp_path, script=turns()) as program:
        begun = [await program.begin() for _ in range(12)]

        async def converse(each, number):
            async with program.attach(each) as browser:
                await next_event(browser, "SettingsApplied")
                if number % 4 == 0:
                    browser.transport.abort()
                    return
                await type_line(browser, f"line {number}")
                while (await next_event(browser, "ConversationText"))["content"] != "What else?":
                    pass

        async with asyncio.TaskGroup() as tasks:
            for number, each in enumerate(begun):
                tasks.create_task(converse(each, number))

        for number, each in enumerate(begun):
            if number % 4 == 0:
                continue
            listed = await program.get(f"/conversations/{each['conversation_id']}/messages")
            said = [m["content"] for m in listed["items"] if m["role"] == "user"]
            assert said == [f"line {number}"]
            assert {UUID(m["session_id"]) for m in listed["items"]} == {UUID(each["session_id"])}
