"""The client to the Orchestrator against real sockets; the breaker's time is a clock of our own."""

import asyncio
import hashlib
import hmac
import json
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import httpx
import pytest

from config.intents import Intent
from config.settings import STAND_INS, from_environment
from control.outbox import orchestrator_client
from control.outbox.circuit_breaker import FAILURES, FIRST_REST, State
from control.outbox.orchestrator_client import Orchestrator
from relay.functions.submission import (
    UNCERTAIN,
    Delayed,
    Failed,
    Rejected,
    Submission,
    Submitted,
)
from relay.transport.egress import Egress
from relay.transport.retry_after import read_retry_after

CONVERSATION = UUID("0192d3c4-0000-7000-8000-000000000001")


def submission(*, retry=True, seconds=10.0, call_id="call_1", parameters=None, in_doubt=False):
    intent = Intent(
        name="GOAL",
        title="A goal",
        function="create_goal",
        description="Makes a goal",
        parameters={"type": "object"},
        path="/goals",
        retry=retry,
    )
    return Submission(
        intent=intent,
        parameters=parameters or {"title": "run a marathon"},
        user_id="user-1",
        conversation_id=CONVERSATION,
        call_id=call_id,
        seconds=seconds,
        in_doubt=in_doubt,
    )


def delayed(reason, cause, **more):
    return Delayed(reason=reason, cause=cause, attempts=1, **more)


