"""The outbox on a real Postgres, with real planners over HTTP and processes that are really killed.

Time passes by moving a row's `next_attempt_at` or `accepted_at`: nothing here sleeps.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
from uuid_utils.compat import uuid7

from config.intents import Registry
from config.loader import load
from control.db.calls import claim_calls, retry_call
from control.db.conversations import erase_conversation
from control.db.migrate import load_migrations, migrate
from control.db.store import Store
from control.dev import orchestrator as local_orchestrator
from control.outbox.circuit_breaker import FAILURES, FIRST_REST, State
from control.outbox.orchestrator_client import Orchestrator
from control.outbox.worker import AT_ONCE, CONFLICTS, YOUNG, OutboxWorker
from relay.core.records import CallDecided, IntentCalled
from relay.functions.executor import LEASE_MARGIN
from relay.functions.submission import CARRIED_OUT, UNCERTAIN
from relay.journal.journal import Journal
from relay.protocol.relay_events import IntentStatus
from relay.supervisor import Contained
from relay.telemetry.metrics import Metrics
from tests.control.db.test_conversations import NOW, USER, called, converse
from tests.control.outbox.test_orchestrator_client import answer, planner

ROOT = Path(__file__).parents[3]
REGISTRY = load(ROOT / "config", {}).registry
AT_MOST_ONCE = Registry(msgspec.structs.replace(i, retry=False) for i in REGISTRY.intents)
ARGUMENTS = '{"title": "run", "deadline": "none"}'
HOURS = 24.0


class Ear:
    """Who waits for saved calls, for want of Functions."""

    def __init__(self):
        self.awaited = []
        self.heard = []
        self.told = asyncio.Event()
        self.decided = asyncio.Event()

    def settled(self, row_id, status, result, content, *, taken_back):
        if status is IntentStatus.SUBMITTING:
            return
        self.awaited.remove(row_id)
        self.heard.append((row_id, status, result, content))
        self.told.set()


class Counting(Contained):
    started = 0

    def start(self, work, *, name):
        self.started += 1
        return super().start(work, name=name)


async def sweep(delivery):
    """One round; how many calls were delivered."""
    tasks = Counting("delivery call", print)
    await delivery.look(tasks)
    if tasks.running:
        await asyncio.wait(tasks.running)
    return tasks.started


class Desk:
    """A delivery with its journal; `sweep` does one round and waits until it is in Postgres."""

    def __init__(self, delivery, journal, orchestrator, ear, metrics):
        self.delivery = delivery
        self.journal = journal
        self.orchestrator = orchestrator
        self.ear = ear
        self.metrics = metrics
        self.now = 0.0

    async def sweep(self):
        count = await sweep(self.delivery)
        assert await self.journal.settled(5)
        return count


@pytest.fixture
def outbox(store, tmp_path):
    @asynccontextmanager
    async def working(url, *, registry=REGISTRY, hours=HOURS, jitter=0.5, store=store):
        metrics = Metrics()
        journal = Journal(store.write, metrics, tmp_path / "journal")
        ear = Ear()
        async with httpx.AsyncClient(trust_env=False) as client, journal.running(grace=2.0):
            desk: Desk
            orchestrator = Orchestrator(url, None, client, clock=lambda: desk.now)
            delivery = OutboxWorker(
                store,
                journal,
                lambda: registry,
                metrics,
                planner=orchestrator,
                listener=ear,
                max_age=hours * 3600,
                jitter=lambda: jitter,
            )
            desk = Desk(delivery, journal, orchestrator, ear, metrics)
            yield desk

    return working


@pytest.fixture
async def sql(database_url):
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def accept(store, count=1, *, due_in=0.0, in_doubt=False, conversation=None, **changes):
    """Calls that were accepted and are due; their rows."""
    conversation = conversation or await converse(store, "hello")
    rows = [uuid7() for _ in range(count)]
    await store.write(
        [
            called(
                conversation,
                id=row,
                call_id=f"call_{row}",
                due_in=due_in,
                in_doubt=in_doubt,
                **({"arguments": ARGUMENTS} | changes),
            )
            for row in rows
        ]
    )
    if "at" not in changes:
        await move(store, "accepted_at = now()")
    return rows


async def move(store, what):
    async with store.transaction() as connection:
        await connection.execute(f"UPDATE voice.intents SET {what} WHERE status = 'submitting'")


async def come_due(store):
    """The lease or the pause of every open call is over."""
    await move(store, "next_attempt_at = now()")


async def status_of(sql, row):
    return await sql.fetchval("SELECT status FROM voice.intents WHERE id = $1", row)


async def get(sql, row):
    return await sql.fetchrow(
        "SELECT *, extract(epoch FROM next_attempt_at - now()) AS due_in"
        " FROM voice.intents WHERE id = $1",
        row,
    )


# --- one call ---------------------------------------------------------------------------------


async def test_a_call_that_is_due_is_submitted_with_its_key_and_its_user(outbox, store, sql):
    async with planner(answer(201, b'{"id": 7}')) as it, outbox(it.url) as desk:
        (row,) = await accept(store)

        assert await desk.sweep() == 1
        assert await desk.sweep() == 0

    first, headers, body = it.requests[0]
    assert first == "POST /goals HTTP/1.1"
    assert headers["idempotency-key"] == body["call_id"] == f"call_{row}"
    assert body["parameters"] == {"title": "run", "deadline": "none"}
    assert body["user_id"] == USER
    done = await get(sql, row)
    assert (done["status"], done["attempts"]) == ("submitted", 1)
    assert msgspec.json.decode(done["response"]) == {"status": "submitted", "result": {"id": 7}}
    assert 'status="submitted"} 1.0' in desk.metrics.text().decode()


async def test_the_key_is_the_row_and_what_was_accepted_before_keeps_the_old_one(outbox, store):
    """What may have been sent under one key is not sent under another."""
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        await accept(store, idempotency_key="row")
        (old,) = await accept(store, in_doubt=True)
        assert await desk.sweep() == 2

    keys = {headers["idempotency-key"]: body["call_id"] for _, headers, body in it.requests}
    assert keys == {"row": "row", f"call_{old}": f"call_{old}"}


async def test_nothing_is_claimed_while_our_own_journal_has_records_that_are_not_written(
    outbox, store, sql, monkeypatch
):
    monkeypatch.setattr("control.outbox.worker.SETTLE_SECONDS", 0.1)
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation)
    may_write = asyncio.Event()
    writes = store.write

    async def write(records):
        await may_write.wait()
        await writes(records)

    monkeypatch.setattr(store, "write", write)
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        desk.journal.append(record(row, conversation, IntentStatus.SUBMITTED))

        assert await sweep(desk.delivery) == 0
        may_write.set()
        assert await desk.sweep() == 0

    assert it.requests == []
    assert await status_of(sql, row) == "submitted"


async def test_a_call_is_left_alone_while_whoever_accepted_it_is_at_work(outbox, store):
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        await accept(store, due_in=10 + LEASE_MARGIN)

        assert await desk.sweep() == 0


async def test_a_call_that_reaches_postgres_late_is_not_overdue_because_of_it(outbox, store):
    """The record waited for the database; the call itself may still be on its way."""
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        await accept(store, due_in=25.0, at=NOW)  # the clock of the record is of long ago

        assert await desk.sweep() == 0


async def test_trouble_is_tried_again_later_and_later_until_it_goes_well(outbox, store, sql):
    down = [answer(503)] * 3
    async with planner(*down, answer(201, b"{}")) as it, outbox(it.url, jitter=1.0) as desk:
        (row,) = await accept(store)
        pauses = []
        for _ in range(3):
            await desk.sweep()
            waiting = await get(sql, row)
            pauses.append(round(waiting["due_in"]))
            assert waiting["last_error"].endswith("(status 503)")
            assert await desk.sweep() == 0
            await come_due(store)
        await desk.sweep()

    assert pauses == [1, 2, 4]
    done = await get(sql, row)
    assert (done["status"], done["attempts"], done["last_error"]) == ("submitted", 4, None)
    assert len({headers["idempotency-key"] for _, headers, _ in it.requests}) == 1


@pytest.mark.parametrize(("age", "due_in"), [(0, YOUNG), (60, 60), (3600, 300)])
async def test_a_call_waits_no_longer_than_it_is_old(outbox, store, sql, age, due_in):
    """It has many attempts behind it, of when somebody waited."""
    async with planner(answer(503)) as it, outbox(it.url, jitter=1.0) as desk:
        (row,) = await accept(store, attempts=9)
        await move(store, f"accepted_at = now() - make_interval(secs => {age})")
        await desk.sweep()

    assert float((await get(sql, row))["due_in"]) == pytest.approx(due_in, abs=5)


async def test_while_nothing_is_due_nothing_waits_for_the_journal(outbox, monkeypatch):
    async with outbox("http://127.0.0.1:9") as desk:
        asked = []
        monkeypatch.setattr(desk.journal, "settled", asked.append)

        assert await sweep(desk.delivery) == 0
        assert asked == []


async def test_retry_after_is_honoured(outbox, store, sql):
    async with planner(answer(429, Retry_After="120")) as it, outbox(it.url) as desk:
        (row,) = await accept(store)
        await desk.sweep()

    assert 100 < (await get(sql, row))["due_in"] <= 120


async def test_a_planner_that_is_down_for_a_while_gets_it_once_it_is_up(outbox, store, sql):
    async with planner(answer(201)) as gone:
        url = gone.url
    (row,) = await accept(store)
    async with outbox(url, registry=AT_MOST_ONCE) as desk:
        await desk.sweep()
    waiting = await get(sql, row)
    assert (waiting["status"], waiting["in_doubt"]) == ("submitting", False)
    await come_due(store)

    async with planner(answer(201)) as it, outbox(it.url, registry=AT_MOST_ONCE) as desk:
        await desk.sweep()

    assert await status_of(sql, row) == "submitted"
    assert len(it.requests) == 1


@pytest.mark.parametrize("said", [b"nonsense\r\n\r\n", b"", b"HTTP/1.1 200"])
async def test_a_planner_that_talks_nonsense_or_dies_is_asked_again(outbox, store, sql, said):
    async with planner(said, answer(200)) as it, outbox(it.url) as desk:
        (row,) = await accept(store)
        await desk.sweep()
        assert (await get(sql, row))["in_doubt"]
        await come_due(store)
        await desk.sweep()

    assert await status_of(sql, row) == "submitted"


async def test_a_slow_planner_is_given_up_and_asked_again(outbox, store, sql, monkeypatch):
    # For the second attempt, which is to be in time on a busy machine, too.
    monkeypatch.setattr("control.outbox.worker.ATTEMPT_SECONDS", 1.0)
    hasty = Registry(msgspec.structs.replace(i, timeout=1.0) for i in REGISTRY.intents)
    async with planner(None, answer(200)) as it, outbox(it.url, registry=hasty) as desk:
        (row,) = await accept(store)
        await desk.sweep()
        assert UNCERTAIN in (await get(sql, row))["last_error"]
        await come_due(store)
        await desk.sweep()

    assert await status_of(sql, row) == "submitted"


async def test_a_refusal_is_final(outbox, store, sql):
    async with planner(answer(404, b'{"detail": "no such task"}')) as it, outbox(it.url) as desk:
        (row,) = await accept(store)
        await desk.sweep()
        await come_due(store)
        assert await desk.sweep() == 0

    done = await get(sql, row)
    assert (done["status"], done["last_error"]) == ("rejected", "no such task")


async def test_a_409_means_wait_while_an_earlier_copy_may_be_at_work_but_not_for_ever(
    outbox, store, sql
):
    async with planner(answer(409)) as it, outbox(it.url) as desk:
        (row,) = await accept(store, in_doubt=True)
        for _ in range(CONFLICTS):
            desk.now += 1000.0  # the breaker's rest is not what this is about
            await desk.sweep()
            assert await status_of(sql, row) == "submitting"
            await come_due(store)
        desk.now += 1000.0
        await desk.sweep()

    assert await status_of(sql, row) == "rejected"


async def test_a_call_that_breaks_us_waits_and_does_not_stop_the_others(outbox, store, sql, caplog):
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        (broken,) = await accept(store, arguments="no { json")
        (fine,) = await accept(store)
        assert await desk.sweep() == 2

    assert [await status_of(sql, row) for row in (broken, fine)] == ["submitting", "submitted"]
    assert "delivery_broken" in caplog.text


# --- the end of patience ----------------------------------------------------------------------


async def test_a_call_that_is_too_old_is_not_sent_any_more(outbox, store, sql):
    async with planner(answer(201)) as it, outbox(it.url, hours=0.5) as desk:
        (row,) = await accept(store)
        await move(store, "accepted_at = now() - interval '31 minutes'")
        await desk.sweep()

    done = await get(sql, row)
    assert (done["status"], it.requests) == ("failed", [])
    assert done["last_error"] == "it could not be delivered within 0.5 hours"


async def test_trouble_is_final_when_the_next_attempt_would_be_too_late(outbox, store, sql):
    async with planner(answer(503, Retry_After="600")) as it, outbox(it.url, hours=0.5) as desk:
        (row,) = await accept(store)
        await move(store, "accepted_at = now() - interval '25 minutes'")
        await desk.sweep()

    assert await status_of(sql, row) == "failed"
    assert len(it.requests) == 1


async def test_a_doubt_is_final_when_the_intent_may_not_be_sent_twice(outbox, store, sql):
    async with planner(answer(201)) as it, outbox(it.url, registry=AT_MOST_ONCE) as desk:
        (row,) = await accept(store, in_doubt=True)  # its process died before the outcome
        await desk.sweep()

    done = await get(sql, row)
    assert (done["status"], done["last_error"], it.requests) == ("failed", UNCERTAIN, [])


async def test_an_intent_that_is_no_longer_offered_fails(outbox, store, sql):
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        (row,) = await accept(store, intent="GONE")
        await desk.sweep()

    assert await status_of(sql, row) == "failed"
    assert it.requests == []


async def test_nothing_is_sent_for_an_erased_conversation(outbox, store):
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        conversation = await converse(store, "hello")
        await accept(store, conversation=conversation)
        await erase_conversation(store, conversation, user_id=USER)

        assert await desk.sweep() == 0

    assert it.requests == []


# --- who may write what -----------------------------------------------------------------------


def record(row, conversation, status, **changes):
    return called(
        conversation,
        id=row,
        call_id=f"call_{row}",
        **({"arguments": ARGUMENTS, "status": status} | changes),
    )


async def test_an_outcome_that_comes_late_does_not_overwrite_a_final_one(outbox, store, sql):
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation)
    async with planner(answer(201, b'{"id": 1}')) as it, outbox(it.url) as desk:
        await desk.sweep()

    for status in (IntentStatus.FAILED, IntentStatus.REJECTED, IntentStatus.SUBMITTING):
        await store.write([record(row, conversation, status, attempts=9, claim=9, due_in=0.0)])

    done = await get(sql, row)
    assert (done["status"], done["attempts"]) == ("submitted", 1)


async def test_the_answer_to_the_direct_attempt_counts_although_the_row_was_claimed(store, sql):
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation)
    await claim_calls(store, 1, lease=60.0)

    await store.write([record(row, conversation, IntentStatus.SUBMITTED, result={"id": 1})])

    assert await status_of(sql, row) == "submitted"


@pytest.mark.parametrize("status", [IntentStatus.FAILED, IntentStatus.CANCELLED])
async def test_who_lost_a_call_may_not_give_it_up(store, sql, status):
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation)
    await claim_calls(store, 1, lease=60.0)

    await store.write([record(row, conversation, status)])

    assert await status_of(sql, row) == "submitting"


async def test_a_worker_that_slept_beyond_its_lease_does_not_move_the_next_ones(store, sql):
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation)
    (old,) = await claim_calls(store, 1, lease=60.0)
    await come_due(store)
    (new,) = await claim_calls(store, 1, lease=60.0)
    assert (old.claim, new.claim, old.in_doubt, new.in_doubt) == (1, 2, False, True)

    late = record(row, conversation, IntentStatus.SUBMITTING, claim=1, attempts=5, due_in=0.0)
    await store.write([late])

    assert (await get(sql, row))["due_in"] > 50


async def test_a_repeated_batch_does_not_undo_what_came_after_it(store, sql):
    conversation = await converse(store, "hello")
    row = uuid7()
    accepted = record(row, conversation, IntentStatus.SUBMITTING, due_in=25.0, in_doubt=True)
    saved = record(row, conversation, IntentStatus.SUBMITTING, attempts=3, due_in=900.0)
    await store.write([accepted, saved])

    await store.write([accepted])

    known = await get(sql, row)
    assert (known["attempts"], known["in_doubt"]) == (3, False)
    assert known["due_in"] > 800


async def test_the_outcome_may_reach_postgres_before_anything_else_of_the_call(store, sql):
    conversation = await converse(store, "hello")
    row = uuid7()

    await store.write([record(row, conversation, IntentStatus.SUBMITTED, attempts=1)])
    await store.write([record(row, conversation, IntentStatus.SUBMITTING, due_in=0.0)])

    assert await status_of(sql, row) == "submitted"
    assert await claim_calls(store, 5, lease=60.0) == []


async def test_a_clock_that_jumps_back_does_not_lose_an_outcome(store, sql):
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation)

    early = NOW.replace(year=2020)
    await store.write([record(row, conversation, IntentStatus.SUBMITTED, attempts=1, at=early)])

    assert await status_of(sql, row) == "submitted"


# --- what was taken back, and what waits --------------------------------------------------------


async def take_back(store, count=1, **changes):
    """Calls that were carried out and are to be undone."""
    conversation = await converse(store, "hello")
    rows = [uuid7() for _ in range(count)]
    for row in rows:
        await store.write(
            [
                record(row, conversation, IntentStatus.SUBMITTED, result={"id": 7}, **changes),
                CallDecided(
                    id=row, conversation_id=conversation, wanted="cancel", at=NOW, can_cancel=True
                ),
            ]
        )
    return rows


async def hurry(sql):
    await sql.execute("UPDATE voice.intents SET next_attempt_at = now()")


async def test_a_call_that_was_taken_back_is_undone_under_a_key_of_its_own(outbox, store, sql):
    async with planner(answer(503), answer(200, b"{}")) as it, outbox(it.url) as desk:
        (row,) = await take_back(store)
        assert await desk.sweep() == 1
        waiting = await get(sql, row)
        assert (waiting["status"], waiting["due_in"] > 0) == ("cancelling", True)
        await hurry(sql)
        assert await desk.sweep() == 1
        assert await desk.sweep() == 0

    assert [line for line, _, _ in it.requests] == ["POST /goals/cancel HTTP/1.1"] * 2
    (_, headers, body), _ = it.requests
    assert headers["idempotency-key"] == f"call_{row}-cancel"
    assert body["call_id"] == f"call_{row}"
    assert body["parameters"] == {"title": "run", "deadline": "none"}
    undone = await get(sql, row)
    assert (undone["status"], undone["taken_back"]) == ("cancelled", True)
    assert msgspec.json.decode(undone["result"]) == {"id": 7}
    assert 'deliveries_total{intent="GOAL",status="cancelled"} 1.0' in desk.metrics.text().decode()


@pytest.mark.parametrize("said", [answer(404, b'{"detail": "too late"}'), answer(302)])
async def test_a_call_that_cannot_be_undone_was_carried_out(outbox, store, sql, said):
    async with planner(said) as it, outbox(it.url) as desk:
        (row,) = await take_back(store)
        await desk.sweep()
        await hurry(sql)
        assert await desk.sweep() == 0

    kept = await get(sql, row)
    assert (kept["status"], kept["taken_back"]) == ("submitted", True)
    assert kept["response"] == CARRIED_OUT
    assert kept["last_error"]
    assert msgspec.json.decode(kept["result"]) == {"id": 7}


async def test_undoing_is_given_up_when_it_is_too_late(outbox, store, sql):
    # The next attempt would be too late.
    async with planner(answer(503, Retry_After=240)) as it, outbox(it.url, hours=1.0) as desk:
        old, late = await take_back(store, 2)
        await sql.execute(
            "UPDATE voice.intents SET accepted_at = now() - CASE id WHEN $1::uuid"
            " THEN interval '61 minutes' ELSE interval '58 minutes' END",
            old,
        )
        await desk.sweep()

    assert len(it.requests) == 1
    for row in (old, late):
        kept = await get(sql, row)
        assert (kept["status"], kept["taken_back"]) == ("submitted", True)


async def test_without_a_way_to_undo_it_it_was_carried_out(outbox, store, sql):
    registry = Registry(msgspec.structs.replace(i, cancel_path=None) for i in REGISTRY.intents)
    async with planner(answer(200)) as it, outbox(it.url, registry=registry) as desk:
        (row,) = await take_back(store)
        await desk.sweep()

    assert it.requests == []
    assert await status_of(sql, row) == "submitted"


async def test_a_doubtful_call_that_nobody_wants_any_more_is_not_sent_again(outbox, store, sql):
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        conversation = await converse(store, "hello")
        (row,) = await accept(store, conversation=conversation, in_doubt=True)
        await store.write(
            [CallDecided(id=row, conversation_id=conversation, wanted="cancel", at=NOW)]
        )
        await desk.sweep()

    assert it.requests == []
    given_up = await get(sql, row)
    assert (given_up["status"], given_up["last_error"]) == ("failed", UNCERTAIN)


@pytest.mark.parametrize(
    ("timeout", "status", "requests"), [("submit", "submitted", 1), ("cancel", "cancelled", 0)]
)
async def test_a_wait_that_is_over_ends_as_the_intent_says(
    outbox, store, sql, timeout, status, requests
):
    registry = Registry(
        msgspec.structs.replace(i, confirm_timeout=timeout) for i in REGISTRY.intents
    )
    async with planner(answer(201)) as it, outbox(it.url, registry=registry) as desk:
        (row,) = await accept(store, status=IntentStatus.AWAITING, due_in=30.0)
        assert await desk.sweep() == 0
        await hurry(sql)
        assert await desk.sweep() == requests

    assert len(it.requests) == requests
    assert await status_of(sql, row) == status


async def test_a_wait_ends_while_the_planner_is_left_alone(outbox, store, sql):
    async with planner(answer(500)) as it, outbox(it.url) as desk:
        await accept(store, FAILURES)
        await desk.sweep()
        assert desk.orchestrator.state is State.OPEN
        (row,) = await accept(store, status=IntentStatus.AWAITING)
        await desk.sweep()

    assert await status_of(sql, row) == "cancelled"


async def test_a_decision_wakes_the_loop(outbox, store, sql, monkeypatch):
    monkeypatch.setattr("control.outbox.worker.POLL_SECONDS", 600.0)
    async with planner(answer(201)) as it, outbox(it.url) as desk:
        looked = asyncio.Event()
        looks = desk.delivery.look

        async def look(tasks):
            await looks(tasks)
            looked.set()

        monkeypatch.setattr(desk.delivery, "look", look)
        async with asyncio.timeout(20), desk.delivery.running(grace=1.0):
            await looked.wait()
            (row,) = await accept(store)
            desk.ear.awaited.append(row)
            while not desk.ear.heard:
                looked.clear()
                desk.ear.decided.set()
                await looked.wait()

    assert await status_of(sql, row) == "submitted"


# --- several workers --------------------------------------------------------------------------


async def test_several_workers_never_submit_the_same_call(outbox, store, database_url, tmp_path):
    rows = await accept(store, 60)
    others = [Store(database_url) for _ in range(3)]
    async with planner(answer(201)) as it:
        async with outbox(it.url) as first:
            workers = [first.delivery]
            for other in others:
                await other.open()
                workers.append(
                    OutboxWorker(
                        other,
                        first.journal,
                        lambda: REGISTRY,
                        first.metrics,
                        planner=first.orchestrator,
                        listener=Ear(),
                        max_age=3600,
                    )
                )

            async def work(worker):
                while await sweep(worker):
                    pass

            async with asyncio.TaskGroup() as tasks:
                for worker in workers:
                    tasks.create_task(work(worker))
        for other in others:
            await other.close()

    keys = [headers["idempotency-key"] for _, headers, _ in it.requests]
    assert sorted(keys) == sorted(f"call_{row}" for row in rows)


async def test_a_row_that_another_transaction_holds_is_passed_over(store, sql):
    first, second = await accept(store, 2)
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("SELECT 1 FROM voice.intents WHERE id = $1 FOR UPDATE", first)

    claimed = await claim_calls(store, 10, lease=60.0)
    await transaction.rollback()

    assert [call.id for call in claimed] == [second]


async def test_a_claim_is_found_by_its_index_however_many_calls_there_were(store, sql):
    conversation = await converse(store, "hello")
    await sql.execute(
        """
        INSERT INTO voice.intents (id, conversation_id, session_id, call_id, after_seq, function,
                                   intent, arguments, status, created_at, updated_at)
        SELECT gen_random_uuid(), $1, $1, 'c', 0, 'f', 'GOAL', '{}', 'submitted', now(), now()
        FROM generate_series(1, 20000)
        """,
        conversation,
    )
    await sql.execute("ANALYZE voice.intents")

    plan = await sql.fetch(
        "EXPLAIN SELECT id FROM voice.intents WHERE status = 'submitting'"
        " AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT 8 FOR UPDATE SKIP LOCKED"
    )

    assert "intents_due" in "".join(line[0] for line in plan)


async def test_a_breaker_that_is_open_keeps_calls_in_the_outbox(outbox, store, sql):
    async with planner(*[answer(500)] * FAILURES, answer(201)) as it, outbox(it.url) as desk:
        rows = await accept(store, FAILURES)
        await desk.sweep()
        assert desk.orchestrator.state is State.OPEN
        await come_due(store)

        assert await desk.sweep() == 0
        desk.now = FIRST_REST
        assert await desk.sweep() == 1  # the probe
        assert await desk.sweep() == FAILURES - 1

    assert {await status_of(sql, row) for row in rows} == {"submitted"}


# --- the loop ---------------------------------------------------------------------------------


async def test_the_loop_delivers_more_than_goes_at_once_and_tells_who_waits(outbox, store, sql):
    rows = await accept(store, 3 * AT_ONCE)
    async with planner(answer(201, b'{"id": 7}')) as it, outbox(it.url, jitter=-0.5) as desk:
        desk.ear.awaited = [rows[0], uuid7()]
        async with desk.delivery.running(grace=2.0), asyncio.timeout(20):
            await desk.ear.told.wait()
            while len(it.requests) < len(rows):
                it.arrived.clear()
                await it.arrived.wait()

    ((row, status, result, content),) = desk.ear.heard
    assert (row, status, result) == (rows[0], IntentStatus.SUBMITTED, {"id": 7})
    assert msgspec.json.decode(content)["status"] == "submitted"
    assert len({headers["idempotency-key"] for _, headers, _ in it.requests}) == len(rows)
    assert "relay_outbox_waiting" in desk.metrics.text().decode()


async def test_what_is_on_its_way_when_we_stop_is_left_to_others_at_once(outbox, store, sql):
    async with planner(None) as it, outbox(it.url, jitter=-0.5) as desk:
        (row,) = await accept(store)
        async with desk.delivery.running(grace=0.01), asyncio.timeout(5):
            await it.arrived.wait()
        assert await desk.journal.settled(5)
        left = await get(sql, row)

    assert (left["status"], left["in_doubt"]) == ("submitting", True)
    assert left["due_in"] <= 0


class Away(Store):
    """A store whose database is not there, and that says when it was asked twice."""

    def __init__(self):
        super().__init__("postgresql://nobody@127.0.0.1:1/none")
        self.asked = 0
        self.twice = asyncio.Event()

    def reading(self):
        self.asked += 1
        if self.asked > 2:
            self.twice.set()
        return super().reading()


async def test_a_database_that_is_away_pauses_the_loop_and_is_said_once(outbox, caplog):
    away = Away()
    await away.open()
    async with (
        outbox("http://127.0.0.1:1", jitter=-0.5, store=away) as desk,
        desk.delivery.running(grace=0.0),
        asyncio.timeout(5),
    ):
        await away.twice.wait()
    await away.close()

    assert caplog.text.count("delivery_paused") == 1


# --- killed -----------------------------------------------------------------------------------

WORKER = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from uuid_utils.compat import uuid7
from config.agent import Audio
from config.loader import load
from config.settings import STAND_INS, from_environment
from control.outbox.worker import OutboxWorker
from control.outbox.orchestrator_client import connect
from control.db.store import Store
from relay.protocol import deepgram
from relay.transport.egress import Egress
from relay.functions.executor import Functions
from relay.journal.journal import Journal
from relay.telemetry.metrics import Metrics
from relay.core.admitted import Admitted

how, root, database, url, data, conversation = sys.argv[1:]

async def main():
    registry = load(Path(root) / "config", {}).registry
    store, metrics = Store(database), Metrics()
    await store.open()
    journal = Journal(store.write, metrics, Path(data))
    functions = Functions(journal, metrics)
    async with (
        connect(url, None, egress=Egress(from_environment(STAND_INS))) as orchestrator,
        journal.running(grace=5),
        functions.running(orchestrator.submit, grace=5),
        OutboxWorker(store, journal, lambda: registry, metrics, planner=orchestrator,
                 listener=functions,
                 max_age=3600).running(grace=5),
    ):
        if how == "call":
            admitted = Admitted(session_id=UUID(int=7), conversation_id=UUID(conversation),
                              user_id="user-1", timezone="UTC", audio=Audio())
            function = deepgram.FunctionCall(
                id="call_killed", name="create_goal", client_side=True,
                arguments='{"title": "run", "deadline": "none"}')
            functions.start(registry, admitted, function, 1, lambda event: None, row_id=uuid7())
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Assassin:
    """A planner in front of the local one: it passes each request on and, once the answer is there,
    kills who asked instead of giving it to them; once."""

    def __init__(self, app):
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://planner"
        )
        self.victim = None
        self.requests = []
        self.url = ""

    async def serve_one(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append(headers["idempotency-key"])
            answered = await self.client.post(
                first.split()[1],
                content=body,
                headers={"Idempotency-Key": headers["idempotency-key"]},
            )
            assert answered.status_code == 201, answered.text
            if self.victim is not None:
                victim, self.victim = self.victim, None
                victim.send_signal(signal.SIGKILL)
                await victim.wait()
            else:
                writer.write(answer(answered.status_code, answered.content))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.mark.parametrize("how", ["call", "delivery"])
async def test_a_process_killed_between_the_answer_and_its_note_doubles_nothing(
    outbox, store, sql, database_url, tmp_path, how
):
    app = local_orchestrator.create_app(database_url)
    conversation = await converse(store, "hello")
    if how == "delivery":
        await accept(store, conversation=conversation)
    async with app.lifespan():
        it = Assassin(app)
        server = await asyncio.start_server(it.serve_one, "127.0.0.1", 0)
        it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, asyncio.timeout(30):
            worker = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", WORKER, how, str(ROOT), database_url, it.url),
                *(str(tmp_path / "journal"), str(conversation)),
                cwd=ROOT,
                env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            )
            it.victim = worker
            assert await worker.wait() == -signal.SIGKILL

            async with outbox(it.url) as desk:  # on the same directory: it finds the dead one's
                assert await desk.journal.settled(10)
                (row,) = await sql.fetch("SELECT id, status, in_doubt FROM voice.intents")
                assert (row["status"], row["in_doubt"]) == ("submitting", True)
                await come_due(store)  # the lease of the dead one runs out
                assert await desk.sweep() == 1
        await it.client.aclose()

    assert await status_of(sql, row["id"]) == "submitted"
    assert len(it.requests) == 2
    assert len(set(it.requests)) == 1
    assert await sql.fetchval("SELECT count(*) FROM local_orchestrator.goals") == 1


# --- failed for good, and again -----------------------------------------------------------------


async def fail(store, row, conversation):
    await store.write([record(row, conversation, IntentStatus.FAILED, attempts=3, error="gone")])


async def test_a_failed_call_is_submitted_again_with_one_call(outbox, store, sql):
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation, in_doubt=True)
    await fail(store, row, conversation)

    retried = await retry_call(store, row, conversation, user_id=USER, response="saved")
    again = await retry_call(store, row, conversation, user_id=USER, response="saved")

    assert retried is not None
    call, was_failed = retried
    assert was_failed
    assert (call.status, call.attempts, call.last_error) == (IntentStatus.SUBMITTING, 0, None)
    assert call.next_attempt_at is not None
    assert again is not None
    assert again[1] is False
    async with (
        planner(answer(201)) as it,
        outbox(it.url, registry=AT_MOST_ONCE) as desk,  # the user has said that it may be sent
    ):
        await desk.sweep()
    assert await status_of(sql, row) == "submitted"


async def test_a_failure_that_is_written_again_does_not_stop_a_retry(store, sql):
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation)
    await fail(store, row, conversation)
    await retry_call(store, row, conversation, user_id=USER, response="saved")

    await fail(store, row, conversation)

    assert await status_of(sql, row) == "submitting"


async def test_a_call_of_another_user_or_conversation_is_not_there(store):
    conversation = await converse(store, "hello")
    (row,) = await accept(store, conversation=conversation)

    for where, who in ((conversation, "other"), (UUID(int=5), USER)):
        assert await retry_call(store, row, where, user_id=who, response="saved") is None


def test_a_record_without_the_outboxs_fields_can_still_be_read():
    """A journal of the version before is on disk."""
    old = msgspec.to_builtins(called(UUID(int=1), id=UUID(int=2)))
    for field in ("due_in", "in_doubt", "error", "claim"):
        del old[field]

    assert msgspec.convert(old, IntentCalled).claim == 0


async def test_what_the_version_before_left_open_is_due_after_a_while_and_in_doubt(
    empty_database_url,
):
    log = logging.getLogger("tests")
    await migrate(empty_database_url, log=log, migrations=load_migrations()[:2])
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(
        """
        INSERT INTO voice.conversations (id, user_id) VALUES ($1, 'u')
        """,
        UUID(int=1),
    )
    insert = """
        INSERT INTO voice.intents (id, conversation_id, session_id, call_id, after_seq, function,
                                   intent, arguments, status, created_at, updated_at)
        VALUES ($1, $2, $2, 'c', 0, 'create_goal', 'GOAL', '{}', 'submitting', $3, $3)
    """
    await connection.execute(insert, UUID(int=2), UUID(int=1), NOW)

    await migrate(empty_database_url, log=log)
    await connection.execute(insert, UUID(int=3), UUID(int=1), NOW)  # it still runs
    rows = await connection.fetch(
        "SELECT in_doubt, next_attempt_at > now() AS later FROM voice.intents"
    )
    age = await connection.fetchval(
        "SELECT accepted_at FROM voice.intents WHERE id = $1", UUID(int=2)
    )
    await connection.close()

    assert [tuple(row) for row in rows] == [(True, True)] * 2
    assert age == NOW
