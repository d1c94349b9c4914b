"""How long a transaction may take, as the server sees it."""

from __future__ import annotations

import pytest

from control.db.store import Store, StoreUnavailable


@pytest.fixture
def opened(database_url):
    async def open_store(parameters="", **limits):
        store = Store(database_url + parameters, **limits)
        await store.open()
        return store

    return open_store


async def work(store, seconds):
    """Short statements, for so long in all."""
    async with store.transaction() as connection:
        for _ in range(round(seconds * 10)):
            await connection.execute("SELECT pg_sleep(0.1)")


async def test_a_transaction_has_an_end_though_each_of_its_statements_is_short(opened):
    """As of a process that froze in the middle of one: nobody can tell it from a slow one."""
    store = await opened(statement_seconds=0.3)
    known = "SELECT current_setting('transaction_timeout', true)"
    try:
        async with store.transaction() as connection:
            if await connection.fetchval(known) is None:
                pytest.skip("PostgreSQL before 17 knows no end of a transaction")
        with pytest.raises(StoreUnavailable):
            await work(store, 10.0)
    finally:
        await store.close()


async def test_only_what_is_soon_said_again_is_not_waited_for(opened):
    store = await opened("&synchronous_commit=on")
    found = []
    try:
        for durable in (True, False, True):
            async with store.transaction(durable=durable) as connection:
                found.append(await connection.fetchval("SHOW synchronous_commit"))
    finally:
        await store.close()

    assert found == ["on", "off", "on"]


async def test_a_shorter_limit_of_the_database_stays(opened):
    limits = "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"
    store = await opened("&statement_timeout=700")
    try:
        async with store.transaction() as connection:
            found = [await connection.fetchval(f"SHOW {name}") for name in limits]
    finally:
        await store.close()

    assert found == ["700ms", "8s", "5s"]
