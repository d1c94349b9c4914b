from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from relay.core.records import SessionBegan
from relay.journal import adoption
from relay.journal import journal as journal_module
from relay.journal import segments as segments_module
from relay.journal import writer as writer_module
from relay.journal.condemned import NAME, restore
from relay.journal.directory import JournalDirectory
from relay.journal.journal import Journal, WriteFailed, WriteRefused
from relay.journal.segment import Segment, encode
from relay.journal.segments import Segments
from relay.journal.writer import BATCH
from relay.telemetry.metrics import Metrics
from tests.disk import files_with


def record(number):
    return SessionBegan(
        session_id=UUID(int=number), agent_request_id=None, at=datetime(2026, 1, 1, tzinfo=UTC)
    )


class Database:
    """A writer that can be down, stuck, or choke on one record."""

    def __init__(self):
        self.batches = []
        self.attempts = []
        self.down = False
        self.error = WriteFailed("the database is down")
        self.poison = None
        self.tried = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def write(self, records):
        self.attempts.append(list(records))
        self.tried.set()
        await self.go_on.wait()
        if self.down:
            raise self.error
        if self.poison in records:
            raise WriteRefused("CheckViolationError 23514")
        self.batches.append(list(records))

    @property
    def written(self):
        return [r for batch in self.batches for r in batch]


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "data" / "journal"


@asynccontextmanager
async def journal_of(database, directory=None, *, grace=2.0, **more):
    with tempfile.TemporaryDirectory() as own:
        journal = Journal(database.write, Metrics(), directory or Path(own), **more)
        async with asyncio.timeout(30), journal.running(grace=grace):
            yield journal


async def leave(directory, *records):
    """What a process leaves behind whose database is down."""
    database = Database()
    database.down = True
    async with journal_of(database, directory, grace=0.0) as journal:
        for one in records:
            journal.append(one)


def figure(journal, name):
    (line,) = [x for x in journal._metrics.text().decode().splitlines() if x.startswith(f"{name} ")]
    return float(line.split()[1])


async def test_records_are_written_in_order_and_in_batches():
    database = Database()
    async with journal_of(database) as journal:
        for number in range(2 * BATCH + 1):
            assert journal.append(record(number))
        assert await journal.settled(20.0)

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
        assert await journal.settled(20.0)

    assert heard == [1]


async def test_a_database_that_is_down_delays_and_loses_nothing(monkeypatch, caplog):
    monkeypatch.setattr(writer_module, "FIRST_RETRY", 0.001)
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
            assert await journal.settled(20.0)

    assert database.written == [record(1), record(2)]
    assert caplog.text.count("journal_write_failed") == 1


def condemned_in(directory):
    return [json.loads(line) for line in (directory / NAME).read_text().splitlines()]


async def test_a_record_that_is_refused_alone_is_put_aside_and_its_neighbours_are_written(
    caplog, directory
):
    database = Database()
    database.poison = record(700)
    heard = []
    async with journal_of(database, directory) as journal:
        for number in range(1_000):
            journal.append(record(number), lambda number=number: heard.append(number))
        assert await journal.settled(20.0)
        assert figure(journal, "relay_journal_condemned_total") == 1.0
        assert figure(journal, "relay_journal_failing") == 0.0

    assert database.written == [record(n) for n in range(1_000) if n != 700]
    assert heard == [n for n in range(1_000) if n != 700]
    assert [record(700)] in database.attempts
    assert len(database.attempts) < 50, "not one by one"
    (kept,) = condemned_in(directory)
    assert kept["record"]["session_id"] == str(UUID(int=700))
    assert kept["reason"] == "CheckViolationError 23514"
    assert (directory / NAME).stat().st_mode & 0o077 == 0
    assert "journal_record_condemned kind=SessionBegan position=701" in caplog.text
    assert str(UUID(int=700)) not in caplog.text


