"""The store against a real Postgres."""

import asyncio
import logging
import tempfile
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import psutil
import pytest
from uuid_utils.compat import uuid7

from config.agent import Audio
from control.db.calls import list_calls
from control.db.conversations import (
    HISTORY_LENGTH,
    create_conversation,
    erase_conversation,
    get_conversation,
    list_conversations,
    list_messages,
    load_history,
    rename_conversation,
)
from control.db.errors import ValuesRefused
from control.db.migrate import migrate
from control.db.rows import NewSession
from control.db.sessions import close_session, create_session, get_session
from control.db.store import Store, StoreUnavailable
from control.dev.postgres import EmbeddedPostgres
from relay.core.records import Figures, IntentCalled, MessageSaid, SessionBegan, SessionEnded
from relay.protocol.relay_events import IntentStatus
from relay.telemetry.histogram import SessionLatency
from tests.control.attaching import take

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SESSION = UUID(int=7)
USER = "user-1"


def said(conversation_id, seq, content="hello", *, role="user", at=NOW, turn=None, id=None):
    return MessageSaid(
        id=id or uuid7(),
        conversation_id=conversation_id,
        session_id=SESSION,
        seq=seq,
        turn=turn or seq,
        role=role,
        content=content,
        at=at,
    )


def called(conversation_id, *, id, status=IntentStatus.SUBMITTING, at=NOW, **changes):
    fields = {
        "call_id": "call_1",
        "after_seq": 1,
        "function": "create_goal",
        "intent": "GOAL",
        "arguments": '{"title": "run"}',
        "attempts": 0,
        "result": None,
        "response": None,
    }
    return IntentCalled(
        id=id,
        conversation_id=conversation_id,
        session_id=SESSION,
        status=status,
        at=at,
        **(fields | changes),
    )


def new_session(
    conversation_id, *, id=SESSION, ticket_hash=b"hash", user_id=USER, ticket_seconds=60.0
):
    return NewSession(
        id=id,
        conversation_id=conversation_id,
        user_id=user_id,
        ticket_hash=ticket_hash,
        ticket_seconds=ticket_seconds,
        timezone="Europe/Berlin",
        audio=Audio(),
    )


async def ask(store):
    async with store.reading() as connection:
        await connection.fetchval("SELECT 1")


async def converse(store, *lines, user_id=USER, at=NOW):
    conversation = await create_conversation(store, uuid7(), user_id=user_id)
    await store.write(
        [said(conversation.id, seq, line, at=at) for seq, line in enumerate(lines, start=1)]
    )
    return conversation.id


# --- writing -----------------------------------------------------------------------------------


async def test_messages_come_back_in_order_of_seq(store):
    conversation_id = await converse(store)
    await store.write([said(conversation_id, 2, "two"), said(conversation_id, 1, "one")])

    messages = await list_messages(store, conversation_id, limit=10)

    assert [(m.seq, m.content) for m in messages] == [(1, "one"), (2, "two")]
    assert messages[0].created_at == NOW


async def test_a_repeated_batch_changes_nothing(store):
    conversation_id = await converse(store)
    call = uuid7()
    batch = [
        said(conversation_id, 1),
        called(conversation_id, id=call),
        called(conversation_id, id=call, status=IntentStatus.SUBMITTED, response="done"),
    ]
    await store.write(batch)
    before = await load_history(store, conversation_id)

    await store.write(batch)

    assert await load_history(store, conversation_id) == before
    assert len(before.messages) == len(before.calls) == 1


async def test_records_of_an_erased_conversation_do_not_fail_the_batch(store):
    erased = await converse(store)
    kept = await converse(store)
    await erase_conversation(store, erased, user_id=USER)

    await store.write(
        [
            said(erased, 1),
            said(kept, 1),
            called(erased, id=uuid7()),
            SessionBegan(session_id=SESSION, agent_request_id="r", at=NOW),
        ]
    )

    assert await list_messages(store, erased, limit=10) == []
    assert len(await list_messages(store, kept, limit=10)) == 1


