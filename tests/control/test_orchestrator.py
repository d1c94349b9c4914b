"""The client to the Orchestrator against real sockets; pauses pass on a clock of our own."""

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import httpx
import pytest

from config.intents import Intent
from control import orchestrator
from control.orchestrator import Orchestrator
from relay.submission import Failed, Rejected, Submission, Submitted

CONVERSATION = UUID("0192d3c4-0000-7000-8000-000000000001")


def submission(*, retry=True, timeout=10.0, call_id="call_1", parameters=None):
    intent = Intent(
        name="GOAL",
        title="A goal",
        function="create_goal",
        description="Makes a goal",
        parameters={"type": "object"},
        path="/goals",
        timeout=timeout,
        retry=retry,
    )
    return Submission(
        intent=intent,
        parameters=parameters or {"title": "run a marathon"},
        user_id="user-1",
        conversation_id=CONVERSATION,
        call_id=call_id,
    )


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
        self.url = ""

    async def serve_one(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append((first, headers, json.loads(body)))
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


class Time:
    """A clock that only pauses move."""

    def __init__(self):
        self.now = 0.0
        self.pauses = []

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@asynccontextmanager
async def planner(*answers):
    it = Planner(*answers)
    server = await asyncio.start_server(it.serve_one, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield it


async def submit(url, what, *, time=None, token=None, jitter=lambda: 0.5):
    time = time or Time()
    async with httpx.AsyncClient(trust_env=False) as client:
        it = Orchestrator(
            url, token, client, sleep=time.sleep, clock=lambda: time.now, jitter=jitter
        )
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
        (b"x" * (orchestrator.MAX_BODY + 1), None),
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

    assert len(outcome.reason) <= orchestrator.MAX_REASON
    assert outcome.reason.endswith("…")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_passing_trouble_is_tried_again_under_the_same_key(status):
    time = Time()
    async with planner(answer(status), answer(status), answer(201, b"{}")) as it:
        outcome = await submit(it.url, submission(), time=time, jitter=lambda: 1.0)

    assert outcome == Submitted({}, 3)
    assert {headers["idempotency-key"] for _, headers, _ in it.requests} == {"call_1"}
    assert time.pauses == [0.2, 0.4]


async def test_trouble_is_not_tried_again_when_the_intent_does_not_allow_it():
    async with planner(answer(503, Retry_After="1"), answer(201)) as it:
        outcome = await submit(it.url, submission(retry=False))

    assert outcome == Failed(orchestrator.BUSY, 1)
    assert len(it.requests) == 1


async def test_trying_ends_with_the_budget():
    time = Time()
    async with planner(answer(500)) as it:
        outcome = await submit(it.url, submission(timeout=1.0), time=time, jitter=lambda: 1.0)

    assert outcome == Failed(orchestrator.BUSY, 3)
    assert time.now < 1.0


async def test_very_short_pauses_do_not_hammer_the_planner():
    async with planner(answer(500)) as it:
        outcome = await submit(it.url, submission(), jitter=lambda: 0.0)

    assert outcome == Failed(orchestrator.BUSY, orchestrator.MAX_ATTEMPTS)


async def test_retry_after_in_seconds_is_waited_for():
    time = Time()
    async with planner(answer(429, Retry_After="3"), answer(200)) as it:
        outcome = await submit(it.url, submission(), time=time)

    assert outcome == Submitted(None, 2)
    assert time.pauses == [3.0]


async def test_retry_after_as_a_date_is_waited_for():
    time = Time()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=6), usegmt=True)
    async with planner(answer(503, Retry_After=date), answer(200)) as it:
        outcome = await submit(it.url, submission(), time=time)

    assert outcome == Submitted(None, 2)
    assert 3.0 < time.pauses[0] <= 6.0


@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "Mon, 99 Foo 2026", "٣"])
def test_a_retry_after_that_means_nothing_is_ignored(value):
    response = httpx.Response(503, headers=[(b"Retry-After", value.encode())])

    assert orchestrator._retry_after(response) is None


async def test_a_retry_after_beyond_the_budget_ends_the_trying_at_once():
    time = Time()
    async with planner(answer(503, Retry_After="60")) as it:
        outcome = await submit(it.url, submission(), time=time)

    assert outcome == Failed(orchestrator.BUSY, 1)
    assert time.pauses == []


async def test_a_redirect_is_not_followed():
    async with planner(answer(307, Location="/elsewhere")) as it:
        outcome = await submit(it.url, submission())

    assert outcome == Failed(orchestrator.MISPLACED, 1)
    assert len(it.requests) == 1


async def test_a_refused_connection_is_tried_again_even_when_the_intent_does_not_allow_it():
    async with planner(answer(200)) as it:
        url = it.url
    time = Time()

    outcome = await submit(url, submission(retry=False, timeout=1.0), time=time, jitter=lambda: 1.0)

    assert outcome == Failed(orchestrator.UNREACHABLE, 3)


async def test_a_planner_that_says_nothing_fails_within_the_budget_and_admits_the_doubt():
    async with planner(None) as it:
        outcome = await submit(it.url, submission(retry=False, timeout=0.1))

    assert outcome == Failed(orchestrator.SILENT, 1)


async def test_a_connection_that_breaks_is_tried_again():
    async with planner(b"", answer(200)) as it:
        outcome = await submit(it.url, submission())

    assert outcome == Submitted(None, 2)


async def test_a_connection_that_breaks_is_not_tried_again_when_it_could_double_the_intent():
    async with planner(b"", answer(200)) as it:
        outcome = await submit(it.url, submission(retry=False))

    assert outcome == Failed(orchestrator.BROKEN_OFF, 1)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://[::1"])
async def test_an_address_that_cannot_be_right_fails_and_does_not_raise(url):
    outcome = await submit(url, submission())

    assert outcome == Failed(orchestrator.MISPLACED, 1)


async def test_a_failure_is_one_log_line_without_parameters_or_token(caplog):
    caplog.set_level(logging.INFO, logger="control")
    async with planner(answer(503, b'{"detail": "marathon trouble"}')) as it:
        await submit(it.url, submission(timeout=0.5), token="secret")

    lines = [record.getMessage() for record in caplog.records if record.name.startswith("control")]
    assert len(lines) == 1
    assert lines[0].startswith("orchestrator_failed intent=GOAL call='call_1' attempts=")
    assert lines[0].endswith("cause=status 503")
    assert "marathon" not in lines[0]
    assert "secret" not in lines[0]


async def test_an_own_client_is_closed_on_leaving():
    async with planner(answer(200, b"1")) as it:
        async with orchestrator.connect(it.url, None) as client:
            outcome = await client.submit(submission())

        assert outcome == Submitted(1, 1)
        assert repr(client) == "<Orchestrator http://127.0.0.1>"
        with pytest.raises(RuntimeError):
            await client.submit(submission())