def answer(status, body=b"", **headers):
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Planner:
    """Answers each request with the next of `answers`; the last one again and again.

    An answer of None says nothing until the client is gone; empty bytes hang up.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.bodies = []
        self.arrived = asyncio.Event()
        self.url = ""

    async def serve_one(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append((first, headers, json.loads(body)))
            self.bodies.append(body)
            self.arrived.set()
            said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if said is None:
                await reader.read()
            else:
                writer.write(said)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class ResetAtOnce(httpx.AsyncBaseTransport):
    """What anyio raises on uvloop for a connection that was reset in the moment it opened."""

    async def handle_async_request(self, request):
        raise AttributeError("'NoneType' object has no attribute 'getpeername'")


async def test_a_connection_that_is_reset_as_it_opens_is_tried_again():
    async with httpx.AsyncClient(transport=ResetAtOnce()) as client:
        outcome = await Orchestrator("http://planner", None, client).submit(submission())

    assert outcome == delayed(orchestrator_client.BROKEN_OFF, "AttributeError", unsent=False)


@asynccontextmanager
async def planner(*answers):
    it = Planner(*answers)
    server = await asyncio.start_server(it.serve_one, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield it


async def submit(url, what, *, token=None, secret=None, wall=lambda: 1_800_000_000.9):
    async with httpx.AsyncClient(trust_env=False) as client:
        it = Orchestrator(url, token, client, secret=secret, wall=wall)
        async with asyncio.timeout(10):
            return await it.submit(what)


async def test_a_submission_is_one_post_with_everything_the_planner_needs():
    async with planner(answer(201, b'{"id": 7}')) as it:
        outcome = await submit(it.url + "/", submission(), token="secret")

    first, headers, body = it.requests[0]
    assert outcome == Submitted({"id": 7}, 1)
    assert first == "POST /goals HTTP/1.1"
    assert headers["idempotency-key"] == "call_1"
    assert headers["authorization"] == "Bearer secret"
    assert headers["content-type"] == "application/json"
    assert body == {
        "intent": "GOAL",
        "parameters": {"title": "run a marathon"},
        "user_id": "user-1",
        "conversation_id": str(CONVERSATION),
        "call_id": "call_1",
    }


async def test_without_a_token_there_is_no_authorization():
    async with planner(answer(200)) as it:
        await submit(it.url, submission())

    assert "authorization" not in it.requests[0][1]


async def test_a_call_id_that_no_header_may_hold_is_quoted():
    async with planner(answer(200)) as it:
        await submit(it.url, submission(call_id="call\r\nX: ä"))

    _, headers, body = it.requests[0]
    assert headers["idempotency-key"] == "call%0D%0AX:%20%C3%A4"
    assert body["call_id"] == "call\r\nX: ä"


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"", None),
        (b"[1, 2]", [1, 2]),
        (b"Saved.\x07\r\n  Thank you.", "Saved. Thank you."),
        (b"x" * (orchestrator_client.MAX_BODY + 1), None),
    ],
    ids=["empty", "json", "text", "too long"],
)
async def test_a_2xx_means_taken_whatever_the_body_is(body, result):
    async with planner(answer(200, body)) as it:
        outcome = await submit(it.url, submission())

    assert outcome == Submitted(result, 1)


async def test_a_2xx_whose_body_breaks_off_is_taken_and_not_asked_again():
    async with planner(answer(200, b'{"id": 7}')[:-3]) as it:
        outcome = await submit(it.url, submission())

    assert outcome == Submitted(None, 1)
    assert len(it.requests) == 1


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ({"title": "No such task", "detail": "there is no task called dentist"}, "there is no"),
        ({"title": "No such task", "status": 404}, "No such task"),
        ({"error": "no such task"}, "no such task"),
        ({"error": {"message": "no such task"}}, "no such task"),
        ({"message": "no such task"}, "no such task"),
        ({"detail": [{"loc": ["title"], "msg": "field required"}]}, "field required"),
        ({"detail": "two\nlines\x1b[31m"}, "two lines [31m"),
        ({"detail": 5}, "the planner refused it with status 404"),
        (["odd"], "the planner refused it with status 404"),
        (None, "the planner refused it with status 404"),
    ],
)
async def test_a_4xx_is_final_and_gives_its_reason(problem, reason):
    body = b"" if problem is None else json.dumps(problem).encode()
    async with planner(answer(404, body)) as it:
        outcome = await submit(it.url, submission())

    assert isinstance(outcome, Rejected)
    assert outcome.reason.startswith(reason)
    assert outcome.result == problem
    assert len(it.requests) == outcome.attempts == 1


async def test_a_reason_is_short_enough_to_be_said():
    async with planner(answer(422, json.dumps({"detail": "word " * 1000}).encode())) as it:
        outcome = await submit(it.url, submission())

    assert len(outcome.reason) <= orchestrator_client.MAX_REASON
    assert outcome.reason.endswith("…")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_passing_trouble_is_asked_once_and_left_to_who_asked(status):
    async with planner(answer(status), answer(201, b"{}")) as it:
        outcome = await submit(it.url, submission())

    assert outcome == delayed(orchestrator_client.BUSY, f"status {status}")
    assert len(it.requests) == 1


async def test_a_409_is_an_answer_unless_an_earlier_copy_may_still_be_at_work():
    async with planner(answer(409, b'{"detail": "in progress"}')) as it:
        first = await submit(it.url, submission())
        again = await submit(it.url, submission(in_doubt=True))

    assert isinstance(first, Rejected)
    assert again == delayed(orchestrator_client.BUSY, "status 409")


async def test_retry_after_in_seconds_is_passed_on():
    async with planner(answer(429, Retry_After="3")) as it:
        outcome = await submit(it.url, submission())

    assert outcome == delayed(orchestrator_client.BUSY, "status 429", wait=3.0)


async def test_retry_after_as_a_date_is_passed_on():
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    async with planner(answer(503, Retry_After=date)) as it:
        outcome = await submit(it.url, submission())

    assert 30.0 < outcome.wait <= 60.0


@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "Mon, 99 Foo 2026", "٣"])
def test_a_retry_after_that_means_nothing_is_ignored(value):
    assert read_retry_after(value) == 0.0


async def test_a_redirect_is_not_followed():
    async with planner(answer(307, Location="/elsewhere")) as it:
        outcome = await submit(it.url, submission())

    assert outcome == Failed(orchestrator_client.MISPLACED, 1)
    assert len(it.requests) == 1


async def test_a_refused_connection_has_sent_nothing():
    async with planner(answer(200)) as it:
        url = it.url

    outcome = await submit(url, submission())

    assert outcome == delayed(orchestrator_client.UNREACHABLE, "ConnectError refused", unsent=True)


async def test_a_planner_that_says_nothing_is_given_up_in_time_and_leaves_a_doubt():
    async with planner(None) as it:
        outcome = await submit(it.url, submission(seconds=0.1))

    assert isinstance(outcome, Delayed)
    assert (outcome.reason, outcome.unsent) == (UNCERTAIN, False)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 2"])
async def test_a_connection_that_breaks_or_talks_nonsense_leaves_a_doubt(said):
    async with planner(said) as it:
        outcome = await submit(it.url, submission())

    assert isinstance(outcome, Delayed)
    assert (outcome.reason, outcome.unsent) == (orchestrator_client.BROKEN_OFF, False)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://[::1"])
async def test_an_address_that_cannot_be_right_fails_and_does_not_raise(url):
    outcome = await submit(url, submission())

    assert outcome == Failed(orchestrator_client.MISPLACED, 1)


async def test_a_failure_is_one_log_line_without_parameters_or_token(caplog):
    caplog.set_level(logging.INFO, logger="control")
    async with planner(answer(503, b'{"detail": "marathon trouble"}')) as it:
        await submit(it.url, submission(), token="secret")

    lines = [record.getMessage() for record in caplog.records if record.name.startswith("control")]
    assert len(lines) == 1
    assert lines[0].startswith("orchestrator_failed intent=GOAL key=call_1 seconds=")
    assert lines[0].endswith("reason=status 503")
    assert "marathon" not in lines[0]
    assert "secret" not in lines[0]


# --- the signature -------------------------------------------------------------------------------


async def test_a_request_is_signed_with_its_time_and_its_bytes():
    async with planner(answer(200)) as it:
        await submit(it.url, submission(), secret="s3cret")

    _, headers, _ = it.requests[0]
    expected = hmac.new(b"s3cret", b"1800000000." + it.bodies[0], hashlib.sha256).hexdigest()
    assert headers["x-voice-signature"] == f"t=1800000000,v1={expected}"


async def test_without_a_secret_there_is_no_signature():
    async with planner(answer(200)) as it:
        await submit(it.url, submission())

    assert "x-voice-signature" not in it.requests[0][1]


# --- the breaker ---------------------------------------------------------------------------------


@asynccontextmanager
async def client_of(it, now):
    async with httpx.AsyncClient(trust_env=False) as client:
        yield Orchestrator(it.url, None, client, clock=lambda: now[0])


async def fail(client):
    """As many different calls as open the breaker."""
    for number in range(FAILURES):
        await client.submit(submission(call_id=f"call_{number}"))


async def test_after_some_failures_nobody_is_asked_for_a_while(caplog):
    now = [0.0]
    async with planner(answer(500)) as it, client_of(it, now) as client:
        await fail(client)

        refused = await client.submit(submission())

        assert len(it.requests) == FAILURES
        assert refused.attempts == 0
        assert refused.unsent
        assert refused.wait == client.wait == FIRST_REST
        assert client.state is State.OPEN
        assert [m for m in caplog.messages if "orchestrator_breaker" in m] == [
            "orchestrator_breaker state=open"
        ]


async def test_one_probe_decides_whether_it_closes():
    now = [0.0]
    fine = answer(200, b"1")
    async with planner(*[answer(500)] * FAILURES, fine) as it, client_of(it, now) as client:
        await fail(client)
        now[0] = FIRST_REST

        assert await client.submit(submission()) == Submitted(1, 1)
        assert client.state is State.CLOSED


async def test_a_4xx_is_no_reason_to_stop_asking():
    async with planner(answer(404)) as it, client_of(it, [0.0]) as client:
        for _ in range(FAILURES + 1):
            await client.submit(submission())

        assert client.state is State.CLOSED
        assert len(it.requests) == FAILURES + 1


async def test_a_probe_that_is_given_up_leaves_room_for_the_next():
    now = [0.0]
    async with planner(*[answer(500)] * FAILURES, None) as it, client_of(it, now) as client:
        await fail(client)
        now[0] = FIRST_REST
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.submit(submission())

        assert client.state is State.OPEN
        assert client.wait == 0


async def test_an_own_client_is_closed_on_leaving():
    async with planner(answer(200, b"1")) as it:
        egress = Egress(from_environment(STAND_INS))
        async with orchestrator_client.connect(it.url, None, egress=egress) as client:
            outcome = await client.submit(submission())

        assert outcome == Submitted(1, 1)
        assert repr(client) == "<Orchestrator http://127.0.0.1 CLOSED>"
        with pytest.raises(RuntimeError):
            await client.submit(submission())
