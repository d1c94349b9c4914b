"""Calls that the user has to confirm: on the card, in time or not, and whatever else happens."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect

import config
from control.dev import orchestrator as local_orchestrator
from relay.sandbox.options import Options
from relay.sandbox.script import Call, Script, Turn
from relay.sandbox.server import serve
from tests.end_to_end.test_relay import type_line, whole
from tests.end_to_end.test_two_relays import Relay
from tests.relay.wires import listening, next_event

SHIPPED = Path(config.__file__).parent
SECONDS = 60
LOOK = 0.05  # for what is in a database there is no event
GOAL = Call("create_goal", {"title": "swim", "deadline": "none"})
ANSWERED = """
    SELECT role FROM voice.messages WHERE seq > (SELECT min(after_seq) FROM voice.intents)
    ORDER BY seq DESC LIMIT 1
"""
SCRIPT = Script(turns=(Turn(when="text", calls=(GOAL,), say=("Please look.",)),), loop=True)


@pytest.fixture
def folder(tmp_path):
    """`folder(...)`: the configuration that ships, and goals have to be confirmed."""

    def configured(**more):
        made = shutil.copytree(SHIPPED, tmp_path / "config")
        lines = "".join(f"    {key}: {value}\n" for key, value in more.items())
        intents = made / "intents.yaml"
        goals = "    path: /goals\n"
        intents.write_text(
            intents.read_text().replace(goals, f"{goals}    confirm: card\n{lines}", 1)
        )
        return made

    return configured


@pytest.fixture
async def sql(database_url):
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def ask(browser):
    """Ask for a goal: the card."""
    await next_event(browser, "SettingsApplied")
    await type_line(browser, "I want to swim")
    return await next_event(browser, "RelayIntent")


async def decide(browser, what, card):
    await browser.send(json.dumps({"type": what, "id": card["id"]}))


async def goals_of(program):
    return [
        g["title"]
        for g in (await program.http.get(f"{program.orchestrator}/goals")).json()["items"]
    ]


async def one_call(program, begun):
    """The call as REST has it, once it has an outcome."""
    async with asyncio.timeout(SECONDS):
        while True:
            listed = await program.get(f"/conversations/{begun['conversation_id']}/intents")
            (call,) = listed["items"]
            if call["status"] not in ("awaiting", "submitting", "cancelling"):
                return call
            await asyncio.sleep(LOOK)


async def test_a_card_that_is_confirmed_makes_the_goal_and_the_model_hears_of_it(
    database_url, tmp_path, folder
):
    async with whole(database_url, tmp_path, folder=folder(), script=SCRIPT) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            card = await ask(browser)
            assert card["status"] == "awaiting"
            assert card["next_attempt_at"]
            assert await goals_of(program) == []

            await decide(browser, "RelayConfirm", card)
            assert (await next_event(browser, "RelayIntent"))["status"] == "submitting"
            done = await next_event(browser, "RelayIntent")
            agent = await program.sandbox.session(0)
            await agent.until(lambda s: s.messages("UpdatePrompt"))
            await decide(browser, "RelayCancel", card)
            refused = await next_event(browser, "RelayError")

        assert (done["status"], done["result"]["title"]) == ("submitted", "swim")
        assert await goals_of(program) == ["swim"]
        (told,) = agent.messages("FunctionCallResponse")
        assert json.loads(told["content"])["status"] == "waiting"
        (news,) = agent.messages("UpdatePrompt")
        assert "submitted" in news["prompt"]
        assert refused["code"] == "not_waiting"


async def test_a_card_that_is_cancelled_makes_nothing(database_url, tmp_path, folder):
    async with whole(database_url, tmp_path, folder=folder(), script=SCRIPT) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            card = await ask(browser)
            await decide(browser, "RelayCancel", card)
            assert (await next_event(browser, "RelayIntent"))["status"] == "cancelled"
            agent = await program.sandbox.session(0)
            await agent.until(lambda s: s.messages("UpdatePrompt"))
        again = await program.begin(conversation_id=begun["conversation_id"])
        async with program.attach(again) as browser:
            await next_event(browser, "SettingsApplied")
            settings = (await program.sandbox.session(1)).settings

        assert (await one_call(program, begun))["status"] == "cancelled"
        assert await goals_of(program) == []
        calls = [
            line["function_calls"][0]
            for line in settings["agent"]["context"]["messages"]
            if "function_calls" in line
        ]
        assert ["declined" in call["response"] for call in calls] == [True]


@pytest.mark.parametrize(
    ("without_a_tap", "status", "goals"),
    [("submit", "submitted", ["swim"]), ("cancel", "cancelled", [])],
)
async def test_a_card_that_nobody_answers_ends_as_the_intent_says(
    database_url, tmp_path, folder, without_a_tap, status, goals
):
    made = folder(confirm_seconds=1, confirm_timeout=without_a_tap)
    async with whole(database_url, tmp_path, folder=made, script=SCRIPT) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            card = await ask(browser)
            heard = card
            while heard["status"] != status:
                heard = await next_event(browser, "RelayIntent")

        assert heard["id"] == card["id"]
        assert (await one_call(program, begun))["status"] == status
        assert await goals_of(program) == goals


async def test_a_card_is_answered_after_the_page_was_loaded_again(database_url, tmp_path, folder):
    async with whole(database_url, tmp_path, folder=folder(), script=SCRIPT) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            await ask(browser)
        again = await program.begin(conversation_id=begun["conversation_id"])
        async with program.attach(again) as browser:
            await next_event(browser, "SettingsApplied")
            listed = await program.get(f"/conversations/{begun['conversation_id']}/intents")
            (card,) = listed["items"]
            assert (card["status"], bool(card["next_attempt_at"])) == ("awaiting", True)

            await decide(browser, "RelayConfirm", card)
            assert (await next_event(browser, "RelayIntent"))["status"] == "submitting"
            done = await next_event(browser, "RelayIntent")

        assert (done["id"], done["status"]) == (card["id"], "submitted")
        assert await goals_of(program) == ["swim"]


async def test_a_card_of_another_conversation_is_not_there(database_url, tmp_path, folder, sql):
    async with whole(database_url, tmp_path, folder=folder(), script=SCRIPT) as program:
        mine, other = await program.begin(), await program.begin()
        async with program.attach(mine) as browser, program.attach(other) as stranger:
            card = await ask(browser)
            await next_event(stranger, "SettingsApplied")
            await decide(stranger, "RelayConfirm", card)

            assert (await next_event(stranger, "RelayError"))["code"] == "not_waiting"
            await decide(browser, "RelayConfirm", card)
            assert (await next_event(browser, "RelayIntent"))["status"] == "submitting"


async def test_a_tap_counts_that_the_database_gets_later(database_url, tmp_path, folder, sql):
    async with whole(database_url, tmp_path, folder=folder(), script=SCRIPT) as program:
        begun = await program.begin()
        async with program.attach(begun) as browser:
            card = await ask(browser)
            while not await sql.fetchval("SELECT count(*) FROM voice.intents"):  # noqa: ASYNC110
                await asyncio.sleep(LOOK)
            async with sql.transaction():
                await sql.execute("LOCK voice.intents IN SHARE MODE")
                await decide(browser, "RelayConfirm", card)
                told = await next_event(browser, "RelayIntent")
            done = await next_event(browser, "RelayIntent")

        assert [told["status"], done["status"]] == ["submitting", "submitted"]
        assert await goals_of(program) == ["swim"]


@asynccontextmanager
async def two_relays(database_url, tmp_path, folder):
    """Two processes, and the local Orchestrator."""
    async with (
        serve(Options(script=SCRIPT, greeting_delay=0.0, think_delay=0.01)) as sandbox,
        listening(local_orchestrator.create_app(database_url)) as (port, _),
        httpx.AsyncClient() as http,
    ):
        relays = [Relay(database_url, sandbox.agent_url, tmp_path / name) for name in "ab"]
        for relay in relays:
            relay.environ |= {
                "RELAY_CONFIG_DIR": str(folder),
                "ORCHESTRATOR_URL": f"http://127.0.0.1:{port}",
            }
        try:
            async with asyncio.TaskGroup() as tasks:
                for relay in relays:
                    tasks.create_task(relay.start())
            yield *relays, http, f"http://127.0.0.1:{port}/goals"
        finally:
            for relay in relays:
                await relay.stop()


@asynccontextmanager
async def attached(relay, http):
    begun = (await http.post(f"{relay.url}/api/v1/voice/session")).json()
    subprotocols = ["relay.v1", begun["ticket"]]
    async with connect(begun["websocket_url"], subprotocols=subprotocols) as browser:
        yield begun, browser


async def test_a_card_whose_relay_is_killed_is_ended_by_another(
    database_url, tmp_path, folder, sql
):
    made = folder(confirm_seconds=3, confirm_timeout="submit")
    async with (
        asyncio.timeout(SECONDS),
        two_relays(database_url, tmp_path, made) as (a, _, http, goals),
        attached(a, http) as (_, browser),
    ):
        await ask(browser)
        while not await sql.fetchval("SELECT count(*) FROM voice.intents"):  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        await a.kill()
        while not (await http.get(goals)).json()["items"]:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        status = await sql.fetchval("SELECT status FROM voice.intents")
        while status != "submitted":
            await asyncio.sleep(LOOK)
            status = await sql.fetchval("SELECT status FROM voice.intents")

        assert len((await http.get(goals)).json()["items"]) == 1


async def test_a_card_is_answered_at_the_relay_that_took_the_session_over(
    database_url, tmp_path, folder, sql
):
    async with (
        asyncio.timeout(SECONDS),
        two_relays(database_url, tmp_path, folder()) as (a, b, http, goals),
        attached(a, http) as (begun, browser),
    ):
        introduced = await next_event(browser, "RelaySession")
        card = await ask(browser)
        # And what the agent said to it: else it is asked again at the other relay.
        while await sql.fetchval(ANSWERED) != "assistant":  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        await a.kill()
        url = b.url_of(begun["session_id"], received=0, seq=0)
        subprotocols = ["relay.v1", introduced["resume_ticket"]]
        async with connect(url, subprotocols=subprotocols) as browser:
            await next_event(browser, "RelayReconnected")
            await decide(browser, "RelayConfirm", card)
            assert (await next_event(browser, "RelayIntent"))["status"] == "submitting"
            done = await next_event(browser, "RelayIntent")

        assert (done["id"], done["status"]) == (card["id"], "submitted")
        assert len((await http.get(goals)).json()["items"]) == 1
