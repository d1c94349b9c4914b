"""condemned.py: the file of records that the database never takes, and the way back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from click.testing import CliRunner

from control.cli import main
from relay.core.records import TicketIssued
from relay.journal import condemned
from relay.journal.condemned import NAME, RestoreFailed, condemn, restore
from relay.journal.segment import DiskFailed, Segment
from tests.disk import fill_up, mounted
from tests.relay.journal.test_segments import called, said

SECRET = "what a person said"


def restored(directory):
    (table,) = directory.glob("*/*.db")
    return [record for _, record in Segment(table).read(0, 99)]


def test_any_record_comes_back_as_it_was(tmp_path):
    records = [
        said(1, "half \ud83d pair, \0 and ☃"),
        called({"id": 2**70, "deep": [[None]]}),
        TicketIssued(session_id=UUID(int=1), hash=bytes(range(32)), epoch=2),
        b"\x81\xa4type\xa3New",
    ]
    for record in records:
        condemn(tmp_path / NAME, record, "CheckViolationError 23514")

    assert restore(tmp_path / NAME) == 4
    assert restored(tmp_path) == records
    assert not (tmp_path / NAME).exists()


def test_a_line_says_when_why_and_what(tmp_path):
    condemn(tmp_path / NAME, said(1, SECRET), "CheckViolationError 23514")

    kept = json.loads((tmp_path / NAME).read_text())

    assert (datetime.now(UTC) - datetime.fromisoformat(kept["at"])).total_seconds() < 60
    assert kept["reason"] == "CheckViolationError 23514"
    assert kept["record"]["type"] == "MessageSaid"
    assert kept["record"]["content"] == SECRET
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_a_full_file_takes_no_more(monkeypatch, tmp_path):
    monkeypatch.setattr(condemned, "LIMIT_BYTES", 500)
    condemn(tmp_path / NAME, said(1), "reason")
    before = (tmp_path / NAME).read_bytes()

    with pytest.raises(DiskFailed, match=r"condemned\.jsonl has its 500 bytes"):
        condemn(tmp_path / NAME, said(2), "reason")

    assert (tmp_path / NAME).read_bytes() == before


def test_without_a_directory_or_a_disk_it_says_so(tmp_path):
    with pytest.raises(DiskFailed):
        condemn(tmp_path / "none" / NAME, said(1), "reason")


def test_a_full_disk_leaves_no_half_line(tmp_path):
    with mounted(tmp_path / "disk", "512k") as place:
        condemn(place / NAME, said(1, "x" * 3000), "reason")
        before = (place / NAME).read_bytes()
        fill_up(place / "filling")

        with pytest.raises(DiskFailed):
            condemn(place / NAME, said(2, "x" * 9000), "reason")

        assert (place / NAME).read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        "",
        SECRET,
        "[]",
        '"record"',
        "{}",
        json.dumps({"record": {"type": "MessageSaid", "content": SECRET}}),
        json.dumps({"record": None}),
        json.dumps({"body": SECRET}),
        json.dumps({"body": 7}),
    ],
)
def test_a_line_that_cannot_be_read_changes_nothing_and_is_not_quoted(tmp_path, line):
    condemn(tmp_path / NAME, said(1), "reason")
    with (tmp_path / NAME).open("a") as file:
        file.write(f"{line}\n")

    with pytest.raises(RestoreFailed, match=r"condemned\.jsonl:2: expected a condemned") as raised:
        restore(tmp_path / NAME)

    assert SECRET not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_command_says_how_many(tmp_path):
    condemn(tmp_path / NAME, said(1), "reason")

    done = CliRunner().invoke(main, ["restore", str(tmp_path / NAME)])

    assert (done.exit_code, done.output) == (0, "1 record back in the journal\n")
    assert restored(tmp_path) == [said(1)]


def test_the_command_says_what_is_wrong(tmp_path):
    (tmp_path / NAME).write_text("none\n")

    done = CliRunner().invoke(main, ["restore", str(tmp_path / NAME)])

    assert done.exit_code == 1
    assert "condemned.jsonl:1: expected a condemned record" in done.output
