"""erasure.py: what condemned and broken files name, and what is taken out of them."""

from __future__ import annotations

import base64
import json
from uuid import UUID

import msgspec
import pytest

from relay.core.records import TicketIssued
from relay.journal.condemned import NAME, condemn, look, restore
from relay.journal.erasure import Removed, find_named, remove, search
from relay.journal.segment import DiskFailed, Segment, encode
from tests.relay.journal.test_segments import called, said

CONVERSATION, SESSION, OTHER = UUID(int=0xC), UUID(int=0x5), UUID(int=0x99)


def of(conversation, content="words"):
    return about(said(1, content), conversation)


def about(record, conversation=CONVERSATION):
    session = SESSION if conversation == CONVERSATION else UUID(int=0x98)
    return msgspec.structs.replace(record, conversation_id=conversation, session_id=session)


def put_aside(directory, number, *records):
    folder = directory / f"folder-{number}"
    folder.mkdir()
    segment = Segment.create(folder / "1.db")
    for position, record in enumerate(records, 1):
        segment.append(position, encode(record))
    segment.put_aside()


def lines(directory):
    path = directory / NAME
    return path.read_bytes().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    "record",
    [
        of(CONVERSATION),
        about(called({"id": 2**70})),  # which msgpack cannot have
        encode(of(CONVERSATION)),
        encode(about(called({"id": 2**70}))),
        msgspec.msgpack.encode({"type": "Later", "conversation_id": str(CONVERSATION)}),
        b"\xff" + encode(of(CONVERSATION)),  # no record of any version
    ],
)
def test_a_condemned_record_goes_with_its_conversation(tmp_path, record):
    condemn(tmp_path / NAME, record, "reason")
    condemn(tmp_path / NAME, of(OTHER), "reason")
    other = lines(tmp_path)[1]

    assert find_named(tmp_path).conversations == {CONVERSATION, OTHER}
    assert remove(tmp_path, {CONVERSATION}) == Removed(1, 0, 0)
    assert lines(tmp_path) == [other]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert restore(tmp_path / NAME) == 1


def test_a_record_of_a_session_alone_goes_with_that(tmp_path):
    condemn(tmp_path / NAME, TicketIssued(session_id=SESSION, hash=b"x"), "reason")

    assert find_named(tmp_path).sessions == {SESSION}
    assert remove(tmp_path, {OTHER}) == Removed(0, 0, 0)
    assert remove(tmp_path, {SESSION}) == Removed(1, 0, 0)
    assert not (tmp_path / NAME).exists()


def test_the_session_says_nothing_where_the_conversation_is_named(tmp_path):
    condemn(tmp_path / NAME, of(CONVERSATION), "reason")

    assert remove(tmp_path, {SESSION}) == Removed(0, 0, 0)
    assert len(lines(tmp_path)) == 1


def test_what_a_person_quotes_is_not_what_a_record_is_about(tmp_path):
    quoted = json.dumps({"conversation_id": str(CONVERSATION)})
    condemn(tmp_path / NAME, of(OTHER, quoted), "reason")
    condemn(tmp_path / NAME, about(called({"conversation_id": str(OTHER)})), "reason")
    put_aside(tmp_path, 1, of(OTHER, quoted))

    assert find_named(tmp_path).conversations == {OTHER, CONVERSATION}
    assert remove(tmp_path, {CONVERSATION}) == Removed(1, 0, 1)
    assert len(lines(tmp_path)) == 1


def test_a_line_that_somebody_has_edited_is_read_as_far_as_it_can_be(tmp_path):
    body = base64.b64encode(b"nothing").decode()
    broken = f'{{"record": "conversation_id": "{CONVERSATION}"}}'
    text = f'{broken}\n{{"body": "{body}"}}\n{{"record": 7}}\n[]\nconversation_id": "{"-" * 36}"\n'
    (tmp_path / NAME).write_text(text)

    assert find_named(tmp_path).conversations == {CONVERSATION}
    assert remove(tmp_path, {CONVERSATION}) == Removed(1, 0, 0)
    assert len(lines(tmp_path)) == 4


def test_a_broken_file_goes_as_a_whole_when_it_names_what_is_gone(tmp_path):
    put_aside(tmp_path, 1, of(OTHER, "theirs"), of(CONVERSATION, "a secret"))
    put_aside(tmp_path, 2, of(OTHER))
    for path in tmp_path.glob("*.broken"):
        path.write_bytes(b"broken" + path.read_bytes()[6:])
    assert search(tmp_path, [CONVERSATION]) == ["folder-1-1.broken"]

    assert remove(tmp_path, {CONVERSATION}) == Removed(0, 1, 1)
    assert [path.name for path in tmp_path.glob("*.broken*")] == ["folder-2-1.broken"]
    assert search(tmp_path, [CONVERSATION]) == []


def test_the_log_in_front_of_a_broken_table_is_searched_too(tmp_path):
    put_aside(tmp_path, 1, of(OTHER))
    wal = tmp_path / "folder-1-1.broken-wal"
    wal.write_bytes(encode(of(CONVERSATION)))

    assert remove(tmp_path, {CONVERSATION}) == Removed(0, 1, 0)
    assert not wal.exists()


def test_without_a_directory_there_is_nothing(tmp_path):
    nowhere = tmp_path / "nowhere"

    assert find_named(nowhere).subject == set()
    assert remove(nowhere, {CONVERSATION}) == Removed(0, 0, 0)
    assert search(nowhere, [CONVERSATION]) == []
    assert look(nowhere / NAME) == (0, None)


def test_a_disk_that_fails_is_told(tmp_path):
    (tmp_path / NAME).mkdir()

    with pytest.raises(DiskFailed):
        find_named(tmp_path)
    with pytest.raises(DiskFailed):
        remove(tmp_path, {CONVERSATION})
    assert look(tmp_path / NAME) == (1, None)