async def test_writing_waits_for_nobody_and_survives_an_erasure_at_the_same_time(store):
    conversations = [await converse(store) for _ in range(20)]

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        for round_ in range(1, 6):
            tasks.create_task(store.write([said(c, round_) for c in conversations]))
            tasks.create_task(store.write([said(c, round_ + 5) for c in reversed(conversations)]))
        for conversation_id in conversations[::2]:
            tasks.create_task(erase_conversation(store, conversation_id, user_id=USER))

    for conversation_id in conversations[1::2]:
        assert len(await list_messages(store, conversation_id, limit=20)) == 10


async def test_another_message_in_the_place_of_one_is_reported(store, caplog):
    conversation_id = await converse(store, "first")

    with pytest.raises(ValuesRefused):
        await store.write([said(conversation_id, 1, "second")])

    assert "message_conflict" in caplog.text
    assert "second" not in caplog.text
    assert [m.content for m in await list_messages(store, conversation_id, limit=9)] == ["first"]


@pytest.mark.parametrize("text", ["nul \0 byte", "half \ud800 pair", "emoji \N{PARTY POPPER}"])
async def test_any_text_can_be_stored(store, text):
    conversation_id = await converse(store, text)
    await store.write(
        [
            called(
                conversation_id,
                id=uuid7(),
                arguments=text,
                result={"a": "nul \0", "b": "\\u0000", "c": [1.5, None]},
                response=text,
                status=IntentStatus.FAILED,
            )
        ]
    )

    history = await load_history(store, conversation_id)

    assert history.messages[0].content[:3] == text[:3]
    assert history.calls[0].result == {"a": "nul \ufffd", "b": "\\u0000", "c": [1.5, None]}


async def test_an_older_state_of_a_call_does_not_undo_a_newer_one(store):
    conversation_id = await converse(store)
    call = uuid7()
    late = NOW + timedelta(seconds=1)
    await store.write([called(conversation_id, id=call, at=NOW)])
    await store.write(
        [
            called(
                conversation_id,
                id=call,
                at=late,
                status=IntentStatus.SUBMITTED,
                attempts=2,
                result={"id": 1},
                response="ok",
            )
        ]
    )

    await store.write([called(conversation_id, id=call, at=NOW)])

    (stored,) = await list_calls(store, conversation_id, limit=10)
    assert (stored.status, stored.attempts, stored.result) == (IntentStatus.SUBMITTED, 2, {"id": 1})
    assert (stored.created_at, stored.updated_at) == (NOW, late)


async def test_the_title_is_what_the_user_said_first(store):
    conversation = await create_conversation(store, uuid7(), user_id=USER)
    await store.write([said(conversation.id, 1, "Hello, how can I help?", role="assistant")])
    await store.write(
        [said(conversation.id, 3, "No."), said(conversation.id, 2, "I want\n to  run a marathon")]
    )

    found = await get_conversation(store, conversation.id, user_id=USER)

    assert found.title == "I want to run a marathon"


async def test_a_long_title_is_cut_between_words(store):
    conversation_id = await converse(store, "word " * 100)

    found = await get_conversation(store, conversation_id, user_id=USER)

    assert len(found.title) <= 80
    assert found.title.endswith("word…")


async def test_a_title_given_by_the_user_stays(store):
    conversation_id = await converse(store)
    await rename_conversation(store, conversation_id, user_id=USER, title="Mine")

    await store.write([said(conversation_id, 1, "something else")])

    assert (await get_conversation(store, conversation_id, user_id=USER)).title == "Mine"


async def test_a_message_moves_its_conversation_up_in_the_list(store):
    older = await converse(store, "hello")
    newer = await converse(store, "hello")
    later = datetime.now(UTC) + timedelta(hours=1)

    await store.write([said(older, 2, at=later)])

    listed = await list_conversations(store, USER, limit=10)
    assert [c.id for c in listed] == [older, newer]
    assert listed[0].updated_at == later


# --- lists -------------------------------------------------------------------------------------


