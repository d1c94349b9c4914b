from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest

from relay import journal as journal_module
from relay.journal import BATCH, Journal, WriteFailed
from relay.metrics import Metrics
from relay.records import SessionBegan


def record(number):
    return SessionBegan(
        session_id=UUID(int=number), agent_request_id=None, at=datetime(2026, 1, 1, tzinfo=UTC)
    )


class Database:
    """A writer that can be down, stuck, or choke on one record."""

    def __init__(self):
        self.batches = []
        self.down = False
        self.poison = None
        self.tried = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def write(self, records):
        self.tried.set()
        await self.go_on.wait()
        if self.down:
            raise WriteFailed("the database is down")
        if self.poison in records:
            raise ValueError("cannot be written")
        self.batches.append(list(records))

    @property
    def written(self):
        return [r for batch in self.batches for r in batch]


@asynccontextmanager
async def journal_of(database, **more):
    metrics = Metrics()
    journal = Journal(database.write, metrics, **more)
    journal.metrics = metrics
    async with asyncio.timeout(5), journal.running(grace=2.0):
        yield journal


async def test_records_are_written_in_order_and_in_batches():
    database = Database()
    async with journal_of(database) as journal:
        for number in range(2 * BATCH + 1):
            assert journal.append(record(number))
        assert await journal.settled(2.0)

    assert database.written == [record(n) for n in range(2 * BATCH + 1)]
    assert [len(batch) for batch in database.batches] == [BATCH, BATCH, 1]


async def test_the_one_who_asked_hears_when_it_is_written():
    database = Database()
    database.go_on.clear()
    heard = []
    async with journal_of(database) as journal:
        journal.append(record(1), lambda: heard.append(1))
        await database.tried.wait()
        assert heard == []
        database.go_on.set()
        assert await journal.settled(2.0)

    assert heard == [1]


async def test_a_database_that_is_down_delays_and_loses_nothing(monkeypatch, caplog):
    monkeypatch.setattr(journal_module, "FIRST_RETRY", 0.001)
    database = Database()
    database.down = True
    with caplog.at_level(logging.ERROR):
        async with journal_of(database) as journal:
            journal.append(record(1))
            await database.tried.wait()
            journal.append(record(2))
            assert not await journal.settled(0.01)
            assert journal.failing
            database.down = False
            assert await journal.settled(2.0)

    assert database.written == [record(1), record(2)]
    assert caplog.text.count("journal_write_failed") == 1


async def test_one_record_that_cannot_be_written_does_not_stop_its_neighbours(caplog):
    database = Database()
    database.poison = record(2)
    async with journal_of(database) as journal:
        for number in (1, 2, 3):
            journal.append(record(number))
        await journal.settled(2.0)

    assert database.written == [record(1), record(3)]
    assert "journal_record_lost" in caplog.text
    assert b"relay_journal_lost_total 1.0" in journal.metrics.text()


async def test_a_full_journal_says_so_and_refuses_the_newest(caplog):
    database = Database()
    database.go_on.clear()
    async with journal_of(database, limit=2) as journal:
        assert journal.append(record(1))
        assert journal.append(record(2))
        assert not journal.append(record(3))
        database.go_on.set()

    assert database.written == [record(1), record(2)]
    assert "journal_full" in caplog.text


async def test_what_waits_is_written_before_it_stops():
    database = Database()
    async with journal_of(database) as journal:
        journal.append(record(1))

    assert database.written == [record(1)]


async def test_it_gives_up_after_its_grace_and_says_how_much(caplog):
    database = Database()
    database.down = True
    journal = Journal(database.write, Metrics())
    async with journal.running(grace=0.01):
        journal.append(record(1))

    assert "journal_abandoned records=1" in caplog.text


async def test_an_empty_journal_is_settled():
    async with journal_of(Database()) as journal:
        assert await journal.settled(0.0)
        assert repr(journal) == "<Journal waiting=0 failing=False>"


async def test_settled_waits_for_what_came_before_and_not_for_what_comes_after():
    database = Database()
    async with journal_of(database) as journal:
        journal.append(record(1))
        journal.append(record(2))

        assert await journal.settled(2.0)
        assert database.written == [record(1), record(2)]


@pytest.mark.parametrize("saved", [True, False])
async def test_two_may_wait_for_the_same_record(saved):
    database = Database()
    database.go_on.clear()
    heard = []
    async with journal_of(database) as journal:
        journal.append(record(1), (lambda: heard.append(1)) if saved else None)
        first = asyncio.create_task(journal.settled(2.0))
        second = asyncio.create_task(journal.settled(2.0))
        await database.tried.wait()
        database.go_on.set()

        assert await first
        assert await second
    assert heard == [1] * saved