async def test_nothing_is_condemned_while_the_database_is_away(monkeypatch, directory):
    monkeypatch.setattr(writer_module, "FIRST_RETRY", 0.001)
    database = Database()
    database.poison = record(2)
    write, away = database.write, [WriteFailed("away")] * 3

    async def write_or_fail(records):
        if len(records) == 1 and records[0] != record(0) and away:  # in the midst of looking
            assert not (directory / NAME).exists()
            raise away.pop()
        await write(records)

    database.write = write_or_fail
    async with journal_of(database, directory) as journal:
        for number in range(4):
            journal.append(record(number))
        assert await journal.settled(20.0)

    assert not away
    assert database.written == [record(0), record(1), record(3)]
    assert len(condemned_in(directory)) == 1


@pytest.mark.parametrize(
    "error", [KeyError("hello"), ValueError("hello"), RuntimeError("hello"), MemoryError("hello")]
)
async def test_what_nobody_foresaw_means_away_and_its_text_is_not_logged(
    monkeypatch, caplog, error
):
    monkeypatch.setattr(writer_module, "FIRST_RETRY", 0.001)
    database = Database()
    database.down, database.error = True, error
    async with journal_of(database) as journal:
        for number in range(4):
            journal.append(record(number))
        while len(database.attempts) < 5:
            database.tried.clear()
            await database.tried.wait()
        database.down = False
        assert await journal.settled(20.0)
        assert figure(journal, "relay_journal_lost_total") == 0.0

    assert database.written == [record(n) for n in range(4)]
    assert f"unforeseen {type(error).__name__} in write" in caplog.text
    assert "hello" not in caplog.text


async def test_a_batch_that_fails_is_tried_in_smaller_ones(monkeypatch):
    monkeypatch.setattr(writer_module, "FIRST_RETRY", 0.001)
    database = Database()
    write = database.write

    async def too_slow(records):
        database.down = len(records) > 100
        await write(records)

    database.write = too_slow
    async with journal_of(database) as journal:
        for number in range(500):
            journal.append(record(number))
        assert await journal.settled(20.0)

    assert database.written == [record(n) for n in range(500)]


async def test_that_it_fails_is_said_again_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(writer_module, "FIRST_RETRY", 0.001)
    monkeypatch.setattr(writer_module, "REPEAT_SECONDS", 0.0)
    database = Database()
    database.down = True
    async with journal_of(database) as journal:
        journal.append(record(1))
        while len(database.attempts) < 4:
            database.tried.clear()
            await database.tried.wait()
        assert journal.failing_seconds > 0
        database.down = False
        assert await journal.settled(20.0)
        assert journal.failing_seconds == 0

    assert "failures=3" in caplog.text
    assert caplog.text.count("journal_write_recovered") == 1


async def test_with_no_room_for_what_is_condemned_it_waits_and_drops_nothing(
    monkeypatch, caplog, directory
):
    monkeypatch.setattr(writer_module, "FIRST_RETRY", 0.001)
    database = Database()
    database.poison = record(1)
    async with journal_of(database, directory) as journal:
        (directory / NAME).symlink_to("nowhere/at all")  # no file can be made there
        journal.append(record(1))
        journal.append(record(2))
        while not journal.failing:
            database.tried.clear()
            await database.tried.wait()
        assert not await journal.settled(0.05)
        (directory / NAME).unlink()
        assert await journal.settled(20.0)

    assert database.written == [record(2)]
    assert len(condemned_in(directory)) == 1
    assert "journal_write_failed" in caplog.text


async def test_what_was_condemned_can_be_put_back(directory):
    database = Database()
    database.poison = record(1)
    async with journal_of(database, directory) as journal:
        journal.append(record(1))
        assert await journal.settled(20.0)
        database.poison = None  # somebody mended it
        assert await asyncio.to_thread(restore, directory / NAME) == 1
        assert await journal.settled(20.0)

    assert database.written == [record(1)]
    assert list(directory.iterdir()) == []


async def test_a_full_journal_says_so_and_refuses_the_newest(caplog, monkeypatch):
    database = Database()
    database.go_on.clear()
    size = len(encode(record(1)))
    monkeypatch.setattr(segments_module, "MEMORY_BYTES", 2 * size)
    async with journal_of(database, limit=0) as journal:
        assert journal.append(record(1))
        assert journal.append(record(2))
        assert not journal.append(record(3))
        assert figure(journal, "relay_journal_volatile") == 2.0
        database.go_on.set()

    assert database.written == [record(1), record(2)]
    assert "journal_full reason=" in caplog.text
    assert figure(journal, "relay_journal_lost_total") == 1.0


