"""Grants against a real Postgres: once, in time, of the user."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from uuid_utils.compat import uuid7

from control.grant import Grant, Grants

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GRANT = Grant(user_id="user-1", conversation_id=None, timezone="Europe/Vienna")


@pytest.fixture
def grants(store):
    return Grants(store)


def later(seconds):
    return NOW + timedelta(seconds=seconds)


async def test_a_ticket_is_good_once(grants):
    assert await grants.add("ticket", GRANT, now=NOW, ttl=60)

    assert await grants.take("another", now=NOW) is None
    assert await grants.take("ticket", now=later(59)) == GRANT
    assert await grants.take("ticket", now=later(59)) is None


async def test_a_ticket_that_is_too_old_is_good_no_more(grants):
    await grants.add("ticket", GRANT, now=NOW, ttl=60)

    assert await grants.take("ticket", now=later(60)) is None
    assert await grants.take("ticket", now=NOW) is None  # and it is gone


async def test_the_next_grant_sweeps_away_what_nobody_came_for(grants, store):
    await grants.add("old", GRANT, now=NOW, ttl=60)
    await grants.add("ticket", GRANT, now=later(60), ttl=60)

    async with store.transaction() as connection:
        kept = await connection.fetch("SELECT ticket_hash, expires_at FROM voice.grants")
    (row,) = kept
    assert row["expires_at"] == later(120)
    assert b"ticket" not in row["ticket_hash"]  # only what was made of it


async def test_a_grant_is_for_a_conversation_of_the_user_and_goes_with_it(grants, store):
    theirs, ours = uuid7(), uuid7()
    await store.create_conversation(theirs, user_id="user-2")
    await store.create_conversation(ours, user_id="user-1")
    refused = Grant(user_id="user-1", conversation_id=theirs, timezone="UTC")
    given = Grant(user_id="user-1", conversation_id=ours, timezone="UTC")

    assert not await grants.add("one", refused, now=NOW, ttl=60)
    assert await grants.add("two", given, now=NOW, ttl=60)
    await store.erase_conversation(ours, user_id="user-1")
    assert await grants.take("one", now=NOW) is None
    assert await grants.take("two", now=NOW) is None
