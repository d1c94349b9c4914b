"""What an Orchestrator, or what stands before it, answers: days of Retry-After, a conflict,
one request that always fails, a key in the URL, a connection that is closed as we send."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.env_types import mask_query
from config.errors import ConfigError
from config.settings import STAND_INS, from_environment
from control.outbox.circuit_breaker import FAILURES, State
from control.outbox.orchestrator_client import LONGEST_WAIT, Orchestrator, connect
from relay.functions.submission import Delayed, Submitted
from relay.transport.egress import Egress
from relay.transport.retry_after import read_retry_after
from tests.control.outbox.test_orchestrator_client import answer, planner, submission


@asynccontextmanager
async def asking(url):
    async with connect(url, None, egress=Egress(from_environment(STAND_INS))) as it:
        yield it


# --- Retry-After ----------------------------------------------------------------------------------


def days(number):
    return format_datetime(datetime.now(UTC) + timedelta(days=number), usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("86400", LONGEST_WAIT),
        ("9" * 400, LONGEST_WAIT),
        (days(1), LONGEST_WAIT),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT),
        (days(-400), 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("-86400", 0.0),
        ("1e9", 0.0),
        ("inf", 0.0),
        ("tomorrow", 0.0),
        ("", 0.0),
        ("7", 7.0),
    ],
    # A date depends on when the tests are collected, and each process of pytest-xdist does that.
    ids=[str(number) for number in range(12)],
)
async def test_a_wait_is_never_longer_than_what_we_wait_ourselves(value, seconds):
    async with planner(answer(503, Retry_After=value)) as it, asking(it.url) as orchestrator:
        outcome = await orchestrator.submit(submission())

    assert isinstance(outcome, Delayed)
    assert outcome.wait == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [-+A-Z0-9]+"))
@settings(max_examples=300, deadline=None)
def test_any_retry_after_is_a_wait_or_none(value):
    assert 0.0 <= read_retry_after(value) < float("inf")


# --- the breaker ----------------------------------------------------------------------------------


async def test_a_conflict_is_no_failure_of_the_service():
    async with planner(answer(409)) as it, asking(it.url) as orchestrator:
        for number in range(3 * FAILURES):
            await orchestrator.submit(submission(call_id=f"call_{number}", in_doubt=True))

        assert orchestrator.state is State.CLOSED


@pytest.mark.parametrize("poison", [["a"], ["a", "b"]])
@pytest.mark.parametrize("said", [answer(500), b"", b"nonsense\r\n\r\n"])
async def test_calls_that_always_fail_do_not_stop_the_others(poison, said):
    async with planner(said) as it, asking(it.url) as orchestrator:
        for call in poison * 3 * FAILURES:
            await orchestrator.submit(submission(call_id=call))
        it.answers = [answer(201, b'{"id": 7}')]

        assert await orchestrator.submit(submission(call_id="good")) == Submitted({"id": 7}, 1)


async def test_nobody_is_asked_any_more_when_different_calls_find_nobody():
    async with planner(answer(201)) as gone:
        url = gone.url
    async with asking(url) as orchestrator:
        for number in range(FAILURES):
            await orchestrator.submit(submission(call_id=f"call_{number}"))

        assert orchestrator.state is State.OPEN


# --- answers that break who reads them ------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("depth", [65, 300, 900, 100_000])
async def test_an_answer_that_is_nested_too_deep_breaks_nobody(status, depth):
    body = b'{"a":' * depth + b"1" + b"}" * depth
    async with planner(answer(status, body)) as it, asking(it.url) as orchestrator:
        outcome = await orchestrator.submit(submission())

    assert isinstance(outcome, Submitted) == (status == 200)
    json.dumps(outcome.result)


# --- the URL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "target"),
    [
        ("/api?code=K", "/api/goals?code=K"),
        ("?code=K", "/goals?code=K"),
        ("/?code=K/", "/goals?code=K/"),
        ("/api/?code=K&v=2", "/api/goals?code=K&v=2"),
        ("/api//", "/api/goals"),
        ("", "/goals"),
    ],
)
async def test_the_path_of_an_intent_goes_into_the_path_and_a_query_stays(tail, target):
    async with planner(answer(201)) as it:
        known = from_environment(STAND_INS | {"ORCHESTRATOR_URL": it.url + tail})
        async with asking(known.orchestrator_url) as orchestrator:
            await orchestrator.submit(submission())
            assert "K" not in repr(orchestrator).upper().replace("BREAKER", "")

    ((first, _, _),) = it.requests
    assert first == f"POST {target} HTTP/1.1"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("ORCHESTRATOR_URL", "https://x/api?code=K#part"),
        ("ORCHESTRATOR_URL", "https://x/api#part"),
        ("ORCHESTRATOR_URL", "https://user:secret@x/api"),
        ("ORCHESTRATOR_URL", "ftp://x/api?code=K"),
        ("DEEPGRAM_API_URL", "https://x?code=K"),
        ("RELAY_PUBLIC_URL", "https://x?code=K"),
        ("DEEPGRAM_AGENT_URL", "wss://x/agent?code=K#part"),
    ],
)
def test_a_url_that_cannot_be_joined_is_refused_without_its_secrets(name, url):
    with pytest.raises(ConfigError) as refused:
        from_environment(STAND_INS | {name: url})

    (problem,) = refused.value.problems
    assert f" {name}: " in problem
    assert "code=K" not in problem
    assert "secret" not in problem


def test_a_query_is_masked_where_a_url_is_shown():
    assert mask_query("https://x/api?code=K") == "https://x/api?***"
    assert mask_query("https://x/api") == "https://x/api"


# --- connections ----------------------------------------------------------------------------------


class HangsUp:
    """Keeps a connection open after an answer, as servers do, and closes it without a word when the
    next request comes on it."""

    def __init__(self):
        self.answered = 0

    async def serve(self, reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.answered += 1
            writer.write(b"HTTP/1.1 201 X\r\nContent-Length: 2\r\n\r\n{}")
            await reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.mark.parametrize("own", [True, False], ids=["our client", "any client"])
async def test_a_connection_that_is_closed_as_the_next_call_goes_out_leaves_no_doubt(own):
    it = HangsUp()
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, asking(url) as ours, httpx.AsyncClient(trust_env=False) as client:
        orchestrator = ours if own else Orchestrator(url, None, client)
        for _ in range(5):
            outcome = await orchestrator.submit(submission(call_id=str(uuid4()), retry=False))
            assert outcome == Submitted({}, 1)

    assert it.answered == 5