async def test_what_waits_is_written_before_it_stops():
    database = Database()
    async with journal_of(database) as journal:
        journal.append(record(1))

    assert database.written == [record(1)]


async def test_it_gives_up_after_its_grace_and_says_how_much(caplog, directory):
    database = Database()
    database.down = True
    async with journal_of(database, directory, grace=0.01) as journal:
        journal.append(record(1))

    assert "journal_left records=1" in caplog.text
    assert "journal_abandoned" not in caplog.text


async def test_what_was_left_is_written_by_the_next_one_and_removed(caplog, directory):
    left = [record(number) for number in range(BATCH + 1)]
    await leave(directory, *left)

    database = Database()
    async with journal_of(database, directory) as journal:
        journal.append(record(2 * BATCH))
        assert await journal.settled(20.0)

    assert [one for one in database.written if one != record(2 * BATCH)] == left
    assert record(2 * BATCH) in database.written
    assert figure(journal, "relay_journal_adopted_total") == BATCH + 1
    assert "journal_adopted" in caplog.text
    assert list(directory.iterdir()) == []


async def test_what_one_that_died_leaves_later_is_found_while_running(monkeypatch, directory):
    monkeypatch.setattr(adoption, "SWEEP_SECONDS", 0.01)
    database = Database()
    async with journal_of(database, directory):
        await leave(directory, record(1))
        async with asyncio.timeout(20):
            while not database.written:
                database.tried.clear()
                await database.tried.wait()

    assert database.written == [record(1)]


async def test_what_is_left_waits_for_the_database_and_delays_no_start(monkeypatch, directory):
    monkeypatch.setattr(writer_module, "FIRST_RETRY", 0.001)
    await leave(directory, record(1), record(2))

    database = Database()
    database.down = True
    async with journal_of(database, directory) as journal:
        await database.tried.wait()
        assert not await journal.settled(0.01)
        assert figure(journal, "relay_journal_waiting") == 2.0
        assert figure(journal, "relay_journal_failing") == 1.0
        database.down = False
        assert await journal.settled(20.0)
        assert figure(journal, "relay_journal_waiting") == 0.0

    assert database.written == [record(1), record(2)]


async def test_what_a_living_one_has_is_not_touched(directory):
    theirs, ours = Database(), Database()
    theirs.down = True
    async with journal_of(theirs, directory, grace=0.0) as other:
        other.append(record(1))
        async with journal_of(ours, directory) as journal:
            assert await journal.settled(20.0)

    assert ours.written == []


async def test_two_on_one_directory_write_what_is_left_once(directory):
    left = [record(number) for number in range(3 * BATCH)]
    await leave(directory, *left)

    database = Database()
    async with (
        journal_of(database, directory) as one,
        journal_of(database, directory) as other,
    ):
        while len(database.written) < len(left):
            assert await one.settled(20.0)
            assert await other.settled(20.0)

    assert database.written == left


async def test_a_file_that_is_broken_is_put_aside_and_the_rest_is_written(caplog, directory):
    await leave(directory, record(1))
    (folder,) = directory.iterdir()
    (folder / "00000000.db").write_bytes(b"no database at all" * 100)

    database = Database()
    async with journal_of(database, directory) as journal:
        assert await journal.settled(20.0)

    assert database.written == [record(1)]
    assert [path.suffix for path in directory.iterdir()] == [".broken"]
    assert "journal_broken" in caplog.text


async def test_a_record_of_another_version_is_put_aside_alone_and_can_be_put_back(directory):
    new = b"\x81\xa4type\xa3New"
    folder = JournalDirectory.create(directory)
    segment = folder.new_segment()
    segment.extend([(1, encode(record(1))), (2, new), (3, encode(record(3)))])
    segment.close()
    folder.release()

    database = Database()
    async with journal_of(database, directory) as journal:
        assert await journal.settled(20.0)
        assert figure(journal, "relay_journal_lost_total") == 1.0

    assert database.written == [record(1), record(3)]
    assert [path.name for path in directory.iterdir()] == [NAME]

    restore(directory / NAME)
    (table,) = directory.glob("*/*.db")
    assert Segment(table).read(0, 9) == [(1, new)]


