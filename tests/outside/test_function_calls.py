"""Function calls as real models and speech services send them: ids that come again or are empty,
arguments of any form, entries that are broken, numbers and nesting that break a validator."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from config.settings import CONFIG_DIR
from relay.core.records import IntentCalled
from relay.functions.submission import Submitted
from relay.protocol.relay_events import IntentStatus
from relay.sandbox.script import Call, Script, Turn
from tests.chaos.stage import VOICE_RELAY, staged, until
from tests.relay.wires import agent_and_relay, next_event

GOAL = '{"title": "run", "deadline": "none"}'
GOOD = {"id": "good", "name": "create_goal", "arguments": GOAL, "client_side": True}


def goal(id="call_0", title="run", **more):
    arguments = json.dumps({"title": title, "deadline": "none"})
    return {"id": id, "name": "create_goal", "arguments": arguments, "client_side": True} | more


class Talk:
    """A session whose agent asks for functions, and whose Orchestrator takes all of them."""

    def __init__(self, agent, relay, browser, taken):
        self.agent = agent
        self.relay = relay
        self.browser = browser
        self.taken = taken

    async def ask(self, *functions):
        await self.agent.say(type="FunctionCallRequest", functions=list(functions))

    async def heard(self):
        """The relay has read what the agent said so far."""
        await self.agent.say(type="AgentAudioDone")
        await next_event(self.browser, "AgentAudioDone")

    @property
    def answers(self):
        return [text for text in self.agent.texts if text["type"] == "FunctionCallResponse"]

    async def answered(self, count):
        """The answers: `count`, and not one more when all that was said before is heard."""
        await self.agent.until(lambda: len(self.answers) >= count)
        await self.browser.send(json.dumps({"type": "InjectUserMessage", "content": "and?"}))
        await self.agent.until(lambda: self.agent.texts[-1]["type"] == "InjectUserMessage")
        assert len(self.answers) == count, self.answers
        return self.answers

    def statuses(self):
        return {
            answer["id"]: json.loads(answer["content"]).get("status") for answer in self.answers
        }


@asynccontextmanager
async def talking(gate=None):
    """`gate`: an event that the Orchestrator waits for before it answers."""
    taken = []

    async def submit(submission):
        taken.append(submission)
        if gate is not None:
            await gate.wait()
        return Submitted({"id": len(taken)}, 1)

    async with agent_and_relay(submit=submit) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        yield Talk(agent, relay, browser, taken)


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["call_0", "", "ä\n", "7"])
async def test_an_id_that_comes_again_after_its_answer_is_another_call(id):
    async with talking() as talk:
        for count in (1, 2, 3):
            await talk.ask(goal(id))
            answers = await talk.answered(count)

        assert [answer["id"] for answer in answers] == [id] * 3
        assert len({submission.call_id for submission in talk.taken}) == 3


@pytest.mark.parametrize(
    "other", [goal(title="swim"), goal(name="create_task", arguments='{"title": "run"}')]
)
async def test_the_same_id_with_other_content_is_another_call_while_the_first_is_open(other):
    gate = asyncio.Event()
    async with talking(gate) as talk:
        await talk.ask(goal())
        first = await next_event(talk.browser, "RelayIntent")
        await talk.ask(other)
        second = await next_event(talk.browser, "RelayIntent")
        gate.set()
        answers = await talk.answered(2)

        assert first["id"] != second["id"]
        assert first["call_id"] == second["call_id"] == "call_0"
        assert {answer["name"] for answer in answers} == {"create_goal", other["name"]}
        assert {submission.call_id for submission in talk.taken} == {first["id"], second["id"]}


async def test_a_repetition_while_the_first_is_open_is_one_call_and_one_answer():
    gate = asyncio.Event()
    async with talking(gate) as talk:
        await talk.ask(goal())
        await next_event(talk.browser, "RelayIntent")
        await talk.ask(goal())
        await talk.ask(goal(), goal())
        await talk.heard()
        gate.set()
        await talk.answered(1)

        assert len(talk.taken) == 1


async def test_cards_and_rows_have_the_id_that_the_orchestrator_gets():
    async with talking() as talk:
        await talk.ask(goal())
        told = [await next_event(talk.browser, "RelayIntent") for _ in range(2)]
        (taken,) = talk.taken
        row = await talk.relay.until(IntentCalled)

        assert {event["id"] for event in told} == {taken.call_id} == {str(row.id)}
        assert UUID(taken.call_id).version == 7
        assert row.call_id == "call_0"
        assert row.idempotency_key == taken.call_id


async def goals_reach(database_url, count):
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetchval("SELECT count(*) FROM local_orchestrator.goals")
    finally:
        await connection.close()
    return found >= count


async def test_two_users_whose_models_count_from_0_send_two_requests(tmp_path, database_url):
    call = Call("create_goal", json.loads(GOAL), id="call_0")
    turn = Turn(when="text", calls=(call,), say=("OK",))
    async with staged(tmp_path, database_url, script=Script(turns=(turn,), loop=True)) as stage:
        await stage.relay().start()
        async with stage.people(random.Random(1), 2) as browsers:
            for browser in browsers:
                await browser.turn_at_last(20.0)
            await until(lambda: goals_reach(database_url, 3), 20.0)
            verdict = await stage.settle(browsers)
        await stage.stop_relays()

    assert verdict.accepted >= 3
    connection = await asyncpg.connect(database_url)
    try:
        ids = await connection.fetch("SELECT DISTINCT call_id FROM voice.intents")
    finally:
        await connection.close()
    assert [row["call_id"] for row in ids] == ["call_0"]


# --- arguments and entries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"title": "run", "deadline": "none"}, "submitted"),
        ('{"title": "a \\ud83d b", "deadline": "none"}', "submitted"),
        ('{"title": "a", "title": "b", "deadline": "none"}', "submitted"),
        (None, "rejected"),
        ("", "rejected"),
        ("run a marathon", "rejected"),
        ("null", "rejected"),
        (7, "rejected"),
        (["run"], "rejected"),
        (True, "rejected"),
        ('{"title": "run", "deadline": NaN}', "rejected"),
        ('{"title": "run", "deadline": 1e400}', "rejected"),
        ('{"title": "run", "deadline": 1' + "0" * 400 + "}", "rejected"),
        ('{"title": "a\\u0000", "deadline": "none"}', "rejected"),
        ('{"title": ' + "[" * 300 + "]" * 300 + "}", "rejected"),
        ('{"title": ' + "[" * 20_000, "rejected"),
        ('{"title": "' + "x" * 100_000 + '"}', "rejected"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_arguments_of_any_form_get_one_answer_beside_a_good_call(arguments, status):
    async with talking() as talk:
        await talk.ask(goal("odd", arguments=arguments), GOOD)
        await talk.answered(2)

        assert talk.statuses() == {"odd": status, "good": "submitted"}
        rows = [record for record in talk.relay.records if isinstance(record, IntentCalled)]
        assert all(len(row.arguments) <= 32_000 for row in rows)


async def test_arguments_that_are_missing_are_none():
    call = goal("odd")
    del call["arguments"]
    async with talking() as talk:
        await talk.ask(call)
        (answer,) = await talk.answered(1)

        assert "title: is missing" in json.loads(answer["content"])["error"]


@pytest.mark.parametrize(
    ("entry", "answered"),
    [
        ({"id": "odd", "arguments": GOAL}, "odd"),
        ({"id": "odd", "name": None, "arguments": GOAL}, "odd"),
        ({"id": "odd", "name": 5}, "odd"),
        ({"id": "odd"}, "odd"),
        ({"id": 12, "name": "create_goal", "arguments": GOAL}, "12"),
        ({"id": "odd", "name": "create_goal", "arguments": GOAL, "client_side": None}, "odd"),
        ({"id": "odd", "name": "create_goal", "arguments": GOAL, "thought_signature": 5}, "odd"),
        ({"id": "odd", "name": "create_goal", "client_side": False, "arguments": 5}, None),
        ({"name": "create_goal", "arguments": GOAL}, None),
        ({"id": None, "name": "create_goal"}, None),
        ({"id": ["a"], "name": "create_goal"}, None),
        ({"id": True}, None),
        ("create_goal", None),
        (None, None),
        (7, None),
        ([], None),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_broken_entry_does_not_leave_the_others_without_an_answer(entry, answered):
    async with talking() as talk:
        await talk.ask(entry, GOOD)
        await talk.answered(1 if answered is None else 2)

        assert set(talk.statuses()) == {"good", answered} - {None}
        assert talk.statuses()["good"] == "submitted"


@pytest.mark.parametrize(
    "broken",
    [
        '{"id": "odd", "name": "create_goal", "arguments": {"title": "\\ud83d"}}',
        '{"id": "odd", "name": "create_goal", "arguments": {"title": NaN}}',
        '{"id": "odd", "name": "create_goal", "arguments": ' + "[" * 5_000 + "]" * 5_000 + "}",
    ],
    ids=["half a letter", "NaN", "deep"],
)
async def test_json_that_strict_decoders_refuse_is_read_entry_by_entry(broken):
    async with talking() as talk:
        text = f'{{"type": "FunctionCallRequest", "functions": [{broken}, {json.dumps(GOOD)}]}}'
        await talk.agent.connections[-1].send(text)
        await talk.answered(2)

        assert set(talk.statuses()) == {"odd", "good"}


@pytest.mark.parametrize("functions", [None, {}, "f", 5, [], "missing"])
async def test_a_request_without_a_list_is_noted_and_the_session_goes_on(functions):
    message = {"type": "FunctionCallRequest", "functions": functions}
    if functions == "missing":
        del message["functions"]
    async with talking() as talk:
        await talk.agent.say(**message)
        await talk.ask(GOOD)
        await talk.answered(1)


@pytest.mark.parametrize("gone", [{"id": "call_0", "name": None}, {"id": "call_0"}])
async def test_a_broken_entry_of_a_cancellation_does_not_save_the_others(gone):
    gate = asyncio.Event()
    async with talking(gate) as talk:
        await talk.ask(goal())
        await next_event(talk.browser, "RelayIntent")
        await talk.agent.say(type="FunctionCallCancelled", functions=[7, {"name": "x"}, gone])
        await talk.ask(GOOD)
        await talk.heard()
        gate.set()
        await talk.answered(1)

        assert set(talk.statuses()) == {"good"}


async def test_a_runaway_request_gets_an_answer_for_each_entry():
    async with talking() as talk:
        await talk.ask(*(goal(f"call_{number}", str(number)) for number in range(200)))
        await talk.answered(200)

        assert len(talk.taken) == 16


# --- schemas that meet what a model may write -----------------------------------------------------

SCHEMA = """
intents:
  - name: GOAL
    title: Goal
    function: create_goal
    description: a goal
    path: /goals
    retry: true
    parameters:
      type: object
      properties:
        title: {type: string, pattern: "^(r|u|n|nn)+$"}
        deadline: {type: string, format: date}
        times: {type: number, multipleOf: 0.01}
        days: {type: array, uniqueItems: true}
      required: [title]
