"""How often may be asked: the whole program over real sockets, each client with an address.

Every address of 127.0.0.0/8 is this machine, and only 127.0.0.1 is a proxy that is believed.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import asyncpg
import httpx
import jwt
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from config.loader import load
from config.settings import CONFIG_DIR
from config.version import VERSION
from control.api import health
from control.app import create_app
from control.db import store as store_module
from tests.closed_network import settings_of
from tests.outside.raw import connected, read_answer
from tests.relay.wires import listening

API = "/api/v1/voice"
SECRET = "a secret of thirty-two bytes, at least"
JWT = {"RELAY_AUTH": "jwt", "RELAY_JWT_SECRET": SECRET}


class Program:
    """`now` is the time of the limits; `at` is a client at an address of its own."""

    port: int
    url: str
    server: uvicorn.Server

    def __init__(self, database_url, folder, **variables):
        self.now = 1000.0
        settings = settings_of(
            **{"DATABASE_URL": database_url, "RELAY_DATA_DIR": str(folder)}
            | {"RELAY_DIAL_AHEAD": "0"}
            | variables
        )
        self.app = create_app(settings, load(CONFIG_DIR, {}), clock=lambda: self.now)
        self.stack = AsyncExitStack()

    async def at(self, address, **options):
        transport = httpx.AsyncHTTPTransport(local_address=address)
        client = httpx.AsyncClient(base_url=self.url, transport=transport, timeout=30, **options)
        return await self.stack.enter_async_context(client)

    async def refusals(self, code):
        text = (await (await self.at("127.0.0.1")).get("/metrics")).text
        found = re.search(rf'relay_refusals_total{{code="{code}"}} (\S+)', text)
        return float(found[1]) if found else 0


@asynccontextmanager
async def running(database_url, folder, **variables):
    program = Program(database_url, folder, **variables)
    async with program.stack, listening(program.app) as (port, server):
        program.port, program.url, program.server = port, f"http://127.0.0.1:{port}", server
        async with program.stack:
            yield program


@pytest.fixture
async def program(shared_database_url, tmp_path):
    """One request a second from one address, thirty at once."""
    variables = {"RELAY_REQUESTS_PER_ADDRESS": "1"}
    async with running(shared_database_url, tmp_path, **variables) as program:
        yield program


async def ask(client, count, path=f"{API}/conversations", **more):
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.get(path, **more)) for _ in range(count)]
    return [task.result() for task in asked]


def statuses(answers):
    found = [answer.status_code for answer in answers]
    return {status: found.count(status) for status in set(found)}


async def refused(url, **options):
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, **options)
    return caught.value.response


async def test_a_burst_from_one_address_is_refused_and_another_goes_on(program):
    here, there = await program.at("127.0.0.2"), await program.at("127.0.0.3")

    assert statuses(await ask(here, 40)) == {200: 30, 429: 10}
    answer = await here.get(f"{API}/conversations")
    assert statuses(await ask(there, 20)) == {200: 20}

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (429, "address_requests")
    expected = "expected at most 1 requests a second from one address; try again in 1 s"
    assert problem["detail"] == expected
    assert await program.refusals("address_requests") == 11


async def test_time_makes_up_for_it(program):
    client = await program.at("127.0.0.2")
    await ask(client, 31)

    program.now += 5
    assert statuses(await ask(client, 8)) == {200: 5, 429: 3}
    program.now += 1000
    assert statuses(await ask(client, 35)) == {200: 30, 429: 5}


async def test_an_attach_is_a_request_and_is_refused_before_a_ticket_is_looked_at(program):
    session = "00000000-0000-4000-8000-000000000009"
    url = program.url.replace("http", "ws", 1)
    ours, deepgrams = f"{url}{API}/session/{session}/ws", f"{url}/v1/agent/converse"
    at = {"local_addr": ("127.0.0.2", 0), "proxy": None}
    wrong = {"subprotocols": ["relay.v1", "wrong"], **at}
    assert (await refused(ours, **wrong)).status_code == 401
    await ask(await program.at("127.0.0.2"), 29)

    answer = await refused(ours, **wrong)
    official = await refused(deepgrams, subprotocols=["token", "wrong"], **at)
    elsewhere = await refused(ours, **wrong | {"local_addr": ("127.0.0.3", 0)})

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert b'"address_requests"' in answer.body
    assert (official.status_code, official.headers["retry-after"]) == (429, "1")
    assert b'"TOO_MANY_REQUESTS"' in official.body
    assert elsewhere.status_code == 401
    assert await program.refusals("address_requests") == 2


async def test_a_grant_is_refused_in_deepgrams_words(program):
    client = await program.at("127.0.0.2")
    await ask(client, 30)

    answer = await client.post("/v1/auth/grant")

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["err_code"] == "TOO_MANY_REQUESTS"
    assert "try again in 1 s" in answer.json()["err_msg"]


async def test_addresses_are_those_that_a_proxy_of_ours_says_and_a_64_of_ipv6_is_one(program):
    proxy, liar = await program.at("127.0.0.1"), await program.at("127.0.0.2")

    def of(address):
        return {"headers": {"X-Forwarded-For": address}}

    for client, addresses in (
        (proxy, ["203.0.113.7"]),
        (proxy, ["2001:db8::1", "2001:db8::ffff:2"]),
        (liar, ["203.0.113.8", "203.0.113.9"]),  # all from 127.0.0.2
    ):
        for number in range(30):
            await client.get(f"{API}/intents", **of(addresses[number % len(addresses)]))
        assert (await client.get(f"{API}/intents", **of(addresses[-1]))).status_code == 429
    for address in ("203.0.113.8", "2001:db8:0:1::1"):
        assert (await proxy.get(f"{API}/intents", **of(address))).status_code == 200


async def test_probes_and_the_files_of_the_page_are_not_counted(program):
    client = await program.at("127.0.0.2")
    for path in ("/health/live", "/health/ready", "/", "/app.js", "/style.css"):
        assert statuses(await ask(client, 40, path)) == {200: 40}, path
    metrics = await program.at("127.0.0.1")
    assert statuses(await ask(metrics, 40, "/metrics")) == {200: 40}

    assert statuses(await ask(client, 31, "/schema")) == {200: 30, 429: 1}


def token(user):
    claims = {"sub": user, "aud": "authenticated", "exp": 4_000_000_000}
    return {"headers": {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}}


async def test_one_user_is_limited_wherever_he_is_and_another_goes_on(
    shared_database_url, tmp_path
):
    variables = JWT | {"RELAY_REQUESTS_PER_USER": "1"}
    async with running(shared_database_url, tmp_path, **variables) as program:
        here, there = await program.at("127.0.0.2"), await program.at("127.0.0.3")
        # What asks for the user more than once is one request.
        path = f"{API}/conversations/00000000-0000-4000-8000-000000000009/messages"
        assert statuses(await ask(here, 20, path, **token("ann"))) == {404: 20}
        assert statuses(await ask(there, 15, **token("ann"))) == {200: 10, 429: 5}
        answer = await there.get(f"{API}/conversations", **token("ann"))
        assert statuses(await ask(here, 10, **token("bob"))) == {200: 10}
        # Who is not signed in takes nothing from anybody.
        assert statuses(await ask(here, 40, headers={"Authorization": "Bearer x"})) == {401: 40}
        assert statuses(await ask(here, 10, **token("bob"))) == {200: 10}

        assert (answer.json()["code"], answer.headers["retry-after"]) == ("user_requests", "1")
        assert "one user" in answer.json()["detail"]
        assert await program.refusals("user_requests") == 6
        program.now += 2
        assert statuses(await ask(there, 3, **token("ann"))) == {200: 2, 429: 1}


async def test_the_mocked_user_has_no_limit_and_0_is_none(shared_database_url, tmp_path):
    variables = {"RELAY_REQUESTS_PER_USER": "0.01", "RELAY_REQUESTS_PER_ADDRESS": "0"}
    async with running(shared_database_url, tmp_path, **variables) as program:
        answers = await ask(await program.at("127.0.0.2"), 300, f"{API}/intents")
        assert statuses(answers) == {200: 300}
        assert statuses(await ask(await program.at("127.0.0.2"), 5)) == {200: 5}


async def test_a_page_of_another_origin_may_read_when_to_ask_again(shared_database_url, tmp_path):
    origin = "https://app.example.com"
    variables = {"RELAY_REQUESTS_PER_ADDRESS": "0.01", "RELAY_ALLOWED_ORIGINS": origin}
    async with running(shared_database_url, tmp_path, **variables) as program:
        client = await program.at("127.0.0.2", headers={"Origin": origin})
        assert (await client.get(f"{API}/intents")).status_code == 200

        answer = await client.get(f"{API}/intents")

        assert (answer.status_code, answer.headers["retry-after"]) == (429, "100")
        assert answer.headers["access-control-allow-origin"] == origin
        assert "retry-after" in answer.headers["access-control-expose-headers"].lower()


# --- the pool of connections ----------------------------------------------------------------------


async def test_many_who_ask_whether_we_are_ready_ask_the_database_once(
    database_url, tmp_path, monkeypatch
):
    """Their question hangs: one connection of the pool is in use, and everybody else works on."""
    monkeypatch.setattr(health, "READY_SECONDS", 60.0)
    count = 500
    async with running(database_url, tmp_path) as program, AsyncExitStack() as stack:
        operator = await asyncpg.connect(database_url)
        stack.push_async_callback(operator.close)
        lock = operator.transaction()
        await lock.start()
        await operator.execute("LOCK TABLE voice.migrations IN ACCESS EXCLUSIVE MODE")
        waiting = [await stack.enter_async_context(connected(program.port)) for _ in range(count)]
        for _, writer in waiting:
            writer.write(b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with asyncio.timeout(60):
            while len(program.server.server_state.tasks) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

            client = await program.at("127.0.0.2")
            held = """
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'
            """
            while not await operator.fetchval(held):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert statuses(await ask(client, 20)) == {200: 20}
            assert await operator.fetchval(held) == 1

            await lock.rollback()
            answers = [await read_answer(reader) for reader, _ in waiting]
        assert [answer.status for answer in answers] == [200] * count
        assert {answer.body for answer in answers} == {
            f'{{"status":"ready","reasons":[],"version":"{VERSION}"}}'.encode()
        }


async def test_searches_that_take_long_leave_the_other_connections_alone(
    database_url, tmp_path, monkeypatch
):
    """Twenty hang; who looks for nothing is answered, and who wants to search is told to wait."""
    monkeypatch.setattr(store_module, "ACQUIRE_SECONDS", 1.0)
    async with running(database_url, tmp_path) as program:
        client = await program.at("127.0.0.2")
        operator = await asyncpg.connect(database_url)
        lock = operator.transaction()
        await lock.start()
        await operator.execute("LOCK TABLE voice.messages IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            searches = [
                tasks.create_task(client.get(f"{API}/conversations", params={"q": "swim"}))
                for _ in range(20)
            ]
            done, waiting = await asyncio.wait(searches, return_when=asyncio.FIRST_COMPLETED)
            assert statuses(await ask(client, 20)) == {200: 20}
            while len(waiting) > 3:
                more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            await lock.rollback()
        await operator.close()

        assert statuses([task.result() for task in done]) == {503: 17}
        assert {task.result().json()["code"] for task in done} == {"database_unavailable"}
        assert statuses([task.result() for task in waiting]) == {200: 3}
        assert (await client.get(f"{API}/conversations", params={"q": "swim"})).status_code == 200


async def test_what_the_database_said_is_asked_again_after_a_moment(store, monkeypatch):
    now = [50.0]
    loop = SimpleNamespace(time=lambda: now[0])
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    said = [["gone"], ["gone"], []]

    async def find_reasons(_):
        return said.pop(0)

    monkeypatch.setattr(health, "find_reasons", find_reasons)
    readiness = health.Readiness(store)
    assert await readiness.find_reasons() == ["gone"]
    now[0] += 0.9
    (await readiness.find_reasons()).append("a word of who asks")
    now[0] += 0.2
    assert await readiness.find_reasons() == ["gone"]
    now[0] += 1.1
    assert await readiness.find_reasons() == []
