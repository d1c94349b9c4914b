"""One person: given out and erased, from every table and every file."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from relay.core.records import MessageSaid
from relay.journal.condemned import NAME, condemn
from relay.journal.directory import JournalDirectory
from relay.journal.segment import encode
from tests.control.admin.program import API, running, talking
from tests.disk import files_with

SECRET = "the-words-that-nobody-may-find"
PERSON, OTHER = "auth0|person/1", "somebody-else"
# They know no person. Whoever adds a table has its rows erased and made in `live_a_life`, or says
# here why there is nobody in it.
NOBODY = {"migrations", "nodes", "agent_shares"}


def said(talk, content):
    return MessageSaid(
        id=uuid7(),
        conversation_id=talk.conversation,
        session_id=talk.session,
        seq=1_000_000,
        turn=1_000_000,
        role="user",
        content=content,
        at=datetime.now(UTC),
    )


def put_aside(journal, talk, content):
    """A broken segment with this, as the journal puts one aside."""
    folder = JournalDirectory.create(journal)
    segment = folder.new_segment()
    segment.append(1, encode(said(talk, content)))
    segment.seal()
    segment.put_aside()
    folder.release()


async def live_a_life(program, person, words):
    """Something of a person in every place where there can be something; their live session."""
    context = talking(program, person)
    talk = await context.__aenter__()
    await talk.type(words)
    await program.meter.read()
    async with program.user(person) as client:
        answer = await client.post("/v1/auth/grant", json={})
        assert answer.status_code == 200, answer.text
    await program.fetch(
        "INSERT INTO voice.takeovers (session_id, epoch, received) VALUES ($1, 7, 0)", talk.session
    )
    await program.fetch("INSERT INTO voice.events (session_id) VALUES ($1)", talk.session)
    await program.ask("GET", "/user/export", params={"id": person})
    condemn(program.journal / NAME, said(talk, words), "CheckViolationError 23514")
    condemn(program.journal / NAME, encode(said(talk, words)), "of a later version")
    put_aside(program.journal, talk, words)
    return context, talk


async def tables_with(program, *texts):
    """Of all tables of the schema, whatever they are, those with a row that has such a text."""
    sql = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'voice'"
    found = set()
    for (table,) in await program.fetch(sql):
        for (row,) in await program.fetch(f"SELECT t::text FROM voice.{table} AS t"):
            if any(text in row for text in texts):
                found.add(table)
    return found


async def until_called(program, talk):
    sql = "SELECT FROM voice.intents WHERE conversation_id = $1"
    while not await program.fetch(sql, talk.conversation):  # noqa: ASYNC110
        await asyncio.sleep(0.05)  # the batch after the one with the message


async def until_recorded(program, *words):
    def is_there(word):
        return any(name.endswith(".ndjson") for name in files_with(program.data_dir, word))

    while not all(map(is_there, words)):  # noqa: ASYNC110
        await asyncio.sleep(0.05)  # a thread writes once a second


async def to_the_end(talk):
    async for _ in talk.socket:
        pass


async def test_an_erased_person_is_in_no_table_and_in_no_file(program):
    async with asyncio.timeout(50):
        hers, talk = await live_a_life(program, PERSON, SECRET)
        his, other = await live_a_life(program, OTHER, "words that stay")
        await until_called(program, talk)
        await until_recorded(program, SECRET, "words that stay")
        ids = PERSON, SECRET, str(talk.conversation), str(talk.session)
        everywhere = await tables_with(program, *ids)
        all_tables = {
            row[0]
            for row in await program.fetch(
                "SELECT table_name::text FROM information_schema.tables WHERE table_schema='voice'"
            )
        }
        assert everywhere == all_tables - NOBODY
        assert set(files_with(program.data_dir, SECRET)) >= {NAME}

        erased = await program.ask("DELETE", "/user", params={"id": PERSON})
        await to_the_end(talk)
        await hers.__aexit__(None, None, None)

        assert (talk.socket.close_code, talk.socket.close_reason) == (1000, "hung up")
        assert await tables_with(program, *ids) == set()
        for text in ids:
            assert files_with(program.data_dir, text) == []
        assert erased["ended"] == 1
        assert erased["rows"] == {
            table: 2 if table == "messages" else 1 for table in everywhere - {"audit"}
        } | {"messages": erased["rows"]["messages"]}
        assert erased["rows"]["messages"] >= 1
        assert set(erased["left"].values()) == {0}
        assert set(erased["left"]) == everywhere - {"audit"}
        files = erased["files"]
        assert files["journal"] is True
        assert files["naming"] == []
        assert files["removed"] == {"condemned": 2, "broken": 1, "broken_left": 1}

        # Nobody else has lost anything.
        await until_recorded(program, "words that stay")
        assert {"messages", "intents", "sessions", "grants", "audit"} <= await tables_with(
            program, OTHER, str(other.conversation)
        )
        kept = [json.loads(line) for line in (program.journal / NAME).read_text().splitlines()]
        assert len(kept) == 2
        assert kept[0]["record"]["content"] == "words that stay"
        await other.type("and I am still here")
        await his.__aexit__(None, None, None)

        # What is left in the audit log names nobody, and the receipt leads to it.
        lines = (await program.ask("GET", "/audit"))["items"]
        [line] = [line for line in lines if line["id"] == erased["receipt"]]
        assert (line["who"], line["act"], line["target"]) == ("key", "user.erase", None)
        assert line["outcome"]["rows"] == erased["rows"]
        exports = [line["target"] for line in lines if line["act"] == "user.export"]
        assert sorted(exports, key=str) == [None, OTHER]


async def test_who_was_never_there_is_erased_too(program):
    erased = await program.ask("DELETE", "/user", params={"id": "nobody"})

    assert set(erased["rows"].values()) == set(erased["left"].values()) == {0}
    assert erased["files"] == {
        "journal": True,
        "removed": {"condemned": 0, "broken": 0, "broken_left": 0},
        "naming": [],
    }


async def test_other_nodes_end_their_sessions_and_clear_their_files(
    program, database_url, tmp_path, agent_url
):
    async with (
        asyncio.timeout(50),
        running(database_url, tmp_path / "b", agent_url) as elsewhere,
    ):
        context, talk = await live_a_life(elsewhere, PERSON, SECRET)

        erased = await program.ask("DELETE", "/user", params={"id": PERSON})

        assert erased["ended"] == 1
        assert erased["other_nodes"] == [str(elsewhere.node_id)]
        await to_the_end(talk)
        await context.__aexit__(None, None, None)
        sql = "SELECT cleared_at FROM voice.nodes WHERE id = $1 AND cleared_at IS NOT NULL"
        while not await program.fetch(sql, elsewhere.node_id):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        # Its journal is off the disk once its newest records have been dropped.
        while files_with(elsewhere.data_dir, SECRET):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for text in (str(talk.conversation), str(talk.session)):
            assert files_with(elsewhere.data_dir, text) == []
        assert await tables_with(program, PERSON, SECRET, str(talk.conversation)) == set()


async def test_a_node_that_did_not_run_clears_its_files_when_it_starts(
    program, database_url, tmp_path, agent_url
):
    async with asyncio.timeout(50), talking(program, PERSON) as talk:
        await talk.type(SECRET)
        condemn(tmp_path / NAME, said(talk, SECRET), "reason")
        await program.ask("DELETE", "/user", params={"id": PERSON})
        late = tmp_path / "late" / "journal"
        late.mkdir(parents=True)
        (tmp_path / NAME).rename(late / NAME)

        async with running(database_url, tmp_path / "late", agent_url):
            while files_with(late, SECRET):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_an_export_has_every_row_of_a_person_and_nothing_secret(program):
    async with asyncio.timeout(50):
        context, talk = await live_a_life(program, PERSON, SECRET)
        other_context, _ = await live_a_life(program, OTHER, "not in the export")
        await until_called(program, talk)

        export = await program.ask("GET", "/user/export", params={"id": PERSON})
        stored = await program.ask("GET", "/user", params={"id": PERSON})

        tables = export["tables"]
        assert {name: len(rows) for name, rows in tables.items()} == stored["rows"]
        assert stored["live"] == 1
        assert all(tables.values())
        assert SECRET in [message["content"] for message in tables["messages"]]
        assert tables["intents"][0]["arguments"].startswith('{"title"')
        assert UUID(tables["sessions"][0]["id"]) == talk.session
        text = json.dumps(export)
        assert "not in the export" not in text
        assert "hash" not in text
        for one in (context, other_context):
            await one.__aexit__(None, None, None)


async def test_the_conversations_of_a_person_are_listed_and_that_is_noted(program):
    async with program.user(PERSON) as client:
        for _ in range(3):
            await client.post(f"{API}/session")

    page = await program.ask("GET", "/user/conversations", params={"id": PERSON, "limit": 2})
    more = {"id": PERSON, "limit": 2, "cursor": page["next_cursor"]}
    rest = await program.ask("GET", "/user/conversations", params=more)

    assert (len(page["items"]), len(rest["items"])) == (2, 1)
    assert rest["next_cursor"] is None
    lines = (await program.ask("GET", "/audit"))["items"]
    assert [(line["act"], line["target"]) for line in lines] == [("user.list", PERSON)]