async def test_what_cannot_be_read_now_is_passed_over_and_tried_again(caplog, directory):
    await leave(directory, record(1))
    (table,) = directory.glob("*/*.db")
    body = table.read_bytes()
    table.unlink()
    table.mkdir()

    database = Database()
    async with journal_of(database, directory) as journal:
        assert await journal.settled(20.0)
        assert await journal.settled(20.0)
        assert database.written == []
        assert caplog.text.count("journal_unreadable") == 1
        table.rmdir()
        table.write_bytes(body)
        assert await journal.settled(20.0)

    assert database.written == [record(1)]


async def test_its_own_file_broken_loses_what_was_in_it_loudly_and_goes_on(caplog, directory):
    database = Database()
    database.go_on.clear()
    heard = []
    async with journal_of(database, directory) as journal:
        journal.append(record(1))
        await database.tried.wait()  # it has begun to read
        journal.append(record(2), lambda: heard.append(2))
        for number in range(4, BATCH + 4):  # so many that it has to read the file
            journal.append(record(number))
        for log in directory.glob("*/00000001.db-wal"):  # a spare may be ready: it stays whole
            log.write_bytes(b"x" * log.stat().st_size)
        for table in directory.glob("*/00000001.db"):
            table.write_bytes(b"x" * 4096)
        database.go_on.set()
        assert await journal.settled(20.0)
        journal.append(record(3), lambda: heard.append(3))
        assert await journal.settled(20.0)

    assert database.written[-1] == record(3)
    assert 3 in heard
    assert record(2) not in database.written
    assert 2 not in heard
    assert "journal_records_lost" in caplog.text


async def test_what_was_just_appended_is_written_without_reading_its_file(monkeypatch, directory):
    async def read(segments, limit):
        assert segments.last == segments.written, "it was remembered"
        return []

    monkeypatch.setattr(Segments, "read", read)
    database = Database()
    async with journal_of(database, directory) as journal:
        for number in range(3):
            journal.append(record(number))
        assert await journal.settled(20.0)
        journal.append(record(3))
        assert await journal.settled(20.0)

    assert database.written == [record(n) for n in range(4)]


async def test_what_is_in_postgres_does_not_stay_on_disk(monkeypatch, directory):
    monkeypatch.setattr(journal_module, "TIDY_SECONDS", 0.01)
    database = Database()
    async with journal_of(database, directory) as journal:
        journal.append(record(1))
        assert await journal.settled(20.0)
        while files_with(directory, str(record(1).session_id)):
            assert await journal.settled(20.0)  # a way through the thread that deletes


async def test_without_a_disk_it_keeps_records_in_memory_and_says_so(
    monkeypatch, caplog, directory
):
    monkeypatch.setattr(journal_module, "DISK_RETRY_SECONDS", 0.01)
    directory.parent.mkdir()
    directory.write_text("not a directory")

    database = Database()
    database.go_on.clear()
    async with journal_of(database, directory) as journal:
        assert journal.append(record(1))
        assert figure(journal, "relay_journal_volatile") == 1.0
        directory.unlink()
        async with asyncio.timeout(20):
            while figure(journal, "relay_journal_volatile"):
                assert not await journal.settled(0.01)
        assert figure(journal, "relay_journal_volatile") == 0.0
        assert journal.append(record(2))
        database.go_on.set()

    assert database.written == [record(1), record(2)]
    assert "journal_disk_failed" in caplog.text
    assert "journal_disk_recovered records=1" in caplog.text


async def test_what_is_in_memory_only_when_it_stops_is_lost_loudly(caplog, directory):
    directory.parent.mkdir()
    directory.write_text("not a directory")
    database = Database()
    database.down = True
    async with journal_of(database, directory, grace=0.0) as journal:
        journal.append(record(1))

    assert "journal_abandoned records=1" in caplog.text
    assert figure(journal, "relay_journal_lost_total") == 1.0


