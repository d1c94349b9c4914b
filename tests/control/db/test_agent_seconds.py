"""How long a session's agents were connected, by each of its owners, on a real Postgres."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from control.db import usage
from control.db.conversations import create_conversation, erase_conversation
from control.db.sessions import create_session, get_session
from relay.core.records import AgentTime, Figures, SessionEnded
from relay.telemetry.histogram import SessionLatency
from tests.control.attaching import take
from tests.control.db.test_conversations import NOW, SESSION, USER, new_session


def ended(epoch, seconds, *, session_id=SESSION, reason="hung_up", at=NOW):
    return SessionEnded(
        session_id=session_id,
        reason=reason,
        detail="",
        browser_code=1000,
        agent_code=1000,
        figures=Figures(
            browser_frames=1,
            browser_bytes=2,
            agent_frames=3,
            agent_bytes=4,
            latency=SessionLatency(),
            agent_seconds=seconds,
        ),
        at=at,
        epoch=epoch,
    )


async def attached(store, **changes):
    """A session that a browser has attached to."""
    session_id = changes.get("id", SESSION)
    conversation = await create_conversation(store, uuid7(), user_id=USER)
    await create_session(store, new_session(conversation.id, **changes), resume=True)
    assert (await take(store, session_id, changes.get("ticket_hash", b"hash"))).taken
    return conversation.id


async def test_the_owners_of_a_session_are_summed_and_one_that_moved_on_too(store):
    await attached(store)
    taken = await take(store, SESSION, b"next", node_id=UUID(int=0xB), resume_hash=b"third")
    assert taken.epoch == 2
    assert (await get_session(store, SESSION, user_id=USER)).agent_seconds == 0.0

    batch = [ended(1, 10.5, reason="moved"), ended(2, 20.0)]
    await store.write(batch)
    await store.write(batch)  # and once more, after a crash
    await store.write([batch[0]])

    shown = await get_session(store, SESSION, user_id=USER)
    assert (shown.agent_seconds, shown.close_reason) == (30.5, "hung_up")


async def by_day(store):
    sql = "SELECT day::text, epoch, seconds, user_id FROM voice.usage ORDER BY day, epoch"
    async with store.reading() as connection:
        return [tuple(row) for row in await connection.fetch(sql)]


def time_of(seconds, at, *, epoch=1, session_id=SESSION):
    return AgentTime(session_id=session_id, epoch=epoch, seconds=seconds, at=at)


async def test_a_session_over_midnight_counts_for_both_days(store):
    await attached(store)
    evening = NOW.replace(hour=23, minute=59)
    async with store.transaction() as connection:
        await usage.keep(connection, [time_of(100.0, evening)])
        await usage.keep(connection, [time_of(90.0, evening)])  # late, and known
    late = evening + timedelta(minutes=2)
    await store.write([ended(1, 160.0, at=late)])
    async with store.transaction() as connection:
        await usage.keep(connection, [time_of(130.0, late)])

    assert await by_day(store) == [
        ("2026-01-02", 1, 100.0, USER),
        ("2026-01-03", 1, 60.0, USER),
    ]


async def test_what_was_used_outlives_the_conversation_and_comes_from_no_other(store):
    conversation_id = await attached(store)
    await store.write([ended(1, 10.0)])
    await erase_conversation(store, conversation_id, user_id=USER)
    async with store.transaction() as connection:
        await usage.keep(connection, [time_of(50.0, NOW), time_of(5.0, NOW, session_id=uuid7())])

    assert await by_day(store) == [("2026-01-02", 1, 10.0, USER)]


async def test_a_record_of_the_version_before_says_nothing_of_it(store):
    await attached(store)
    fields = msgspec.to_builtins(ended(1, 5.0))
    del fields["figures"]["agent_seconds"]

    await store.write([msgspec.convert(fields, SessionEnded)])

    assert (await get_session(store, SESSION, user_id=USER)).agent_seconds == 0.0