"""


@pytest.mark.parametrize(
    ("poison", "said"),
    [
        ({"title": "run", "times": 10**400}, "cannot be checked"),
        ({"title": "ru" + "n" * 60 + "!"}, "takes too long"),
        ({"title": "run", "days": [[{"d": n}] for n in range(2_500)]}, None),
        ({"title": "run", "deadline": "next Friday"}, 'expected a date, got "next Friday"'),
    ],
    ids=["multipleOf", "pattern", "uniqueItems", "format"],
)
async def test_a_call_that_breaks_the_validator_is_refused_and_nobody_else_notices(
    tmp_path, database_url, poison, said
):
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for name in ("agent.yaml", "policy.yaml", "system_prompt.md"):
        shutil.copy(CONFIG_DIR / name, folder)
    (folder / "intents.yaml").write_text(SCHEMA)
    calls = Call("create_goal", poison, id="bad"), Call("create_goal", {"title": "run"}, id="good")
    turn = Turn(when="text", calls=calls, together=True, say=("OK",))
    async with staged(tmp_path, database_url, script=Script(turns=(turn,), loop=True)) as stage:
        relay = stage.relay(RELAY_CONFIG_DIR=str(folder))
        await relay.start()
        async with stage.people(random.Random(1), 1) as browsers:
            await until(lambda: goals_reach(database_url, 1), 20.0)
            await stage.settle(browsers[:0])
        await stage.stop_relays()
        assert "Traceback" not in relay.output

    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT call_id, status, last_error FROM voice.intents")
    finally:
        await connection.close()
    found = {row["call_id"]: (row["status"], row["last_error"]) for row in rows}
    assert found["good"] == (IntentStatus.SUBMITTED.value, None)
    if said is not None:
        status, error = found["bad"]
        assert status == IntentStatus.REJECTED.value
        assert said in error


async def test_check_refuses_a_format_that_it_does_not_know(tmp_path):
    for name in ("agent.yaml", "policy.yaml", "system_prompt.md"):
        shutil.copy(CONFIG_DIR / name, tmp_path)
    (tmp_path / "intents.yaml").write_text(SCHEMA.replace("format: date", "format: datum"))
    ran = await asyncio.create_subprocess_exec(
        *(VOICE_RELAY, "check"),
        env={"RELAY_CONFIG_DIR": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    _, said = await ran.communicate()

    assert ran.returncode == 1
    assert b"$.intents[0].parameters.properties.deadline.format" in said
    assert b'did you mean "date"?' in said