async def test_pages_of_conversations_join_without_gap_or_overlap(store):
    made = [await converse(store, "hello") for _ in range(7)]
    seen = []
    before = None
    while page := await list_conversations(store, USER, before=before, limit=3):
        seen += [c.id for c in page]
        before = (page[-1].updated_at, page[-1].id)

    assert seen == made[::-1]


async def test_search_finds_words_of_the_title_and_of_messages(store):
    by_message = await converse(store, "hello", "Running SHOES for the été")
    by_title = await converse(store, "shoes, please")
    await converse(store, "nothing of the kind")
    await converse(store, "shoes of somebody else", user_id="user-2")

    async def search(q):
        return {c.id for c in await list_conversations(store, USER, q=q, limit=10)}

    assert await search("shoes") == {by_message, by_title}
    assert await search("ÉTÉ running") == {by_message}
    assert await search('"shoes please"') == {by_title}
    assert await search("shoes -please") == {by_message}


@pytest.mark.parametrize("q", ["", "?!", "=user-1", "' | '", "\\", "a\0b", "((", "'='"])
async def test_search_for_nothing_finds_nothing(store, q):
    await converse(store, "hello")

    assert await list_conversations(store, USER, q=q, limit=10) == []


@pytest.mark.parametrize("user_id", ["o'brien", "back\\slash", "a b", "ünï", "a:b*c|d"])
async def test_search_works_for_any_user_id(store, user_id):
    mine = await converse(store, "shoes", user_id=user_id)
    await converse(store, "shoes", user_id="other")

    found = await list_conversations(store, user_id, q="shoes", limit=10)

    assert [c.id for c in found] == [mine]


async def test_a_closed_conversation_is_found_by_its_status(store):
    conversation_id = uuid7()
    await create_session(store, new_session(conversation_id), resume=False)
    await close_session(store, SESSION, user_id=USER, reason="hung_up")

    async def listed(status):
        return [c.id for c in await list_conversations(store, USER, status=status, limit=10)]

    assert (await listed("closed"), await listed("open")) == ([conversation_id], [])


async def test_conversations_in_which_the_user_said_nothing_are_left_out_at_will(store):
    begun = await converse(store)
    greeted = await converse(store)
    await store.write([said(greeted, 1, "Hi!", role="assistant")])
    mine = await converse(store, "hello")

    async def listed(**wanted):
        return {c.id for c in await list_conversations(store, USER, **wanted, limit=10)}

    assert await listed(said=True) == {mine}
    assert await listed() == {begun, greeted, mine}


async def test_a_greeting_gives_way_to_a_title_that_says_something(store):
    greeted = await converse(store, "Hello.")
    named = await converse(store, "Shoes")
    await rename_conversation(store, named, user_id=USER, title="Spring")
    at_once = await converse(store, "Hi", "I want to swim")
    for each in (greeted, named):
        await store.write([said(each, 2, "Yes"), said(each, 3, "I want to run")])
        await store.write([said(each, 4, "And to ride")])

    titles = {c.id: c.title for c in await list_conversations(store, USER, limit=10)}

    assert titles == {greeted: "I want to run", named: "Spring", at_once: "I want to swim"}


async def test_what_belongs_to_another_user_is_not_there(store):
    conversation_id = await converse(store)

    assert await get_conversation(store, conversation_id, user_id="other") is None
    assert await rename_conversation(store, conversation_id, user_id="other", title="x") is None
    assert await erase_conversation(store, conversation_id, user_id="other") is None
    assert await list_conversations(store, "other", limit=10) == []


async def test_erasing_a_conversation_leaves_no_row_behind(store, database_url):
    conversation_id = uuid7()
    await create_session(store, new_session(conversation_id), resume=False)
    await store.write([said(conversation_id, 1), called(conversation_id, id=uuid7())])

    assert await erase_conversation(store, conversation_id, user_id=USER) == [SESSION]

    connection = await asyncpg.connect(database_url)
    for table in ("conversations", "sessions", "messages", "intents"):
        assert await connection.fetchval(f"SELECT count(*) FROM voice.{table}") == 0
    await connection.close()


