"""The direct transport: a client that speaks to the agent itself and reports to us. All of it real:
the sandbox grants the token and takes the Settings, Postgres stores, an Orchestrator answers."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import httpx
import jwt
import pytest
from websockets.asyncio.client import connect

from config.errors import ConfigError
from config.loader import load
from config.settings import CONFIG_DIR
from control.app import create_app
from control.dev import orchestrator as local_orchestrator
from relay.sandbox.options import Options
from relay.sandbox.server import serve
from tests.closed_network import settings_of
from tests.relay.wires import listening, next_event

KEY = "the-real-key"
GOAL = {"name": "create_goal", "arguments": '{"title": "swim", "deadline": "none"}'}


class Program:
    def __init__(self, client, agent, planner):
        self.client = client
        self.agent = agent
        self.planner = planner

    async def begin(self, **body):
        answer = await self.client.post("/session", json={"transport": "direct"} | body)
        assert answer.status_code == 201, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()

    def say(self, begun, role="user", content="I want to swim.", **more):
        body = {"id": str(uuid4()), "session_id": begun["session_id"]}
        body |= {"role": role, "content": content} | more
        path = f"/conversations/{begun['conversation_id']}/messages"
        return self.client.post(path, json=body)

    def call(self, begun, **more):
        body = {"session_id": begun["session_id"], "id": "call_1"} | GOAL | more
        return self.client.post(
            f"/conversations/{begun['conversation_id']}/function-calls", json=body
        )

    async def items(self, begun, what):
        answer = await self.client.get(f"/conversations/{begun['conversation_id']}/{what}")
        return answer.json()["items"]

    async def goals(self):
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{self.planner}/goals")).json()["items"]


@asynccontextmanager
async def running(database_url, tmp_path, *, planner=None, clock=time.monotonic, **variables):
    async with (
        serve(Options(api_key=KEY, greeting_delay=0.0)) as agent,
        listening(planner or local_orchestrator.create_app(database_url)) as (planner_port, _),
    ):
        values = {
            "DATABASE_URL": database_url,
            "DEEPGRAM_API_KEY": KEY,
            "DEEPGRAM_AGENT_URL": agent.agent_url,
            "DEEPGRAM_API_URL": agent.api_url,
            "ORCHESTRATOR_URL": f"http://127.0.0.1:{planner_port}",
            "RELAY_DATA_DIR": str(tmp_path),
            "RELAY_DIAL_AHEAD": "0",
            "RELAY_DIRECT_TRANSPORT": "on",
        }
        app = create_app(settings_of(**values | variables), load(CONFIG_DIR, {}), clock=clock)
        async with (
            listening(app) as (port, _),
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}/api/v1/voice", trust_env=False, timeout=20
            ) as client,
        ):
            yield Program(client, agent, f"http://127.0.0.1:{planner_port}")


@pytest.fixture
async def program(database_url, tmp_path):
    async with running(database_url, tmp_path) as program:
        yield program


async def test_the_token_opens_a_session_at_the_agent_which_takes_the_settings(program):
    begun = await program.begin(timezone="Europe/Vienna")

    assert KEY not in json.dumps(begun)
    subprotocols = ["bearer", begun["access_token"]]
    async with connect(begun["agent_url"], subprotocols=subprotocols) as agent:
        await next_event(agent, "Welcome")
        await agent.send(json.dumps(begun["settings"]))
        await next_event(agent, "SettingsApplied")
    assert program.agent.sessions[0].scheme == "bearer"
    assert begun["settings"]["type"] == "Settings"
    assert begun["settings"]["agent"]["think"][0]["functions"]


async def test_messages_get_their_numbers_in_the_order_in_which_they_come(program):
    begun = await program.begin()
    said = [("assistant", "Hi!"), ("user", "I want"), ("user", "to swim."), ("assistant", "Good.")]
    for role, content in said:
        assert (await program.say(begun, role, content)).status_code == 201

    stored = await program.items(begun, "messages")
    assert [(m["role"], m["content"]) for m in stored] == said
    assert [m["seq"] for m in stored] == [1, 2, 3, 4]
    assert [m["turn"] for m in stored] == [1, 2, 2, 3]
    conversation = (await program.client.get(f"/conversations/{begun['conversation_id']}")).json()
    assert conversation["title"] == "I want"


async def test_the_same_id_stores_a_message_once_also_at_the_same_time(program):
    begun = await program.begin()
    same = {"id": str(uuid4())}
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(program.say(begun, **same)) for _ in range(6)]
    answers = [task.result() for task in asked]

    assert sorted(a.status_code for a in answers) == [200] * 5 + [201]
    assert len({json.dumps(a.json()["seq"]) for a in answers}) == 1
    assert len(await program.items(begun, "messages")) == 1


async def test_an_id_of_another_message_is_not_taken(program):
    first, second = await program.begin(), await program.begin()
    same = {"id": str(uuid4())}
    await program.say(first, **same)

    other_place = await program.say(second, **same)
    other_role = await program.say(first, "assistant", **same)
    assert [a.status_code for a in (other_place, other_role)] == [409, 409]
    assert other_place.json()["code"] == "id_taken"


async def test_messages_at_the_same_time_have_numbers_without_gaps(program):
    begun = await program.begin()
    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(program.say(begun, content=f"line {number}"))

    stored = await program.items(begun, "messages")
    assert [m["seq"] for m in stored] == list(range(1, 21))


async def test_a_call_is_submitted_once_and_its_answer_is_for_the_agent(program):
    begun = await program.begin()
    await program.say(begun)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(program.call(begun)) for _ in range(4)]
    answers = [task.result() for task in asked] + [await program.call(begun)]

    assert {a.status_code for a in answers} == {200}
    assert {a.json()["status"] for a in answers} <= {"submitted", "submitting"}
    assert answers[0].json()["call_id"] == "call_1"
    assert any(json.loads(a.json()["content"])["status"] == "submitted" for a in answers)
    assert len(await program.goals()) == 1
    (stored,) = await program.items(begun, "intents")
    assert (stored["intent"], stored["call_id"], stored["after_seq"]) == ("GOAL", "call_1", 1)


async def test_a_call_that_cannot_be_is_answered_stored_and_not_sent(program):
    begun = await program.begin()
    for number, (call, said) in enumerate(
        (
            ({"name": "drop_tables"}, "there is no function"),
            ({"arguments": "{}"}, "was not called"),
            ({"arguments": "no json"}, "JSON is malformed"),
        )
    ):
        call |= {"id": f"call_{number}"}
        answers = [(await program.call(begun, **call)).json() for _ in range(2)]
        assert answers[0] == answers[1]
        assert answers[0]["status"] == "rejected"
        assert said in answers[0]["content"]

    stored = await program.items(begun, "intents")
    assert [call["status"] for call in stored] == ["rejected"] * 3
    assert await program.goals() == []


async def test_a_call_that_the_orchestrator_does_not_take_now_is_saved(database_url, tmp_path):
    async def busy(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = [(b"retry-after", b"600")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with running(database_url, tmp_path, planner=busy) as program:
        begun = await program.begin()
        answer = (await program.call(begun)).json()
        again = (await program.call(begun)).json()

        assert answer["status"] == again["status"] == "submitting"
        assert json.loads(answer["content"])["status"] == "saved"


async def test_only_a_session_of_this_transport_is_reported_for(program):
    relayed = (await program.client.post("/session")).json()
    direct = await program.begin()
    stranger = direct | {"session_id": str(uuid4())}
    elsewhere = direct | {"conversation_id": relayed["conversation_id"]}

    for begun, status, code in (
        (relayed, 409, "not_direct"),
        (stranger, 404, "not_found"),
        (elsewhere, 404, "not_found"),
    ):
        for answer in (await program.say(begun), await program.call(begun)):
            assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_session_that_is_over_or_superseded_reports_nothing_more(program):
    begun = await program.begin()
    await program.say(begun)
    newer = (
        await program.client.post("/session", json={"conversation_id": begun["conversation_id"]})
    ).json()
    refused = await program.say(begun, content="too late")
    assert (refused.status_code, refused.json()["code"]) == (409, "superseded")
    assert [m["content"] for m in newer["messages"]] == ["I want to swim."]

    other = await program.begin()
    assert (await program.client.delete(f"/session/{other['session_id']}")).status_code == 204
    session = (await program.client.get(f"/session/{other['session_id']}")).json()
    assert (session["state"], session["close_reason"]) == ("ended", "hung_up")
    refused = await program.call(other)
    assert (refused.status_code, refused.json()["code"]) == (409, "session_ended")


async def test_a_conversation_is_resumed_over_the_direct_transport_with_its_history(program):
    begun = await program.begin()
    await program.say(begun)
    await program.call(begun)

    again = await program.begin(conversation_id=begun["conversation_id"])
    told = again["settings"]["agent"]["context"]["messages"]
    assert [m["content"] for m in again["messages"]] == ["I want to swim."]
    assert any("function_calls" in line for line in told)
    assert "greeting" not in again["settings"]["agent"]


async def test_a_direct_session_is_not_recorded(program):
    assert (await program.begin(record=True))["recorded"] is False


async def test_nobody_attaches_to_a_direct_session(program):
    begun = await program.begin()
    url = str(program.client.base_url).replace("http", "ws", 1)
    with pytest.raises(Exception, match="401"):
        await connect(
            f"{url}session/{begun['session_id']}/ws",
            subprotocols=["relay.v1", begun["access_token"]],
        )


async def test_what_is_reported_is_validated(program):
    begun = await program.begin()
    for body in (
        {"id": "no uuid"},
        {"role": "system"},
        {"content": ""},
        {"content": "x" * 16_001},
        {"seq": 7},
    ):
        answer = await program.say(begun, **body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


async def test_it_is_off_unless_the_setting_allows_it(database_url, tmp_path):
    async with running(database_url, tmp_path, RELAY_DIRECT_TRANSPORT="off") as program:
        relayed = (await program.client.post("/session")).json()
        answers = [
            await program.client.post("/session", json={"transport": "direct"}),
            await program.say(relayed),
            await program.call(relayed),
        ]

    assert [a.status_code for a in answers] == [403] * 3
    assert {a.json()["code"] for a in answers} == {"transport_not_enabled"}


async def test_no_token_no_session(database_url, tmp_path, caplog):
    async with running(database_url, tmp_path, DEEPGRAM_API_KEY="another") as program:
        answer = await program.client.post("/session", json={"transport": "direct"})
        listed = (await program.client.get("/conversations")).json()["items"]

    assert (answer.status_code, answer.json()["code"]) == (503, "token_unavailable")
    assert listed == []
    assert "temporary_token_failed reason=HTTP 401" in caplog.text
    assert "another" not in caplog.text


def test_credentials_of_the_configuration_are_not_shown_to_browsers(tmp_path):
    for file in CONFIG_DIR.glob("*.*"):
        if file.suffix in (".yaml", ".md"):
            (tmp_path / file.name).write_text(file.read_text())
    agent = (tmp_path / "agent.yaml").read_text()
    endpoint = "{url: 'https://llm.example.com', headers: {authorization: '${LLM_KEY}'}}"
    own = f"think:\n  - provider: {{type: open_ai, model: x}}\n    endpoint: {endpoint}\n"
    (tmp_path / "agent.yaml").write_text(agent.replace("think:\n", own, 1))
    configuration = load(tmp_path, {"LLM_KEY": "hush-hush"})

    with pytest.raises(ConfigError, match="RELAY_DIRECT_TRANSPORT") as caught:
        create_app(settings_of(RELAY_DIRECT_TRANSPORT="on"), configuration)
    assert "hush" not in str(caught.value)


# --- limits --------------------------------------------------------------------------------------

SECRET = "a secret of thirty-two bytes, at least"


def token(user):
    claims = {"sub": user, "aud": "authenticated", "exp": 4_000_000_000}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}


async def begin_many(program, count, **headers):
    async with asyncio.TaskGroup() as tasks:
        body = {"transport": "direct"}
        asked = [
            tasks.create_task(program.client.post("/session", json=body, headers=headers))
            for _ in range(count)
        ]
    return sorted((task.result() for task in asked), key=lambda answer: answer.status_code)


async def test_one_user_has_so_many_direct_sessions_at_all_relays(database_url, tmp_path):
    more = {"RELAY_AUTH": "jwt", "RELAY_JWT_SECRET": SECRET, "RELAY_SESSIONS_PER_USER": "2"}
    async with (
        running(database_url, tmp_path / "one", **more) as one,
        running(database_url, tmp_path / "two", **more) as two,
    ):
        ann, bob = token("ann"), token("bob")
        answers = await begin_many(one, 6, **ann)
        assert [a.status_code for a in answers] == [201] * 2 + [429] * 4
        (refused,) = await begin_many(two, 1, **ann)
        assert (refused.json()["code"], refused.headers["retry-after"]) == ("user_sessions", "60")
        assert "end one with DELETE" in refused.json()["detail"]
        assert [a.status_code for a in await begin_many(two, 2, **bob)] == [201] * 2

        # In its own conversation a session takes the place of the one before.
        first, second = (answer.json() for answer in answers[:2])
        body = {"transport": "direct", "conversation_id": first["conversation_id"]}
        again = await two.client.post("/session", json=body, headers=ann)
        assert again.status_code == 201
        await one.client.delete(f"/session/{second['session_id']}", headers=ann)
        assert [a.status_code for a in await begin_many(two, 2, **ann)] == [201, 429]


async def test_a_direct_session_of_which_nothing_is_heard_makes_room(database_url, tmp_path):
    more = {"RELAY_AUTH": "jwt", "RELAY_JWT_SECRET": SECRET, "RELAY_SESSIONS_PER_USER": "1"}
    long_ago = "now() - interval '11 minutes'"  # RELAY_IDLE_SECONDS is ten
    async with running(database_url, tmp_path, **more) as program:
        ann = token("ann")
        program.client.headers.update(ann)
        begun = await program.begin()
        connection = await asyncpg.connect(database_url)
        await connection.execute(f"UPDATE voice.sessions SET created_at = {long_ago}")
        await connection.execute(f"UPDATE voice.conversations SET updated_at = {long_ago}")
        await connection.close()

        assert (await program.say(begun)).status_code == 201  # it lives after all
        assert (await begin_many(program, 1))[0].status_code == 429

        connection = await asyncpg.connect(database_url)
        await connection.execute(f"UPDATE voice.conversations SET updated_at = {long_ago}")
        await connection.close()
        assert (await begin_many(program, 1))[0].status_code == 201


async def test_there_is_an_end_to_all_direct_sessions(database_url, tmp_path):
    async with running(database_url, tmp_path, RELAY_SESSIONS="2") as program:
        *_, refused = answers = await begin_many(program, 3)

        assert [a.status_code for a in answers] == [201, 201, 503]
        assert (refused.json()["code"], refused.headers["retry-after"]) == ("sessions", "60")
        assert (await program.client.post("/session")).status_code == 201  # relayed ones have room


async def test_so_much_is_reported_of_one_session_a_minute(database_url, tmp_path):
    now = [1000.0]
    more = {"RELAY_DIRECT_REPORTS_PER_MINUTE": "3"}
    async with running(database_url, tmp_path, clock=lambda: now[0], **more) as program:
        begun, other = await program.begin(), await program.begin()
        wrong = {"name": "drop_tables"}
        said = [await program.say(begun) for _ in range(5)]
        called = [await program.call(begun, id=f"call_{n}", **wrong) for n in range(4)]

        assert [a.status_code for a in said] == [201] * 3 + [429] * 2
        assert [a.status_code for a in called] == [200] * 3 + [429]
        problem = said[-1].json()
        assert (problem["code"], said[-1].headers["retry-after"]) == ("too_many_reports", "20")
        assert problem["detail"].startswith("expected at most 3 messages of one session a minute")
        assert "3 function calls" in called[-1].json()["detail"]
        assert (await program.say(other)).status_code == 201
        now[0] += 20
        assert [(await program.say(begun)).status_code for _ in range(2)] == [201, 429]
        assert len(await program.items(begun, "messages")) == 4


async def test_so_many_calls_of_one_session_are_open_at_once(database_url, tmp_path):
    asked, go_on = [], asyncio.Event()

    async def slow(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        asked.append(scope["path"])
        await go_on.wait()
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    more = {"RELAY_DIRECT_REPORTS_PER_MINUTE": "0"}
    async with running(database_url, tmp_path, planner=slow, **more) as program:
        begun = await program.begin()
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(program.call(begun, id=f"call_{n}")) for n in range(17)]
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = (task.result() for task in done)
            assert len(await program.items(begun, "intents")) == 16
            other = await program.begin()
            other = tasks.create_task(program.call(other))
            while len(asked) < 17:  # noqa: ASYNC110 (another server in this loop)
                await asyncio.sleep(0)
            go_on.set()
        answers = [task.result() for task in calls if task.result() is not refused]

        assert (refused.status_code, refused.json()["code"]) == (429, "open_calls")
        assert "at most 16 open calls" in refused.json()["detail"]
        assert [a.json()["status"] for a in [*answers, other.result()]] == ["submitted"] * 17
        last = next(n for n, task in enumerate(calls) if task.result() is refused)
        async with asyncio.timeout(20):  # until what came of the others is stored
            while (answer := await program.call(begun, id=f"call_{last}")).status_code == 429:
                pass
        assert answer.json()["status"] == "submitted"
        assert len(await program.items(begun, "intents")) == 17
