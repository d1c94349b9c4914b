"""Grants against a real Postgres: once, in time (the database's), of the user."""

from __future__ import annotations

import pytest
from uuid_utils.compat import uuid7

from control.db import grants as sql
from control.db.conversations import create_conversation, erase_conversation
from control.db.grants import Grant
from relay.live.tickets import hash_ticket

GRANT = Grant(user_id="user-1", conversation_id=None, timezone="Europe/Vienna")


class Grants:
    """Each statement in a transaction of its own."""

    def __init__(self, store):
        self.store = store

    async def add(self, ticket, grant, *, ttl):
        async with self.store.transaction() as connection:
            return await sql.add(connection, hash_ticket(ticket), grant, ttl=ttl)

    async def take(self, ticket):
        async with self.store.transaction() as connection:
            return await sql.take(connection, hash_ticket(ticket))


@pytest.fixture
def grants(store):
    return Grants(store)


async def pass_by(store, seconds):
    """All grants are so much older."""
    async with store.transaction() as connection:
        await connection.execute(
            "UPDATE voice.grants SET expires_at = expires_at - make_interval(secs => $1)",
            float(seconds),
        )


async def test_a_ticket_is_good_once(grants, store):
    assert await grants.add("ticket", GRANT, ttl=600)

    assert await grants.take("another") is None
    await pass_by(store, 500)
    assert await grants.take("ticket") == GRANT
    assert await grants.take("ticket") is None


async def test_a_ticket_that_is_too_old_is_good_no_more(grants, store):
    await grants.add("ticket", GRANT, ttl=60)
    await pass_by(store, 60)

    assert await grants.take("ticket") is None
    await pass_by(store, -60)
    assert await grants.take("ticket") is None  # it is gone


async def test_the_next_grant_sweeps_away_what_nobody_came_for(grants, store):
    await grants.add("old", GRANT, ttl=60)
    await pass_by(store, 60)
    await grants.add("ticket", GRANT, ttl=60)

    async with store.transaction() as connection:
        kept = await connection.fetch("SELECT ticket_hash, expires_at > now() FROM voice.grants")
    ((ticket_hash, is_good),) = kept
    assert is_good
    assert b"ticket" not in ticket_hash  # only what was made of it


async def test_a_grant_is_for_a_conversation_of_the_user_and_goes_with_it(grants, store):
    theirs, ours = uuid7(), uuid7()
    await create_conversation(store, theirs, user_id="user-2")
    await create_conversation(store, ours, user_id="user-1")
    refused = Grant(user_id="user-1", conversation_id=theirs, timezone="UTC")
    given = Grant(user_id="user-1", conversation_id=ours, timezone="UTC")

    assert not await grants.add("one", refused, ttl=60)
    assert await grants.add("two", given, ttl=60)
    await erase_conversation(store, ours, user_id="user-1")
    assert await grants.take("one") is None
    assert await grants.take("two") is None