async def test_history_is_bounded_and_has_the_calls_of_its_part_that_count(store):
    lines = [f"line {n}" for n in range(HISTORY_LENGTH + 50)]
    conversation_id = await converse(store, *lines)
    early, late, unanswered, on_its_way = uuid7(), uuid7(), uuid7(), uuid7()
    done = {"status": IntentStatus.SUBMITTED, "response": "ok"}
    await store.write(
        [
            called(conversation_id, id=early, after_seq=3, **done),
            called(conversation_id, id=late, after_seq=100, **done),
            called(conversation_id, id=unanswered, after_seq=110, status=IntentStatus.CANCELLED),
            called(conversation_id, id=on_its_way, after_seq=120),
        ]
    )

    history = await load_history(store, conversation_id)

    assert len(history.messages) == HISTORY_LENGTH
    assert history.messages[-1].content == lines[-1]
    assert [call.id for call in history.calls] == [late, on_its_way]


# --- sessions ----------------------------------------------------------------------------------


async def test_a_ticket_opens_one_of_many_that_come_with_it(store):
    await create_session(store, new_session(uuid7()), resume=False)

    async with asyncio.TaskGroup() as tasks:
        tries = [tasks.create_task(take(store, SESSION, b"hash")) for _ in range(8)]

    assert sum(task.result().taken for task in tries) == 1


async def test_a_wrong_ticket_is_nobodys_and_an_expired_one_is_not_taken(store):
    await create_session(store, new_session(uuid7()), resume=False)
    late = new_session(uuid7(), id=UUID(int=9), ticket_seconds=0.0)
    await create_session(store, late, resume=False)

    assert await take(store, SESSION, b"other") is None
    assert await take(store, UUID(int=8), b"hash") is None
    assert not (await take(store, late.id, b"hash")).taken


async def test_a_session_is_told_from_its_records(store):
    await create_session(store, new_session(uuid7()), resume=False)
    assert (await get_session(store, SESSION, user_id=USER)).state == "new"

    await store.write([SessionBegan(session_id=SESSION, agent_request_id="req", at=NOW)])
    assert (await get_session(store, SESSION, user_id=USER)).state == "live"

    ended = SessionEnded(
        session_id=SESSION,
        reason="browser_left",
        detail="secret",
        browser_code=1000,
        agent_code=1005,
        figures=Figures(
            browser_frames=1,
            browser_bytes=640,
            agent_frames=2,
            agent_bytes=1 << 40,
            latency=SessionLatency(connect_ms=1.5),
        ),
        at=NOW + timedelta(seconds=9),
    )
    await store.write([ended, SessionBegan(session_id=SESSION, agent_request_id=None, at=NOW)])
    session = await get_session(store, SESSION, user_id=USER)
    assert (session.state, session.close_reason, session.agent_bytes) == (
        "ended",
        "browser_left",
        1 << 40,
    )
    assert session.agent_request_id == "req"


async def test_resuming_what_the_user_does_not_have_makes_nothing(store):
    conversation_id = await converse(store, user_id="other")

    assert not await create_session(store, new_session(conversation_id), resume=True)
    assert await get_session(store, SESSION, user_id=USER) is None


async def test_resuming_opens_a_closed_conversation(store):
    conversation_id = uuid7()
    await create_session(store, new_session(conversation_id), resume=False)
    await close_session(store, SESSION, user_id=USER, reason="hung_up")

    assert await create_session(store, new_session(conversation_id, id=uuid7()), resume=True)

    assert (await get_conversation(store, conversation_id, user_id=USER)).status == "open"


# --- indexes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(postgres, template):
    """The URL of a database with some thousand rows of a hundred users."""

    async def make():
        server = await asyncpg.connect(postgres)
        await server.execute(f"CREATE DATABASE crowded TEMPLATE {template}")
        await server.close()
        connection = await asyncpg.connect(url)
        await connection.execute(ROWS)
        await connection.close()

    url = postgres.replace("/postgres?", "/crowded?", 1)
    asyncio.run(make())
    return url


