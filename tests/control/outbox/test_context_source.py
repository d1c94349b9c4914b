"""The question what is known of a user, against real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import pytest
from msgspec.structs import replace

from config.agent import Context
from config.env_types import Secret
from config.settings import STAND_INS, from_environment
from control.outbox.circuit_breaker import FAILURES
from control.outbox.context_source import ContextSource
from relay.core.user_context import AskContext, UserContext
from relay.telemetry.metrics import Metrics
from relay.transport.egress import Egress
from tests.relay.wires import ABOUT

KNOWN = b'{"facts": {"tasks": ["call Bob"]}, "names": ["Bob"]}'
AT = 1_800_000_000.9


def answered(body, status=200):
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


class Planner:
    """Answers each request of a connection, and keeps it open. None says nothing; empty bytes hang
    up."""

    ask: AskContext

    def __init__(self, said):
        self.said = said
        self.requests = []
        self.connections = 0
        self.url = ""
        self.metrics = Metrics()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                self.requests.append((first, dict(line.lower().split(": ", 1) for line in lines)))
                if self.said is None:
                    await reader.read()
                if not self.said:
                    break
                writer.write(self.said)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @property
    def outcomes(self):
        samples = next(iter(self.metrics.user_contexts.collect())).samples
        return {s.labels["outcome"]: s.value for s in samples if s.name.endswith("_total")}


@asynccontextmanager
async def asking(said, *, tail="", timeout=5.0, **settings):
    """A planner, and the question that it is asked."""
    planner = Planner(said)
    server = await asyncio.start_server(planner.serve, "127.0.0.1", 0)
    planner.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{tail}"
    fields = replace(
        from_environment(STAND_INS | {"ORCHESTRATOR_URL": planner.url}),
        **{name: Secret(value) for name, value in settings.items()},
    )
    question = Context(path="/voice-context", timeout=timeout)
    source = ContextSource(fields, question, Egress(fields), planner.metrics, wall=lambda: AT)
    async with server, source.running():
        planner.ask = source.ask
        yield planner


async def test_one_question_says_who_it_is_about_and_the_answer_is_read():
    about = replace(ABOUT, user_id="a b/ü&=+%?#", timezone="Europe/Berlin")
    async with asking(answered(KNOWN)) as planner:
        known = await planner.ask(about)

    assert known == UserContext(facts={"tasks": ["call Bob"]}, names=["Bob"])
    ((first, headers),) = planner.requests
    method, target, _ = first.split()
    assert method == "GET"
    assert urlsplit(target).path == "/voice-context"
    assert dict(parse_qsl(urlsplit(target).query)) == {
        "user_id": "a b/ü&=+%?#",
        "conversation_id": str(ABOUT.conversation_id),
        "timezone": "Europe/Berlin",
    }
    assert "x-voice-signature" not in headers
    assert "authorization" not in headers
    assert planner.outcomes == {"answered": 1.0}
    assert b"relay_user_context_seconds_count 1.0" in planner.metrics.text()


async def test_what_is_signed_is_the_query_as_it_arrives():
    about = replace(ABOUT, user_id="a b/ü&=+%?#")
    secrets = {"orchestrator_token": "token", "orchestrator_secret": "secret"}
    async with asking(answered(b"{}"), tail='/api/?code=a|b"%20c==', **secrets) as planner:
        await planner.ask(about)

    ((first, headers),) = planner.requests
    path, query = first.split()[1].split("?", 1)
    assert path == "/api/voice-context"
    assert parse_qsl(query)[0] == ("code", 'a|b" c==')
    expected = hmac.new(b"secret", f"{int(AT)}.{query}".encode(), hashlib.sha256).hexdigest()
    assert headers["x-voice-signature"] == f"t={int(AT)},v1={expected}"
    assert headers["authorization"] == "bearer token"  # lowered above


async def test_questions_share_a_connection():
    async with asking(answered(KNOWN)) as planner:
        await planner.ask(ABOUT)
        await planner.ask(ABOUT)

    assert (len(planner.requests), planner.connections) == (2, 1)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (answered(b"no such thing", 404), "HTTP 404"),
        (answered(b"", 302), "HTTP 302"),
        (answered(b"secret"), "does not fit its schema"),
        (answered(b'{"facts": "secret"}'), "$.facts"),
        (answered(b'{"names": ["' + b"x" * 70_000 + b'"]}'), "too long"),
        (answered(b"x" * 300_000), "too long"),
        (b"", "RemoteProtocolError"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n", "timeout"),
        (None, "timeout"),
    ],
)
async def test_whatever_goes_wrong_nothing_is_known_and_the_log_says_why(said, cause, caplog):
    caplog.set_level(logging.WARNING)
    timeout = 0.2 if cause == "timeout" else 5.0
    async with asking(said, timeout=timeout, orchestrator_secret="hidden") as planner:
        began = time.monotonic()
        assert await planner.ask(ABOUT) is None
        assert time.monotonic() - began < 5.0

        assert planner.outcomes == {"failed": 1.0}
    (line,) = [r.getMessage() for r in caplog.records if "user_context_failed" in r.getMessage()]
    assert str(ABOUT.conversation_id) in line
    assert cause in line
    assert "secret" not in line
    assert "user_id" not in line


async def test_an_orchestrator_that_cannot_be_reached_is_no_matter():
    async with asking(answered(KNOWN)) as planner:
        pass

    source = ContextSource(
        from_environment(STAND_INS | {"ORCHESTRATOR_URL": planner.url}),
        Context(path="/voice-context"),
        Egress(from_environment(STAND_INS)),
        planner.metrics,
    )
    async with source.running():
        assert await source.ask(ABOUT) is None


async def test_who_fails_again_and_again_is_not_asked_for_a_while():
    abouts = [replace(ABOUT, conversation_id=UUID(int=n)) for n in range(FAILURES + 2)]
    async with asking(answered(b"", 503)) as planner:
        for about in abouts:
            assert await planner.ask(about) is None

    assert len(planner.requests) == FAILURES
    assert planner.outcomes == {"failed": FAILURES, "skipped": 2.0}


async def test_a_question_that_is_given_up_is_no_failure():
    async with asking(None) as planner:
        task = asyncio.create_task(planner.ask(ABOUT), name="question")
        async with asyncio.timeout(5):
            while not planner.requests:  # noqa: ASYNC110 (turns of the loop are what we wait for)
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert planner.outcomes == {}
