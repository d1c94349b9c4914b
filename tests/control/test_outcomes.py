"""Facts win: whatever order the records of a call come in, on a real Postgres."""

from __future__ import annotations

import itertools
import random

import asyncpg
import msgspec
import pytest
from uuid_utils.compat import uuid7

from control.db.calls import list_outcomes, retry_call
from relay.protocol.relay_events import IntentStatus
from tests.control.db.test_conversations import called, converse

SUBMITTING, SUBMITTED = IntentStatus.SUBMITTING, IntentStatus.SUBMITTED
FAILED, REJECTED, CANCELLED = IntentStatus.FAILED, IntentStatus.REJECTED, IntentStatus.CANCELLED


def records(conversation, row, *statuses):
    """What several nodes have to say of one call: each has had its claim."""
    return [
        called(
            conversation,
            id=row,
            status=status,
            attempts=number,
            claim=number % 3,
            due_in=0.0 if status is SUBMITTING else None,
            result={"by": number} if status in (SUBMITTED, REJECTED) else None,
            response=status.value,
        )
        for number, status in enumerate(statuses)
    ]


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ((SUBMITTING, FAILED, SUBMITTED), SUBMITTED),
        ((SUBMITTING, CANCELLED, SUBMITTED), SUBMITTED),
        ((SUBMITTING, FAILED, REJECTED), REJECTED),
        ((SUBMITTING, SUBMITTED, REJECTED), SUBMITTED),
        ((FAILED, SUBMITTING, SUBMITTED, CANCELLED), SUBMITTED),
    ],
)
async def test_an_answer_of_the_orchestrator_wins_in_every_order_and_every_batch(
    store, database_url, statuses, outcome
):
    conversation = await converse(store, "hello")
    chance = random.Random(1)
    rows = []
    for order in itertools.permutations(range(len(statuses))):
        for together in (True, False):
            row = uuid7()
            rows.append(row)
            said = records(conversation, row, *statuses)
            told = [said[number] for number in order]
            cut = len(told) if together else chance.randrange(1, len(told))
            for batch in (told[:cut], told[cut:]):
                await store.write(batch)
            await store.write(said)  # and once more, after a crash
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetch("SELECT status, response, result FROM voice.intents")
    finally:
        await connection.close()

    assert len(found) == len(rows)
    assert {row["status"] for row in found} == {outcome.value}
    assert {row["response"] for row in found} == {outcome.value}


async def test_a_fact_that_comes_after_somebody_asked_again_counts(store):
    conversation = await converse(store, "hello")
    row = uuid7()
    accepted, failed, submitted = records(conversation, row, SUBMITTING, FAILED, SUBMITTED)
    failed = msgspec.structs.replace(failed, claim=0)
    await store.write([accepted, failed])
    retried = await retry_call(store, row, conversation, user_id="user-1", response="again")
    assert retried is not None
    assert retried[1]

    await store.write([submitted])

    (one,) = await list_outcomes(store, [row])
    assert (one.status, one.result) == (SUBMITTED, {"by": 2})