async def test_what_comes_after_it_stopped_is_refused(caplog):
    async with journal_of(Database()) as journal:
        pass

    assert not journal.append(record(1))
    assert "the journal is closed" in caplog.text


async def test_only_so_many_may_wait_to_hear(monkeypatch):
    monkeypatch.setattr(journal_module, "CALLBACKS_MAX", 1)
    database = Database()
    heard = []
    async with journal_of(database) as journal:
        journal.append(record(1), lambda: heard.append(1))
        journal.append(record(2), lambda: heard.append(2))
        assert await journal.settled(20.0)

    assert heard == [1]
    assert database.written == [record(1), record(2)]


async def test_a_hurry_is_over_when_it_was_served(monkeypatch):
    monkeypatch.setattr(journal_module, "GATHER_SECONDS", 60.0)
    database = Database()
    database.go_on.clear()
    async with journal_of(database) as journal:
        journal.append(record(1))
        first = asyncio.create_task(journal.settled(20.0))
        await database.tried.wait()
        journal.append(record(2))  # nobody waits for this one
        database.tried.clear()
        database.go_on.set()
        assert await first
        with pytest.raises(TimeoutError):  # it gathers again, for the minute set above
            async with asyncio.timeout(0.3):
                await database.tried.wait()
        journal.append(record(3))
        assert await journal.settled(20.0)

    assert database.batches == [[record(1)], [record(2), record(3)]]


async def test_what_another_process_waits_for_is_not_gathered(monkeypatch):
    monkeypatch.setattr(journal_module, "GATHER_SECONDS", 60.0)
    database = Database()
    async with asyncio.timeout(30), journal_of(database) as journal:
        written = asyncio.Event()
        journal.append(record(1))
        journal.append(record(2), written.set, in_a_hurry=True)
        await written.wait()
        database.tried.clear()
        journal.append(record(3))
        with pytest.raises(TimeoutError):  # the hurry is over
            async with asyncio.timeout(0.3):
                await database.tried.wait()

        assert database.batches == [[record(1), record(2)]]


async def test_an_empty_journal_is_settled():
    async with journal_of(Database()) as journal:
        assert await journal.settled(20.0)
        assert repr(journal) == "<Journal waiting=0 failing=False>"


async def test_settled_waits_for_what_came_before_and_not_for_what_comes_after():
    database = Database()
    async with journal_of(database) as journal:
        journal.append(record(1))
        journal.append(record(2))

        assert await journal.settled(20.0)
        assert database.written == [record(1), record(2)]


@pytest.mark.parametrize("saved", [True, False])
async def test_two_may_wait_for_the_same_record(saved):
    database = Database()
    database.go_on.clear()
    heard = []
    async with journal_of(database) as journal:
        journal.append(record(1), (lambda: heard.append(1)) if saved else None)
        first = asyncio.create_task(journal.settled(20.0))
        second = asyncio.create_task(journal.settled(20.0))
        await database.tried.wait()
        database.go_on.set()

        assert await first
        assert await second
    assert heard == [1] * saved


async def test_a_busy_journal_gives_up_its_files_when_it_is_asked(directory, monkeypatch):
    monkeypatch.setattr(journal_module, "TIDY_SECONDS", 100)  # not by itself
    database = Database()
    async with journal_of(database, directory) as journal:
        journal.append(record(0xABCDEF))
        text = str(record(0xABCDEF).session_id)
        busy = True

        async def talk():
            number = 1
            while busy:  # there is always something that is not written yet
                journal.append(record(number))
                number += 1
                await asyncio.sleep(0.001)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(talk())
            assert files_with(directory, text) != []
            assert await journal.cleared(20)
            assert files_with(directory, text) == []
            busy = False


async def test_a_journal_is_not_clear_while_the_database_is_away(directory):
    database = Database()
    database.down = True
    async with journal_of(database, directory, grace=0.1) as journal:
        journal.append(record(1))

        assert not await journal.cleared(0.2)
        assert journal.figures.waiting == 1
        assert journal.figures.failing_seconds > 0


async def test_an_empty_journal_is_clear(directory):
    async with journal_of(Database(), directory) as journal:
        assert await journal.cleared(5)
        assert journal.figures.waiting == journal.figures.volatile == 0