ROWS = """
    INSERT INTO voice.conversations (id, user_id, title, status)
    SELECT gen_random_uuid(), 'user-' || n % 100, 'title ' || n,
           CASE n % 2 WHEN 0 THEN 'open' ELSE 'closed' END
    FROM generate_series(1, 5000) AS n;
    INSERT INTO voice.messages (conversation_id, seq, turn, id, session_id, user_id, role, content,
                                created_at)
    SELECT c.id, n, n, gen_random_uuid(), c.id, c.user_id, 'user',
           'the ' || n || ' word' || n || ' ' || c.title, now()
    FROM voice.conversations AS c, generate_series(1, 4) AS n;
    INSERT INTO voice.intents (id, conversation_id, session_id, call_id, after_seq, function,
                               arguments, status, response, created_at, updated_at)
    SELECT gen_random_uuid(), id, id, 'c', 1, 'f', '{}', 'failed', 'r', now(), now()
    FROM voice.conversations;
    INSERT INTO voice.sessions (id, conversation_id, user_id, ticket_hash, ticket_expires_at,
                                timezone, audio)
    SELECT id, id, user_id, 'h', now(), 'UTC', '{}' FROM voice.conversations;
    INSERT INTO voice.usage (session_id, epoch, day, user_id, seconds)
    SELECT id, 1, '2026-01-01', user_id, 60 FROM voice.sessions;
    ANALYZE;
"""


@pytest.fixture
async def explain(crowded, monkeypatch):
    """Runs a call of the store; returns the plans of its statements."""
    connection = await asyncpg.connect(crowded, statement_cache_size=0)
    statements = []
    kind: Any = asyncpg.Connection
    fetch = kind._execute

    async def spy(self, query, args, *rest, **options):
        statements.append((query, args))
        return await fetch(self, query, args, *rest, **options)

    monkeypatch.setattr(kind, "_execute", spy)

    async def run(call):
        statements.clear()
        await call
        seen = [s for s in statements if not s[0].startswith(("BEGIN", "COMMIT", "SET"))]
        plans = []
        for query, args in seen:
            rows = await connection.fetch(f"EXPLAIN (ANALYZE) {query}", *args)
            plans.append("\n".join(row[0] for row in rows))
        return plans

    yield run
    await connection.close()


SOMEBODY = "user-5"


@pytest.mark.parametrize(
    ("call", "index"),
    [
        (lambda s, c: list_conversations(s, SOMEBODY, limit=5), "conversations_by_user "),
        (
            lambda s, c: list_conversations(
                s, SOMEBODY, before=(datetime.now(UTC), UUID(int=1)), limit=5
            ),
            "conversations_by_user ",
        ),
        (
            lambda s, c: list_conversations(s, SOMEBODY, status="closed", limit=5),
            "conversations_by_user_status ",
        ),
        (lambda s, c: list_conversations(s, SOMEBODY, q="the", limit=5), "messages_search "),
        (lambda s, c: list_conversations(s, SOMEBODY, q="title", limit=5), "conversations_search "),
        (lambda s, c: list_messages(s, c, after_seq=1, limit=5), "messages_pkey "),
        (lambda s, c: list_calls(s, c, limit=5), "intents_by_conversation "),
        (lambda s, c: load_history(s, c), "messages_pkey "),
        (lambda s, c: load_history(s, c), "intents_by_conversation "),
        (lambda s, c: get_session(s, c, user_id=SOMEBODY), "sessions_pkey "),
        (lambda s, c: take(s, c, b"h"), "sessions_pkey "),
    ],
)
async def test_every_question_uses_its_index(crowded, explain, call, index):
    store = Store(crowded)
    await store.open()
    (some,) = await list_conversations(store, SOMEBODY, limit=1)

    plans = await explain(call(store, some.id))
    await store.close()

    assert any(index in f"{plan} " for plan in plans), plans
    # Of nodes there is a handful: they are read whole.
    assert not any("Seq Scan on" in plan.replace("Seq Scan on nodes", "") for plan in plans), plans


