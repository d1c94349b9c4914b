"""segment.py, directory.py and segments.py: what is on disk, in order, and whose it is."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest

from relay.core.records import IntentCalled, MessageSaid
from relay.journal import segments as segments_module
from relay.journal.directory import JournalDirectory, measure, take_orphan
from relay.journal.segment import DiskFailed, Segment, SegmentBroken, decode, encode
from relay.journal.segments import Segments
from relay.protocol.relay_events import IntentStatus
from tests.disk import fill_up, mounted

AT = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


def said(seq, content="words"):
    return MessageSaid(
        id=UUID(int=seq),
        conversation_id=UUID(int=1),
        session_id=UUID(int=2),
        seq=seq,
        turn=seq,
        role="user",
        content=content,
        at=AT,
    )


def called(result):
    return IntentCalled(
        id=UUID(int=1),
        conversation_id=UUID(int=1),
        session_id=UUID(int=2),
        call_id="call",
        after_seq=1,
        function="create_goal",
        intent="GOAL",
        arguments="{}",
        status=IntentStatus.SUBMITTED,
        attempts=1,
        result=result,
        response="{}",
        at=AT,
    )


# --- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        said(1),
        said(1, "\0 nothing and 🦊"),
        called(None),
        called({"id": 7, "list": [1.5, True, "ü"]}),
        called({"id": 2**70}),
        called("\ud800"),
    ],
)
def test_a_record_comes_back_as_it_was(record):
    assert decode(encode(record)) == record


# --- a segment -----------------------------------------------------------------------------------


@pytest.fixture
def segment(tmp_path):
    segment = Segment.create(tmp_path / "1.db")
    yield segment
    segment.close()


def test_rows_are_read_in_order_and_from_where_one_stopped(segment):
    for position in (1, 2, 3):
        segment.append(position, encode(said(position)))

    assert segment.read(0, 2) == [(1, said(1)), (2, said(2))]
    assert segment.read(2, 2) == [(3, said(3))]
    assert segment.read(3, 2) == []
    assert segment.last == 3


def test_a_sealed_segment_is_smaller_and_has_the_same_rows(segment):
    for position in range(1, 1001):
        segment.append(position, encode(said(position, "words " * 30)))
    assert segment.read(0, 1) == [(1, said(1, "words " * 30))]
    counted, real = segment.bytes, sum(p.stat().st_size for p in segment.path.parent.iterdir())
    assert 0.8 < counted / real < 1.25

    segment.seal()

    assert segment.bytes < counted / 3
    assert len(segment.read(0, 2000)) == 1000


def test_many_rows_go_in_at_once_or_not_at_all(segment):
    segment.extend([(1, encode(said(1))), (2, encode(said(2)))])
    with pytest.raises(SegmentBroken):
        segment.extend([(3, b""), (3, b"")])

    assert [position for position, _ in segment.read(0, 10)] == [1, 2]
    assert segment.last == 2


def test_a_removed_segment_leaves_nothing(segment, tmp_path):
    segment.append(1, encode(said(1)))
    segment.read(0, 1)
    segment.remove()

    assert list(tmp_path.iterdir()) == []


def test_a_table_that_was_never_finished_is_empty(tmp_path):
    (tmp_path / "1.db").touch()
    segment = Segment(tmp_path / "1.db")

    assert segment.survey() == 0
    assert segment.read(0, 10) == []
    segment.remove()


def test_a_disk_that_cannot_do_wal_is_refused(monkeypatch, tmp_path):
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **more: real(":memory:", **more))

    with pytest.raises(DiskFailed, match="got journal mode memory"):
        Segment.create(tmp_path / "1.db")


def test_a_place_that_is_not_there_is_a_failing_disk(tmp_path):
    with pytest.raises(DiskFailed, match="unable to open"):
        Segment.create(tmp_path / "nowhere" / "1.db")


def test_an_append_never_waits_for_another_connection(segment):
    other = sqlite3.connect(segment.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(DiskFailed, match="locked"):
        segment.append(1, b"")
    other.close()


# --- a folder ------------------------------------------------------------------------------------


def test_a_folder_that_is_held_is_nobody_elses(tmp_path):
    folder = JournalDirectory.create(tmp_path)

    assert JournalDirectory.take(folder.path) is None
    assert take_orphan(tmp_path, set()) is None
    folder.new_segment().close()
    folder.release()
    taken = take_orphan(tmp_path, set())
    assert taken is not None
    assert repr(taken) == f"<JournalDirectory {folder.path.name}>"
    taken.release()


def test_a_folder_goes_when_it_is_released_empty(tmp_path):
    folder = JournalDirectory.create(tmp_path)
    (folder.path / "00000001.db-wal").touch()  # of a table whose removal was cut short
    folder.release()

    assert list(tmp_path.iterdir()) == []


def test_orphans_are_taken_in_the_order_of_their_processes(tmp_path):
    folders = [JournalDirectory.create(tmp_path) for _ in range(3)]
    for folder in folders:
        folder.new_segment().close()
        folder.release()

    passed_over = set()
    for folder in folders:
        taken = take_orphan(tmp_path, passed_over)
        assert taken.path == folder.path
        passed_over.add(taken.path)
        taken.release()
    assert take_orphan(tmp_path, passed_over) is None
    assert take_orphan(tmp_path / "nowhere", set()) is None


def test_what_a_folder_takes_is_measured(tmp_path):
    folder = JournalDirectory.create(tmp_path)
    segment = folder.new_segment()

    assert measure(tmp_path, without=None) >= 4096
    assert measure(tmp_path, without=folder.path) == 0
    segment.close()
    folder.release()


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    code = (
        "import sys; from pathlib import Path;"
        "from relay.journal.directory import JournalDirectory;"
        "f = JournalDirectory.create(Path(sys.argv[1])); s = f.new_segment(); s.append(1, b'{}');"
        "print(f.path, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        path = child.stdout.readline().strip()
        assert take_orphan(tmp_path, set()) is None
        child.kill()
    folder = take_orphan(tmp_path, set())

    assert str(folder.path) == path
    (segment,) = folder.segments()
    assert segment.survey() == 1
    segment.remove()
    folder.release()
    assert list(tmp_path.iterdir()) == []


# --- segments ------------------------------------------------------------------------------------


class Counted(Segments):
    lost: int  # when they were closed


@asynccontextmanager
async def segments_of(directory, *, limit=64 << 20, **more):
    segments = Counted(directory, limit=limit, **more)
    async with asyncio.timeout(10):
        await segments.tidy()
        try:
            yield segments
        finally:
            segments.lost = segments.close()


async def read_all(segments):
    rows = []
    while some := await segments.read(100):
        rows += some
        segments.drop(some[-1][0])
    return rows


async def test_records_come_out_in_order_over_many_segments(monkeypatch, tmp_path):
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES", 20_000)
    async with segments_of(tmp_path) as segments:
        for seq in range(1, 301):
            segments.append(encode(said(seq)))
            if segments.untidy.is_set():
                await segments.tidy()
        assert len(list(tmp_path.glob("*/*.db"))) > 5

        assert await read_all(segments) == [(seq, said(seq)) for seq in range(1, 301)]
        assert segments.waiting == 0
        await segments.tidy()
        assert len(list(tmp_path.glob("*/*.db"))) == 1

    assert segments.lost == 0
    assert list(tmp_path.iterdir()) == []


async def test_until_there_is_another_the_segment_just_grows(monkeypatch, tmp_path):
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES", 5_000)
    async with segments_of(tmp_path) as segments:
        for seq in range(1, 101):  # no `tidy` in between
            segments.append(encode(said(seq)))

        assert len(await read_all(segments)) == 100


async def fill(segments):
    while segments.append(encode(said(segments.last + 1))):
        if segments.untidy.is_set():
            await segments.tidy()


async def test_at_its_limit_it_goes_on_in_memory_and_comes_back(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES", 20_000)
    monkeypatch.setattr(segments_module, "MEMORY_BYTES", 10_000)
    async with segments_of(tmp_path, limit=100_000) as segments:
        await fill(segments)
        accepted = segments.last
        assert segments.size <= 100_000 + 20_000
        assert segments.volatile > 10
        assert "100000 bytes" in segments.disk_error

        written = await read_all(segments)
        await segments.tidy()
        assert segments.disk_error == ""
        segments.append(encode(said(accepted + 1)))
        written += await read_all(segments)

    assert written == [(seq, said(seq)) for seq in range(1, accepted + 2)]
    assert caplog.text.count("journal_disk_failed") == 1
    assert caplog.text.count("journal_disk_recovered") == 1


async def test_what_others_have_counts_against_the_limit(tmp_path):
    async with segments_of(tmp_path / "j") as other:
        for seq in range(1, 201):
            other.append(encode(said(seq)))
        async with segments_of(tmp_path / "j", limit=100_000) as segments:
            segments.append(encode(said(1)))

            assert "100000 bytes" in segments.disk_error
            assert segments.size > 100_000


async def test_what_memory_has_is_on_disk_before_anything_newer(tmp_path):
    place = tmp_path / "journal"
    place.touch()
    async with segments_of(place) as segments:
        for seq in range(1, 3001):
            segments.append(encode(said(seq)))
        assert segments.volatile == 3000
        place.unlink()
        segments.drop(500)
        await segments.tidy()
        assert segments.volatile == 0
        segments.append(encode(said(3001)))

        assert await read_all(segments) == [(seq, said(seq)) for seq in range(501, 3002)]


async def test_what_is_in_memory_at_the_end_is_left_on_disk_if_that_is_back(tmp_path):
    place = tmp_path / "journal"
    place.touch()
    async with segments_of(place) as segments:
        for seq in range(1, 4001):
            segments.append(encode(said(seq)))
        segments.drop(1000)
        place.unlink()

    assert segments.lost == 0
    folder = take_orphan(place, set())
    rows = [row for segment in folder.segments() for row in segment.read(0, 9999)]
    assert rows == [(seq, said(seq)) for seq in range(1001, 4001)]
    folder.release()


async def test_a_segment_that_is_written_goes(tmp_path):
    async with segments_of(tmp_path) as segments:
        segments.append(encode(said(1)))
        (before,) = [p for p in tmp_path.glob("*/*.db-wal") if p.stat().st_size > 8000] or [None]
        await segments.tidy()  # not written: it stays
        assert await read_all(segments) == [(1, said(1))]

        await segments.tidy()
        (after,) = tmp_path.glob("*/*.db")
        await segments.tidy()  # nothing in it: it stays
        assert list(tmp_path.glob("*/*.db")) == [after]

        assert before is None or not before.exists()
        assert repr(segments) == "<Segments 1..1 segments=1>"


# --- a disk that is full -------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk", "512k") as place:
        yield place


async def test_a_full_disk_loses_nothing_and_is_used_again_when_it_has_room(small_disk, caplog):
    filling = small_disk / "filling"
    async with segments_of(small_disk / "journal") as segments:
        seq = 0
        while not segments.disk_error:
            seq += 1
            segments.append(encode(said(seq)))
        assert seq > 50
        fill_up(filling)
        for _ in range(500):
            seq += 1
            segments.append(encode(said(seq)))
        assert not await segments.tidy()
        assert segments.volatile >= 500

        written = await read_all(segments)
        await segments.tidy()
        assert segments.disk_error == ""
        seq += 1
        segments.append(encode(said(seq)))
        assert segments.volatile == 0
        written += await read_all(segments)

    assert written == [(n, said(n)) for n in range(1, seq + 1)]
    assert "full" in caplog.text


async def test_what_is_left_on_a_full_disk_can_be_read(small_disk):
    async with segments_of(small_disk / "journal") as segments:
        seq = 0
        while not segments.disk_error:
            seq += 1
            segments.append(encode(said(seq)))
        fill_up(small_disk / "filling")

    folder = take_orphan(small_disk / "journal", set())
    rows = [row for segment in folder.segments() for row in segment.read(0, 9999)]
    assert [position for position, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= seq - 1
    folder.release()


def test_a_file_that_may_not_grow_is_a_failing_disk_and_keeps_what_it_has(tmp_path):
    code = """if True:
        import resource, sys
        from pathlib import Path
        from relay.journal.segment import DiskFailed, Segment
        segment = Segment.create(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        position = 0
        try:
            while True:
                segment.append(position + 1, b"{}" * 200)
                position += 1
        except DiskFailed as error:
            print(position)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "1.db")],
        capture_output=True,
        text=True,
        check=True,
    )
    segment = Segment(tmp_path / "1.db")

    assert segment.survey() == int(done.stdout) > 10
    segment.remove()
