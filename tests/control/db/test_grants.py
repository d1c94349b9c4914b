"""Grants against a real Postgres: once, in time (the database's), of the user."""

from __future__ import annotations

from uuid_utils.compat import uuid7

from control.db import grants
from control.db.conversations import create_conversation, erase_conversation
from control.db.grants import Grant

GRANT = Grant(user_id="user-1", conversation_id=None, timezone="Europe/Vienna")


async def pass_by(store, seconds):
    """All grants are so much older."""
    async with store.transaction() as connection:
        await connection.execute(
            "UPDATE voice.grants SET expires_at = expires_at - make_interval(secs => $1)",
            float(seconds),
        )


async def test_a_ticket_is_good_once(store):
    assert await grants.add(store, b"ticket", GRANT, ttl=600)

    assert await grants.take(store, b"another") is None
    await pass_by(store, 500)
    assert await grants.take(store, b"ticket") == GRANT
    assert await grants.take(store, b"ticket") is None


async def test_a_ticket_that_is_too_old_is_good_no_more(store):
    await grants.add(store, b"ticket", GRANT, ttl=60)
    await pass_by(store, 60)

    assert await grants.take(store, b"ticket") is None
    await pass_by(store, -60)
    assert await grants.take(store, b"ticket") is None  # it is gone


async def test_the_next_grant_sweeps_away_what_nobody_came_for(store):
    await grants.add(store, b"old", GRANT, ttl=60)
    await pass_by(store, 60)
    await grants.add(store, b"ticket", GRANT, ttl=60)

    async with store.transaction() as connection:
        kept = await connection.fetch("SELECT ticket_hash, expires_at > now() FROM voice.grants")
    assert [tuple(row) for row in kept] == [(b"ticket", True)]


async def test_a_grant_is_for_a_conversation_of_the_user_and_goes_with_it(store):
    theirs, ours = uuid7(), uuid7()
    await create_conversation(store, theirs, user_id="user-2")
    await create_conversation(store, ours, user_id="user-1")
    refused = Grant(user_id="user-1", conversation_id=theirs, timezone="UTC")
    given = Grant(user_id="user-1", conversation_id=ours, timezone="UTC")

    assert not await grants.add(store, b"one", refused, ttl=60)
    assert await grants.add(store, b"two", given, ttl=60)
    await erase_conversation(store, ours, user_id="user-1")
    assert await grants.take(store, b"one") is None
    assert await grants.take(store, b"two") is None
