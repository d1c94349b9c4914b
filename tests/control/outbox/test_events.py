"""`conversation.ended` on a real Postgres, to planners over real sockets.

Time passes by moving the instants of a row: nothing here sleeps.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
from jsonschema import Draft202012Validator
from uuid_utils.compat import uuid7

from config.agent import Events
from control.db import events as rows
from control.db import ownership
from control.db.conversations import erase_conversation, rename_conversation
from control.db.sessions import close_session, create_session
from control.db.store import Store, StoreUnavailable
from control.outbox.circuit_breaker import FAILURES
from control.outbox.events import TYPE, EventWorker, make_id
from control.outbox.orchestrator_client import Orchestrator
from relay.backoff import Backoff
from relay.core.records import IntentCalled
from relay.protocol.relay_events import IntentStatus
from relay.telemetry.metrics import Metrics
from tests.control.attaching import NODE, take
from tests.control.db.test_agent_seconds import attached, ended
from tests.control.db.test_conversations import NOW, SESSION, USER, called, new_session, said
from tests.control.outbox.test_orchestrator_client import answer, planner

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "docs/reference/conversation-ended.schema.json").read_text()
)
OK = answer(200)
GRACE = 40.0
OTHER = UUID(int=0xB)


@pytest.fixture
async def telling(database_url):
    """A store of a program that tells events."""
    store = Store(database_url, event_grace=GRACE)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def sql(database_url):
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def worker(store, url, *, messages=True, hours=24.0, clock=lambda: 0.0):
    async with httpx.AsyncClient(trust_env=False) as client:
        it = EventWorker(
            store,
            Events(path="/events", messages=messages),
            Metrics(),
            planner=Orchestrator(url, None, client, clock=clock),
            public_url="https://voice.example.com/",
            max_age=hours * 3600,
            jitter=lambda: 0.5,
        )
        yield it


async def end(store, reason="hung_up", *, epoch=1, session_id=SESSION):
    await store.write([ended(epoch, 12.5, reason=reason, session_id=session_id)])


async def count(sql):
    return await sql.fetchval("SELECT count(*) FROM voice.events")


async def come_due(sql):
    await sql.execute("UPDATE voice.events SET due_at = now() WHERE due_at IS NOT NULL")


# --- which ends are told -------------------------------------------------------------------------


async def test_a_session_that_ended_is_told_once_with_all_that_was_in_it(telling, sql):
    conversation = await attached(telling)
    await telling.write(
        [
            said(conversation, 1, "I want to run"),
            said(conversation, 2, "Done.", role="assistant"),
            called(
                conversation,
                id=uuid7(),
                status=IntentStatus.SUBMITTED,
                result={"id": 7},
                after_seq=1,
            ),
        ]
    )
    other = said(conversation, 3, "of an earlier session")
    await telling.write([type(other)(**{**_fields(other), "session_id": uuid7()})])
    async with planner(OK) as it, worker(telling, it.url) as events:
        await end(telling)
        await end(telling)  # the batch again, after a crash
        await events.look()
        await events.look()

    ((first, headers, body),) = it.requests
    assert first == "POST /events HTTP/1.1"
    assert headers["idempotency-key"] == body["id"] == str(make_id(SESSION))
    assert list(Draft202012Validator(SCHEMA).iter_errors(body)) == []
    assert set(body) == set(SCHEMA["$defs"]["ConversationEnded"]["properties"])
    assert (body["type"], body["reason"], body["agent_seconds"]) == (TYPE, "hung_up", 12.5)
    assert (body["user_id"], body["conversation_id"]) == (USER, str(conversation))
    assert (body["title"], body["language"]) == ("I want to run", None)
    assert [(m["seq"], m["role"], m["content"]) for m in body["messages"]] == [
        (1, "user", "I want to run"),
        (2, "assistant", "Done."),
    ]
    (intent,) = body["intents"]
    assert (intent["intent"], intent["status"]) == ("GOAL", "submitted")
    assert (intent["parameters"], intent["result"]) == ({"title": "run"}, {"id": 7})
    assert not body["messages_cut"]
    assert not body["intents_cut"]
    assert body["messages_url"] == (
        f"https://voice.example.com/api/v1/voice/conversations/{conversation}/export?format=json"
    )
    row = await sql.fetchrow("SELECT * FROM voice.events")
    assert (row["due_at"], row["body"], row["attempts"]) == (None, None, 1)
    assert row["delivered_at"] is not None


def _fields(record):
    return {name: getattr(record, name) for name in record.__struct_fields__}


async def test_without_the_words_it_says_where_they_are(telling):
    conversation = await attached(telling)
    await telling.write([said(conversation, 1, "a secret")])
    async with planner(OK) as it, worker(telling, it.url, messages=False) as events:
        await end(telling)
        await events.look()

    ((_, _, body),) = it.requests
    assert not {"messages", "messages_cut"} & set(body)
    assert list(Draft202012Validator(SCHEMA).iter_errors(body)) == []
    assert str(conversation) in body["messages_url"]


async def test_off_leaves_no_rows(store, sql):
    await attached(store)
    await end(store)

    assert await count(sql) == 0


@pytest.mark.parametrize("reason", ["hung_up", "idle", "browser_lost", "agent_lost", "longest"])
async def test_every_end_of_its_own_is_told(telling, sql, reason):
    await attached(telling)
    await end(telling, reason)

    assert await count(sql) == 1


async def test_a_conversation_that_goes_on_elsewhere_has_not_ended(telling, sql):
    """Superseded in its own words, superseded while it was stopping, moved."""
    conversation = await attached(telling)
    await end(telling, "superseded")
    assert await count(sql) == 0

    second, third = uuid7(), uuid7()
    await attached(telling, id=second, ticket_hash=b"2")
    await end(telling, "shutdown", session_id=second)
    assert await count(sql) == 1
    owner = await sql.fetchval("SELECT conversation_id FROM voice.sessions WHERE id = $1", second)
    await create_session(telling, new_session(owner, id=third, ticket_hash=b"3"), resume=True)
    assert (await take(telling, third, b"3")).taken
    assert await count(sql) == 0

    await take(telling, third, b"next", node_id=OTHER, resume_hash=b"4")
    await end(telling, "moved", session_id=third)
    assert await count(sql) == 0
    await end(telling, "hung_up", session_id=third, epoch=2)
    assert await count(sql) == 1
    assert conversation


async def test_one_that_stopped_is_told_when_nobody_can_take_it_over_any_more(telling, sql):
    await attached(telling)
    async with planner(OK) as it, worker(telling, it.url) as events:
        await end(telling, "shutdown")
        await events.look()
        assert it.requests == []
        due = await sql.fetchval("SELECT due_at - accepted_at FROM voice.events")
        assert due.total_seconds() == GRACE
        await come_due(sql)
        await events.look()

        assert it.requests[0][2]["reason"] == "shutdown"


async def test_one_that_is_taken_over_after_a_stop_is_taken_back_and_ends_later(telling, sql):
    await attached(telling)
    await end(telling, "shutdown")
    assert await count(sql) == 1

    assert (await take(telling, SESSION, b"next", node_id=OTHER)).taken_over
    assert await count(sql) == 0

    await end(telling, "browser_left", epoch=2)
    assert await count(sql) == 1


async def test_what_a_dead_node_left_is_told_and_taken_back_while_it_was_not_dead(telling, sql):
    await attached(telling)
    async with telling.transaction() as connection:
        assert await ownership.sweep(connection, 0.0) == 1
    assert await count(sql) == 1
    async with telling.transaction() as connection:
        await ownership.find_lost(connection, NODE, {SESSION: 1})
    assert await count(sql) == 0

    async with telling.transaction() as connection:
        await ownership.sweep(connection, 0.0)
    async with planner(OK) as it, worker(telling, it.url) as events:
        await events.look()
        async with telling.transaction() as connection:
            await ownership.find_lost(connection, NODE, {SESSION: 1})
        await end(telling, "hung_up")
        await come_due(sql)
        await events.look()

    assert [body["reason"] for _, _, body in it.requests] == ["node_lost"]


async def test_what_nobody_ever_attached_to_is_no_conversation(telling, sql):
    conversation = await attached(telling)
    other = uuid7()
    waiting = new_session(conversation, id=other, ticket_hash=b"2")
    await create_session(telling, waiting, resume=True)

    assert await close_session(telling, other, user_id=USER, reason="hung_up")
    assert await sql.fetchval("SELECT state FROM voice.sessions WHERE id = $1", other) == "ended"
    assert await count(sql) == 0


async def test_a_direct_session_is_told_when_its_client_ends_it(telling, sql):
    conversation = await attached(telling)
    one, two = uuid7(), uuid7()
    for session_id in (one, two):
        direct = new_session(conversation, id=session_id, ticket_hash=session_id.bytes)
        direct = type(direct)(**{**_fields(direct), "transport": "direct"})
        await create_session(telling, direct, resume=True)  # the one before is superseded

    assert await close_session(telling, two, user_id=USER, reason="hung_up")
    assert await sql.fetchval("SELECT session_id FROM voice.events") == two
    assert await count(sql) == 1


# --- when ----------------------------------------------------------------------------------------


async def test_it_waits_for_calls_that_are_on_their_way_and_tells_what_came_of_them(telling, sql):
    conversation = await attached(telling)
    call = called(conversation, id=uuid7(), due_in=60.0)
    async with planner(OK) as it, worker(telling, it.url) as events:
        await telling.write([call])
        await end(telling)
        await events.look()
        assert it.requests == []

        outcome = {"status": IntentStatus.SUBMITTED, "result": {"id": 7}}
        await telling.write([IntentCalled(**{**_fields(call), **outcome})])
        await events.look()

    assert [i["status"] for i in it.requests[0][2]["intents"]] == ["submitted"]


async def test_after_a_minute_it_tells_of_calls_as_they_stand(telling, sql):
    conversation = await attached(telling)
    await telling.write([called(conversation, id=uuid7(), due_in=60.0)])
    async with planner(OK) as it, worker(telling, it.url) as events:
        await end(telling)
        await sql.execute("UPDATE voice.events SET accepted_at = accepted_at - interval '59 s'")
        await events.look()
        assert it.requests == []
        await sql.execute("UPDATE voice.events SET accepted_at = accepted_at - interval '2 s'")
        await events.look()

    assert [i["status"] for i in it.requests[0][2]["intents"]] == ["submitting"]


# --- until it arrives ----------------------------------------------------------------------------


async def test_a_planner_that_is_away_gets_the_same_words_later_and_later(
    telling, sql, monkeypatch
):
    longer = Backoff(first=40.0, longest=300.0, shortest=0.5)  # than a machine may be busy
    monkeypatch.setattr("control.outbox.events.BACKOFF", longer)
    conversation = await attached(telling)
    await telling.write([said(conversation, 1, "hello")])
    trouble = answer(503), b"", answer(429, Retry_After="200")
    async with planner(*trouble, OK) as it, worker(telling, it.url) as events:
        await end(telling)
        pauses = []
        for _ in range(3):
            await events.look()
            due = await sql.fetchval("SELECT due_at - now() FROM voice.events")
            pauses.append(round(due.total_seconds(), 1))
            await rename_conversation(telling, conversation, user_id=USER, title=f"{len(pauses)}")
            await come_due(sql)
        await events.look()

    assert 10 < pauses[0] <= 20 < pauses[1] <= 40
    assert 180 < pauses[2] <= 200
    assert len(it.bodies) == 4
    assert len(set(it.bodies)) == 1, "one id stands for one text"
    assert await sql.fetchval("SELECT attempts FROM voice.events") == 4


async def test_after_so_many_hours_it_is_given_up(telling, sql):
    await attached(telling)
    said = answer(503, Retry_After=240)  # the next attempt would be too late
    async with planner(said) as it, worker(telling, it.url, hours=1.0) as events:
        await end(telling)
        await sql.execute("UPDATE voice.events SET accepted_at = now() - interval '58 minutes'")
        await events.look()

    row = await sql.fetchrow("SELECT * FROM voice.events")
    assert (row["due_at"], row["delivered_at"], row["body"]) == (None, None, None)
    assert "status 503" in row["last_error"]
    assert len(it.requests) == 1


async def test_one_that_is_too_old_when_it_is_found_is_not_told(telling, sql):
    await attached(telling)
    async with planner(OK) as it, worker(telling, it.url, hours=1.0) as events:
        await end(telling)
        await sql.execute("UPDATE voice.events SET accepted_at = now() - interval '2 hours'")
        await events.look()

    assert it.requests == []
    assert await sql.fetchval("SELECT last_error FROM voice.events") == "too old"


async def test_a_refusal_is_final(telling, sql):
    await attached(telling)
    async with planner(answer(422, b'{"detail": "no"}')) as it, worker(telling, it.url) as events:
        await end(telling)
        await events.look()
        await come_due(sql)
        await events.look()

    assert len(it.requests) == 1
    assert await sql.fetchval("SELECT last_error FROM voice.events") == "no"


async def test_a_409_to_what_was_told_before_means_that_the_first_copy_is_at_work(telling, sql):
    await attached(telling)
    async with planner(b"", answer(409), OK) as it, worker(telling, it.url) as events:
        await end(telling)
        for _ in range(3):
            await events.look()
            await come_due(sql)

    assert len(it.requests) == 3
    assert await sql.fetchval("SELECT delivered_at FROM voice.events") is not None


async def test_nobody_is_asked_while_the_breaker_is_open(telling, sql):
    async with planner(answer(503)) as it, worker(telling, it.url) as events:
        for number in range(FAILURES + 2):
            session_id = uuid7()
            await attached(telling, id=session_id, ticket_hash=session_id.bytes)
            await end(telling, session_id=session_id)
            assert number >= 0
        await events.look()

        assert len(it.requests) == FAILURES


async def test_of_two_processes_one_tells(telling, database_url):
    other = Store(database_url, event_grace=GRACE)
    await other.open()
    for _ in range(6):
        session_id = uuid7()
        await attached(telling, id=session_id, ticket_hash=session_id.bytes)
        await end(telling, session_id=session_id)
    async with (
        planner(OK) as it,
        worker(telling, it.url) as one,
        worker(other, it.url) as two,
    ):
        await asyncio.gather(one.look(), two.look())
    await other.close()

    ids = [body["id"] for _, _, body in it.requests]
    assert len(ids) == len(set(ids)) == 6


async def test_what_a_process_told_and_did_not_write_down_is_told_again_with_its_key(
    telling, sql, monkeypatch
):
    await attached(telling)

    async def lost(*_):
        raise StoreUnavailable("away")

    async with planner(OK) as it, worker(telling, it.url) as events:
        await end(telling)
        with monkeypatch.context() as patch:
            patch.setattr(rows, "note_delivered", lost)
            with pytest.raises(StoreUnavailable):
                await events.look()
        await events.look()
        assert len(it.requests) == 1, "somebody has it"
        await come_due(sql)
        await events.look()

    keys = {headers["idempotency-key"] for _, headers, _ in it.requests}
    assert (len(it.requests), len(keys), len(set(it.bodies))) == (2, 1, 1)


async def test_an_opinion_that_comes_late_does_not_take_back_a_fact(telling, sql):
    await attached(telling)
    await end(telling)
    first = await rows.claim_event(telling, lease=0.0)
    second = await rows.claim_event(telling, lease=0.0)
    assert (first.claims, second.claims) == (1, 2)

    await rows.note_failed(telling, first, attempts=1, error="slow", pause=0.0)
    assert await sql.fetchval("SELECT attempts FROM voice.events") == 0
    await rows.note_delivered(telling, SESSION)
    await rows.note_failed(telling, second, attempts=1, error="slow", pause=0.0)

    assert await sql.fetchval("SELECT due_at FROM voice.events") is None


# --- erased, and bounded -------------------------------------------------------------------------


async def test_an_erased_conversation_tells_nothing(telling, sql):
    conversation = await attached(telling)
    await telling.write([said(conversation, 1, "a secret")])
    await end(telling)
    assert await erase_conversation(telling, conversation, user_id=USER) == []
    assert await count(sql) == 0

    second = uuid7()
    conversation = await attached(telling, id=second, ticket_hash=b"2")
    await end(telling, session_id=second)
    claims = rows.claim_event

    async def claim_and_erase(store, **more):
        found = await claims(store, **more)
        await erase_conversation(store, conversation, user_id=USER)
        return found

    async with planner(OK) as it, worker(telling, it.url) as events:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "claim_event", claim_and_erase)
            await events.look()

    assert it.requests == []
    assert await count(sql) == 0


async def test_an_end_and_an_erasure_at_once_do_not_wait_for_each_other(telling):
    for number in range(20):
        session_id = uuid7()
        conversation = await attached(telling, id=session_id, ticket_hash=session_id.bytes)
        async with asyncio.timeout(5):
            await asyncio.gather(
                end(telling, session_id=session_id),
                erase_conversation(telling, conversation, user_id=USER),
            )
        assert number >= 0


async def test_what_is_long_is_told_from_its_end_and_says_so(telling, monkeypatch):
    monkeypatch.setattr(rows, "MOST_MESSAGES", 3)
    monkeypatch.setattr(rows, "MOST_INTENTS", 2)
    conversation = await attached(telling)
    lines = [said(conversation, seq, f"line {seq}") for seq in range(1, 6)]
    calls = [
        called(
            conversation,
            id=uuid7(),
            status=IntentStatus.SUBMITTED,
            after_seq=seq,
            result="x" * (rows.MOST_RESULT if seq == 3 else 1),
        )
        for seq in range(1, 4)
    ]
    await telling.write([*lines, *calls])
    async with planner(OK) as it, worker(telling, it.url) as events:
        await end(telling)
        await events.look()

    body = it.requests[0][2]
    assert [m["seq"] for m in body["messages"]] == [3, 4, 5]
    assert [i["after_seq"] for i in body["intents"]] == [2, 3]
    assert [i["result"] for i in body["intents"]] == ["x", None]
    assert body["messages_cut"]
    assert body["intents_cut"]


async def test_a_text_that_is_longer_than_all_may_be_is_told_cut(telling):
    conversation = await attached(telling)
    await telling.write([said(conversation, 1, "short"), said(conversation, 2, "ä" * 200_000)])
    async with planner(OK) as it, worker(telling, it.url) as events:
        await end(telling)
        await events.look()

    body = it.requests[0][2]
    assert [len(m["content"]) for m in body["messages"]] == [rows.MOST_BYTES // 4]
    assert body["messages_cut"]


async def test_arguments_that_are_no_json_are_told_as_they_came(telling):
    conversation = await attached(telling)
    odd = '{"title": "\\ud800\\u0000'
    fields = {"status": IntentStatus.REJECTED, "arguments": odd, "at": NOW}
    await telling.write([called(conversation, id=uuid7(), **fields)])
    async with planner(OK) as it, worker(telling, it.url) as events:
        await end(telling)
        await events.look()

    assert it.requests[0][2]["intents"][0]["parameters"] == odd


async def test_it_runs_beside_everything_else_and_outlives_a_database_that_is_away(telling):
    await attached(telling)
    async with planner(OK) as it, worker(telling, it.url) as events, events.running():
        await end(telling)
        async with asyncio.timeout(10):
            await it.arrived.wait()
