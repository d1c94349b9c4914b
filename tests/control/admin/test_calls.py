"""Failed calls of all conversations: found, submitted again, given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from control.db.bulk_calls import Wanted, list_calls
from control.db.conversations import create_conversation
from relay.protocol.relay_events import IntentStatus
from tests.control.db.test_conversations import called

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def failed(program):
    """Five failed calls of two people, and one that went well: `[ids]`, oldest first."""
    made = []
    for number in range(6):
        conversation, user = uuid7(), "ada" if number % 2 else "ben"
        await create_conversation(program.store, conversation, user_id=user)
        status = IntentStatus.FAILED if number < 5 else IntentStatus.SUBMITTED
        call = called(
            conversation,
            id=uuid7(),
            status=status,
            at=NOW + timedelta(minutes=number),
            intent="GOAL" if number < 3 else "TASK",
            arguments='{"title": "a secret wish"}',
            error="the planner is away" if number < 2 else "HTTP 500",
        )
        await program.store.write([call])
        made.append(str(call.id))
    return made


async def shown(program, **query):
    return [i["id"] for i in (await program.ask("GET", "/intents", params=query))["items"]]


async def statuses(program):
    rows = await program.fetch("SELECT status FROM voice.intents ORDER BY created_at")
    return [row["status"] for row in rows]


async def test_failed_calls_are_found_by_what_is_known_of_them(program, failed):
    later = (NOW + timedelta(minutes=3)).isoformat()

    assert await shown(program) == failed[4::-1]
    assert await shown(program, intent="GOAL") == failed[2::-1]
    assert await shown(program, reason="PLANNER is") == failed[1::-1]
    assert await shown(program, since=later) == failed[4:2:-1]
    assert await shown(program, intent="TASK", reason="away") == []
    assert await shown(program, status="submitted") == failed[5:]


async def test_pages_of_failed_calls_have_each_once(program, failed):
    first = await program.ask("GET", "/intents", params={"limit": 3})
    rest = await program.ask("GET", "/intents", params={"cursor": first["next_cursor"]})

    assert [call["id"] for call in first["items"] + rest["items"]] == failed[4::-1]
    assert rest["next_cursor"] is None
    assert {call["user_id"] for call in first["items"]} == {"ada", "ben"}
    assert first["items"][-1]["last_error"] == "HTTP 500"


async def test_what_was_said_is_not_shown(program, failed):
    answer = await program.ask("GET", "/intents")

    assert "a secret wish" not in str(answer)


async def test_calls_are_begun_again_when_their_number_is_confirmed(program, failed):
    only = {"reason": "away"}

    counted = await program.ask("POST", "/intents/retry", json=only)
    before = await statuses(program)
    done = await program.ask("POST", "/intents/retry", json={**only, "confirm": 2})

    assert counted == {"matched": 2, "done": 0}
    assert before == ["failed"] * 5 + ["submitted"]
    assert done == {"matched": 2, "done": 2}
    rows = await program.fetch(
        "SELECT claims, last_error, next_attempt_at IS NOT NULL AS due FROM voice.intents"
        " WHERE id = ANY($1::uuid[])",
        [UUID(one) for one in failed[:2]],
    )
    assert all(row["claims"] >= 1 and row["due"] for row in rows)
    assert (await statuses(program))[2:] == ["failed"] * 3 + ["submitted"]
    [line] = (await program.ask("GET", "/audit"))["items"]
    assert (line["act"], line["outcome"]["calls"]) == ("intents.retry", 2)


async def test_calls_are_given_up_by_their_ids(program, failed):
    ids = [failed[0], failed[4], failed[5]]

    done = await program.ask("POST", "/intents/discard", json={"ids": ids, "confirm": 2})

    assert done == {"matched": 2, "done": 2}
    expected = ["cancelled", "failed", "failed", "failed", "cancelled", "submitted"]
    assert await statuses(program) == expected


async def test_another_number_than_the_confirmed_changes_nothing(program, failed):
    async with program.administrator() as client:
        answer = await client.post("/intents/retry", json={"confirm": 4})

    assert (answer.status_code, answer.json()["code"]) == (409, "count_changed")
    assert await statuses(program) == ["failed"] * 5 + ["submitted"]
    assert (await program.ask("GET", "/audit"))["items"] == []


@pytest.mark.parametrize(
    "query", [{"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}, {"status": "odd"},
              {"cursor": "x"}, {"since": "0001-01-01T00:00:00Z"}]
)  # fmt: skip
async def test_a_question_that_makes_no_sense_is_refused(program, query):
    async with program.administrator() as client:
        answer = await client.get("/intents", params=query)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


@pytest.mark.parametrize("body", [{"all": True}, {"ids": ["x"]}, {"confirm": -1}, []])
async def test_a_choice_that_makes_no_sense_is_refused(program, body):
    async with program.administrator() as client:
        answer = await client.post("/intents/discard", json=body)

    assert answer.status_code == 400


async def test_the_list_of_failed_calls_has_an_index(program, failed):
    async with program.store.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        rows = await connection.fetch(
            "EXPLAIN SELECT id FROM voice.intents AS i WHERE i.status = 'failed'"
            " ORDER BY updated_at DESC, id DESC LIMIT 50"
        )

    assert "intents_failed" in "\n".join(row[0] for row in rows)
    assert len(await list_calls(program.store, Wanted(), limit=50)) == 5