# --- a database that goes away -----------------------------------------------------------------


@pytest.fixture
def own_server():
    with tempfile.TemporaryDirectory(prefix="relay-test-") as directory:
        server = EmbeddedPostgres(Path(directory))
        yield server
        server.stop()


async def test_a_killed_database_is_reported_and_found_again(own_server):
    url = await asyncio.to_thread(own_server.start)
    await migrate(url, log=logging.getLogger("tests"))
    store = Store(url)
    await store.open()
    conversation_id = await converse(store, "before")

    children = psutil.Process(own_server.pid).children()
    own_server.kill()
    psutil.wait_procs(children, timeout=10)  # they end by themselves, a moment later
    with pytest.raises(StoreUnavailable):
        await store.write([said(conversation_id, 2, "during")])
    assert await asyncio.to_thread(own_server.start) == url
    await store.write([said(conversation_id, 2, "after")])

    messages = await list_messages(store, conversation_id, limit=9)
    assert [m.content for m in messages] == ["before", "after"]
    await store.close()


async def test_a_write_that_the_database_dies_under_is_reported(own_server):
    url = await asyncio.to_thread(own_server.start)
    await migrate(url, log=logging.getLogger("tests"))
    store = Store(url)
    await store.open()
    conversation_id = await converse(store)
    locker = await asyncpg.connect(url)
    await locker.execute("BEGIN; LOCK TABLE voice.messages")

    async with asyncio.timeout(10):
        writing = asyncio.create_task(store.write([said(conversation_id, 1)]), name="write")
        # As a server that stops does it, but while the lock is held: else the write may be first.
        end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
        while not await locker.fetch(end):
            pass
        with pytest.raises(StoreUnavailable):
            await writing

    await locker.close()
    await store.close()


async def test_a_store_opens_without_a_database_and_says_what_is_wrong():
    store = Store("postgresql://postgres@/postgres?host=/nowhere")
    await store.open()

    with pytest.raises(StoreUnavailable, match=r"No such file|nowhere"):
        await ask(store)
    await store.close()


async def test_a_closed_store_is_unavailable(database_url):
    store = Store(database_url)

    with pytest.raises(StoreUnavailable, match="not open"):
        await ask(store)


async def test_a_wrong_argument_is_a_bug_and_not_an_outage(store):
    wrong = "no " + "uuid"
    with pytest.raises(ValuesRefused, match="DataError 22000") as raised:
        await list_messages(store, wrong, limit=1)

    assert wrong not in "".join(traceback.format_exception(raised.value))


async def test_waiting_for_a_connection_ends(database_url, monkeypatch):
    monkeypatch.setattr("control.db.store.ACQUIRE_SECONDS", 0.2)
    store = Store(database_url, size=1)
    await store.open()
    async with store.reading():
        with pytest.raises(StoreUnavailable):
            await ask(store)
    await store.close()


async def test_a_relay_that_freezes_in_a_transaction_does_not_keep_its_locks(
    store, database_url, monkeypatch
):
    monkeypatch.setattr("control.db.store.IDLE_SECONDS", 0.2)
    lock = "SELECT id FROM voice.conversations WHERE id = $1 FOR NO KEY UPDATE"
    conversation_id = uuid7()
    await create_session(store, new_session(conversation_id), resume=False)
    other = await asyncpg.connect(database_url)
    went_on = []

    async def freeze():
        async with store.transaction() as connection:
            await connection.execute(lock, conversation_id)
            # Nothing more comes of it: another relay goes on with this conversation.
            went_on.append(await other.fetchval(lock, conversation_id, timeout=10))
            await connection.execute(lock, conversation_id)

    try:
        with pytest.raises(StoreUnavailable):
            await freeze()
    finally:
        await other.close()
    assert went_on == [conversation_id]
    assert (await load_history(store, conversation_id)).messages == []
