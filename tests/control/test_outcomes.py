"""Facts win: whatever order the records of a call come in, on a real Postgres."""

from __future__ import annotations

import itertools
import random

import asyncpg
import msgspec
import pytest
from uuid_utils.compat import uuid7

from control.db.calls import claim_calls, end_waits, list_named, retry_call
from relay.core.records import CallDecided
from relay.protocol.relay_events import IntentStatus
from tests.control.db.test_conversations import NOW, called, converse

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

    (one,) = await list_named(store, [row])
    assert (one.status, one.result) == (SUBMITTED, {"by": 2})


# --- decisions --------------------------------------------------------------------------------

AWAITING, CANCELLING = IntentStatus.AWAITING, IntentStatus.CANCELLING


class Story:
    """What happens to one call, step by step, each in a batch of its own or all in one."""

    def __init__(self, store, conversation):
        self.store = store
        self.conversation = conversation
        self.row = uuid7()
        self.claim = 0

    def record(self, word):
        """`confirm`, `cancel` (`cancel+`: it can be undone), or a status, with `?` in doubt, with
        `!` by who has the newest claim."""
        if word.rstrip("+") in ("confirm", "cancel"):
            return CallDecided(
                id=self.row,
                conversation_id=self.conversation,
                wanted="submit" if word == "confirm" else "cancel",
                at=NOW,
                can_cancel=word.endswith("+"),
                response="declined",
            )
        status = IntentStatus(word.rstrip("?!"))
        return called(
            self.conversation,
            id=self.row,
            status=status,
            attempts=9 if word.endswith("!") else 0,
            claim=self.claim if word.endswith("!") else 0,
            in_doubt=word.endswith("?"),
            due_in=60.0 if status in (SUBMITTING, AWAITING, CANCELLING) else None,
            result={"id": 7} if status is SUBMITTED else None,
            response=None if status in (CANCELLING, CANCELLED) else status.value,
        )

    async def play(self, *words):
        for word in words:
            if word == "claimed":
                await self.hurry()
                claimed = await claim_calls(self.store, 9, lease=60.0)
                self.claim = next(one.claim for one in claimed if one.id == self.row)
            else:
                record = self.record(word)
                await self.store.write([record])
                await self.store.write([record])  # and once more, after a crash
        (one,) = await list_named(self.store, [self.row])
        return one

    async def hurry(self):
        async with self.store.transaction() as connection:
            await connection.execute("UPDATE voice.intents SET next_attempt_at = now()")


@pytest.mark.parametrize(
    ("words", "status", "taken_back"),
    [
        # the user decides, once, while it waits
        (("awaiting", "confirm"), SUBMITTING, False),
        (("awaiting", "cancel"), CANCELLED, True),
        (("awaiting", "confirm", "cancel"), CANCELLED, True),
        (("awaiting", "cancel", "confirm"), CANCELLED, True),
        (("awaiting", "confirm", "awaiting"), SUBMITTING, False),
        (("awaiting", "confirm", "claimed", "submitted!"), SUBMITTED, False),
        (("submitting", "confirm"), SUBMITTING, False),
        (("submitted", "confirm"), SUBMITTED, False),
        # the model takes it back: before it was sent
        (("submitting", "cancel"), CANCELLED, True),
        (("submitting", "cancel+"), CANCELLED, True),
        (("submitting", "cancel", "failed", "submitting"), CANCELLED, True),
        # when it may have arrived
        (("submitting?", "cancel"), SUBMITTING, True),
        (("submitting?", "cancel+"), CANCELLING, True),
        (("submitting", "claimed", "cancel+"), CANCELLING, True),
        (("submitting?", "cancel", "submitted"), SUBMITTED, True),
        (("submitting?", "cancel", "failed"), SUBMITTING, True),
        # when it was carried out
        (("submitted", "cancel"), SUBMITTED, True),
        (("submitted", "cancel+"), CANCELLING, True),
        # what came of it is known: a late word of that does not count against undoing it
        (("submitting?", "cancel+", "submitted"), CANCELLING, True),
        (("submitting?", "cancel+", "rejected"), CANCELLING, True),
        (("submitting?", "cancel+", "failed", "submitting?"), CANCELLING, True),
        (("submitted", "cancel+", "claimed", "cancelled!"), CANCELLED, True),
        (("submitted", "cancel+", "claimed", "cancelled!", "submitted"), CANCELLED, True),
        (("submitted", "cancel+", "claimed", "cancelled!", "rejected"), CANCELLED, True),
        (("submitted", "cancel+", "claimed", "cancelled!", "cancel+"), CANCELLED, True),
        # it cannot be undone, and is not tried again
        (("submitted", "cancel+", "claimed", "submitted!"), SUBMITTED, True),
        (("submitted", "cancel+", "claimed", "submitted!", "cancel+"), SUBMITTED, True),
        (("submitted", "cancel+", "claimed", "cancelling!"), CANCELLING, True),
        # an opinion gives way to a fact, as ever
        (("submitting", "cancelled", "submitted"), SUBMITTED, False),
        (("cancelled", "cancel+"), CANCELLED, False),
        (("rejected", "cancel+"), REJECTED, False),
        (("failed", "cancel+"), FAILED, True),
        (("failed", "cancel+", "submitted"), SUBMITTED, True),
    ],
)
async def test_a_decision_counts_as_far_as_the_call_has_not_come_further(
    store, words, status, taken_back
):
    story = Story(store, await converse(store, "hello"))

    one = await story.play(*words)

    assert (one.status, one.taken_back) == (status, taken_back)
    assert one.response != "declined" or status in (CANCELLED, CANCELLING)
    if status is CANCELLED and words[0] != "cancelled":
        assert one.response == "declined"
    if words[0] == "submitted" and status in (CANCELLED, CANCELLING):
        assert one.result == {"id": 7}, "what was made is known"


async def test_a_decision_in_the_same_batch_as_the_call_counts(store):
    story = Story(store, await converse(store, "hello"))
    await store.write([story.record(word) for word in ("submitting?", "submitted", "cancel+")])

    assert (await story.play()).status is CANCELLING


async def test_a_decision_in_another_conversation_counts_for_nothing(store):
    story = Story(store, await converse(store, "hello"))
    other = await converse(store, "hello")
    await story.play("awaiting")
    foreign = msgspec.structs.replace(story.record("confirm"), conversation_id=other)
    await store.write([foreign, msgspec.structs.replace(foreign, wanted="cancel")])

    assert (await story.play()).status is AWAITING


@pytest.mark.parametrize(("wanted", "status"), [(["GOAL"], SUBMITTING), ([], CANCELLED)])
async def test_a_wait_ends_once_as_its_intent_says(store, wanted, status):
    story = Story(store, await converse(store, "hello"))
    await story.play("awaiting")
    await end_waits(store, wanted, response="too late")
    assert (await story.play()).status is AWAITING, "it is not due"
    await story.hurry()

    await end_waits(store, wanted, response="too late")
    await end_waits(store, wanted, response="too late")
    one = await story.play("awaiting", "confirm")

    assert one.status is status
    assert one.response == (None if wanted else "too late")
