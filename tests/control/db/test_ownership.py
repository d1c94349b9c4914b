"""Who has a session: takeovers, numbering, fences, what the owner before hears. Real Postgres."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from unittest.mock import AsyncMock, patch
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from config.agent import Audio
from control.cluster.heartbeat import Heartbeat
from control.db import ownership
from control.db.conversations import erase_conversation, list_messages
from control.db.ownership import DEAD_SECONDS, GAP
from control.db.pool import connect
from control.db.rows import NewSession
from control.db.sessions import close_session, create_session
from control.db.store import StoreUnavailable
from relay.core.admitted import ResumePoint
from relay.core.events import EndReason
from relay.core.records import Figures, MessageSaid, SessionBegan, SessionEnded, TicketIssued
from relay.live.tickets import hash_ticket
from relay.protocol.refusal import Refused
from relay.telemetry.histogram import SessionLatency
from tests.control.attaching import NODE, admission, take

OTHER = UUID(int=0xB)
USER = "user"
FIGURES = Figures(
    browser_frames=0, browser_bytes=0, agent_frames=0, agent_bytes=0, latency=SessionLatency()
)


async def begin(store, conversation_id=None):
    """A session that nobody has attached to; its ticket is `first`."""
    session = NewSession(
        id=uuid7(),
        conversation_id=conversation_id or uuid7(),
        user_id=USER,
        ticket_hash=hash_ticket("first"),
        ticket_seconds=60.0,
        timezone="UTC",
        audio=Audio(),
    )
    await create_session(store, session, resume=conversation_id is not None)
    return session


async def attach(store, conversation_id=None):
    """A session that is live at node A, in epoch 1; its resume ticket is `next`."""
    session = await begin(store, conversation_id)
    assert (await take(store, session.id, hash_ticket("first"), resume_hash=NEXT)).taken
    await store.write(
        [SessionBegan(session_id=session.id, agent_request_id=None, at=now(), epoch=1)]
    )
    return session


NEXT, NEWER = hash_ticket("next"), hash_ticket("newer")


async def take_over(store, session, ticket_hash=NEXT, **given):
    given = {"node_id": OTHER, "resume_hash": NEWER} | given
    return await take(store, session.id, ticket_hash, **given)


async def void_unseen(store, session, received):
    async with store.transaction() as connection:
        await ownership.void_unseen(connection, session.id, 2, received=received, since=now())


def now():
    return datetime.now(UTC)


def said(session, seq, *, epoch=1, frame=0, at=None):
    return MessageSaid(
        id=uuid7(),
        conversation_id=session.conversation_id,
        session_id=session.id,
        seq=seq,
        turn=seq,
        role="user",
        content=f"line {seq}",
        at=at or now(),
        epoch=epoch,
        frame=frame,
    )


def ended(session, *, epoch=1, reason="moved"):
    return SessionEnded(
        session_id=session.id,
        reason=reason,
        detail="",
        browser_code=1000,
        agent_code=1000,
        figures=FIGURES,
        at=now(),
        epoch=epoch,
    )


async def fetch(store, sql, *arguments):
    async with store.transaction() as connection:
        return await connection.fetch(sql, *arguments)


async def row(store, session, columns):
    [found] = await fetch(store, f"SELECT {columns} FROM voice.sessions WHERE id = $1", session.id)
    return tuple(found)


async def seen(store, node_id, seconds=0.0):
    """This node was seen so long ago."""
    async with store.transaction() as connection:
        await ownership.beat(connection, node_id)
        await connection.execute(
            "UPDATE voice.nodes SET seen_at = now() - make_interval(secs => $2) WHERE id = $1",
            node_id,
            seconds,
        )


async def number(store, session):
    async with store.transaction() as connection:
        return await ownership.number(connection, session.conversation_id, session.id)


async def find_lost(store, node_id, owned):
    async with store.transaction() as connection:
        return await ownership.find_lost(connection, node_id, owned)


async def seqs(store, session):
    return [m.seq for m in await list_messages(store, session.conversation_id, limit=99)]


# --- tickets -----------------------------------------------------------------------------------


async def test_of_many_that_come_with_a_resume_ticket_one_takes_the_session_over(store):
    session = await attach(store)

    async with asyncio.TaskGroup() as tasks:
        tries = [tasks.create_task(take_over(store, session)) for _ in range(8)]

    assert [t.result().taken for t in tries if t.result()] == [True]
    assert await row(store, session, "node_id, epoch, state") == (OTHER, 2, "live")
    assert (await take_over(store, session, NEWER, node_id=NODE)).epoch == 3


async def test_nobody_takes_over_with_a_ticket_of_another_session_or_with_the_first(store):
    session, theirs = await attach(store), await begin(store)
    await take(store, theirs.id, hash_ticket("first"), resume_hash=hash_ticket("theirs"))

    assert await take_over(store, session, hash_ticket("theirs")) is None
    assert not (await take_over(store, session, hash_ticket("first"))).taken
    assert await row(store, session, "node_id, epoch") == (NODE, 1)


async def test_a_node_does_not_take_a_session_over_from_itself(store):
    session = await attach(store)

    assert await take_over(store, session, node_id=NODE) is None
    assert await row(store, session, "epoch") == (1,)


async def test_a_drained_session_that_is_hung_up_or_continued_is_over(store):
    hung_up, superseded = await attach(store), await attach(store)
    await store.write([ended(s, reason="shutdown") for s in (hung_up, superseded)])
    await close_session(store, hung_up.id, user_id=USER, reason="hung_up")
    await attach(store, superseded.conversation_id)

    assert (await take_over(store, hung_up)).over
    assert (await take_over(store, superseded)).over


async def test_the_newest_ticket_is_good_and_one_of_an_owner_before_is_void(store):
    session = await attach(store)
    issued = [hash_ticket(f"{n}") for n in range(3)]
    await store.write([TicketIssued(session_id=session.id, hash=h, epoch=1) for h in issued])

    assert await take_over(store, session, issued[1]) is None
    assert (await take_over(store, session, issued[2])).taken
    await store.write([TicketIssued(session_id=session.id, hash=issued[0], epoch=1)])

    assert await take_over(store, session, issued[0]) is None
    assert (await take_over(store, session, NEWER, node_id=NODE)).taken


async def test_a_drained_session_may_be_had_within_the_grace_time(store):
    late, soon = await attach(store), await attach(store)
    await store.write([ended(s, reason="shutdown") for s in (late, soon)])
    await fetch(
        store,
        "UPDATE voice.sessions SET released_at = now() - interval '31 s' WHERE id = $1",
        late.id,
    )

    assert (await take_over(store, soon, grace=30.0)).taken
    assert await row(store, soon, "state, ended_at, end_reason") == ("live", None, None)
    refused = await take_over(store, late, grace=30.0)
    assert (refused.taken, refused.over) == (False, True)


@pytest.mark.parametrize("reason", ["browser_left", "hung_up", "superseded", "agent_error"])
async def test_a_session_that_ended_is_over_everywhere(store, reason):
    session = await attach(store)
    await store.write([ended(session, reason=reason)])

    refused = await take_over(store, session)

    assert (refused.taken, refused.over) == (False, True)


async def test_who_hung_up_or_went_on_elsewhere_does_not_come_back(store):
    hung_up, superseded = await attach(store), await attach(store)
    await close_session(store, hung_up.id, user_id=USER, reason="hung_up")
    await attach(store, superseded.conversation_id)

    assert (await take_over(store, hung_up)).over
    assert (await take_over(store, superseded)).over
    lost = await find_lost(store, NODE, {hung_up.id: 1, superseded.id: 1})
    assert lost == {hung_up.id: "hung_up", superseded.id: "superseded"}


# --- numbering ---------------------------------------------------------------------------------


async def test_numbers_go_on_when_the_owner_before_has_said_its_last(store):
    session = await attach(store)
    await store.write([said(session, 1), said(session, 2)])
    await take_over(store, session)
    await store.write([ended(session)])

    numbering = await number(store, session)

    assert (numbering.last_seq, numbering.last_turn, numbering.last_role) == (2, 2, "user")


async def test_numbers_are_left_free_for_an_owner_that_has_not(store):
    session = await attach(store)
    await store.write([said(session, 1)])
    await take_over(store, session)

    numbering = await number(store, session)
    await store.write([said(session, GAP + 2, epoch=2), said(session, 2), said(session, 3)])

    assert (numbering.last_seq, numbering.last_turn, numbering.last_role) == (
        GAP + 1,
        GAP + 1,
        None,
    )
    assert await seqs(store, session) == [1, 2, 3, GAP + 2]


async def test_owners_that_died_before_anything_of_theirs_was_stored_do_not_share_numbers(store):
    session = await attach(store)
    found = []
    for node, ticket in enumerate(("next", "b", "c")):
        await take_over(
            store,
            session,
            hash_ticket(ticket),
            resume_hash=hash_ticket(AFTER[ticket]),
            node_id=UUID(int=0xC0 + node),
        )
        found.append((await number(store, session)).last_seq)

    assert found == [GAP, 2 * GAP, 3 * GAP]


AFTER = {"next": "b", "b": "c", "c": "d"}


async def test_a_new_session_leaves_numbers_free_once_for_one_that_was_lost(store):
    lost = await attach(store)
    await store.write([said(lost, 1)])
    first = await attach(store, lost.conversation_id)
    assert (await number(store, first)).last_seq == GAP + 1
    await store.write([said(first, GAP + 2), ended(first, reason="browser_left")])

    second = await attach(store, lost.conversation_id)

    assert (await number(store, second)).last_seq == GAP + 2


@pytest.mark.parametrize(
    ("node_seen", "waits"), [(0.0, True), (DEAD_SECONDS + 1, False), (None, False)]
)
async def test_only_an_owner_that_lives_is_waited_for(store, node_seen, waits):
    session = await attach(store)
    if node_seen is not None:
        await seen(store, NODE, node_seen)
    taken = await take_over(store, session)
    resumed = await begin(store, session.conversation_id)

    async def may_settle(of, taken):
        async with store.transaction() as connection:
            return await ownership.may_settle(
                connection,
                of.id,
                of.conversation_id,
                before_us=taken.taken_over and taken.owner_lives,
            )

    assert await may_settle(session, taken) is waits
    await store.write([ended(session)])
    assert not await may_settle(session, taken)

    await seen(store, OTHER, node_seen or 0.0)
    taken = await take(store, resumed.id, hash_ticket("first"))
    assert await may_settle(resumed, taken) is (node_seen in (0.0, None))
    await store.write([ended(session, epoch=2)])
    assert not await may_settle(resumed, taken)


# --- fences ------------------------------------------------------------------------------------


async def test_what_an_owner_before_says_of_the_session_does_not_count(store):
    session = await attach(store)
    await take_over(store, session)

    late = SessionBegan(session_id=session.id, agent_request_id="late", at=now(), epoch=1)
    await store.write([late, ended(session, reason="browser_lost")])

    columns = "state, agent_request_id, end_reason, settled_epoch"
    assert await row(store, session, columns) == ("live", None, None, 1)


async def test_late_messages_count_if_the_browser_saw_them_or_they_were_said_before(store):
    session = await attach(store)
    before, after = now() - timedelta(hours=1), now() + timedelta(hours=1)
    await take_over(store, session)
    await void_unseen(store, session, 5)

    await store.write(
        [
            said(session, 1, frame=5, at=after),  # its clock may be wrong, but it was seen
            said(session, 2, frame=6, at=before),
            said(session, 3, frame=6, at=after),
            said(session, 4, frame=1, at=after, epoch=2),
        ]
    )

    assert await seqs(store, session) == [1, 2, 4]


async def test_who_goes_back_to_the_owner_that_it_came_from_is_told_what_counts(store):
    """The database went away before the next owner had read what to tell it."""
    session = await attach(store)
    reads = AsyncMock(side_effect=StoreUnavailable("away"))
    with patch("control.db.conversations.read_history", reads), pytest.raises(Refused, match="503"):
        await admission(store, settled, node_id=OTHER)(session.id, "next", ResumePoint(5, 1))

    await store.write([said(session, 1, frame=6, at=now() + timedelta(hours=1))])

    assert await seqs(store, session) == [1]


async def test_owners_that_let_nobody_in_do_not_make_others_count_again(store):
    session = await attach(store)
    await take_over(store, session)
    await take_over(store, session, NEWER, node_id=UUID(int=0xC0))
    async with store.transaction() as connection:
        about = {"received": 5, "since": now()}
        await ownership.void_unseen(connection, session.id, 3, **about)

    await store.write([said(session, 1, frame=6, at=now() + timedelta(hours=1))])

    assert await seqs(store, session) == []


async def test_who_does_not_say_what_it_received_is_given_everything(store):
    session = await attach(store)
    await take_over(store, session)
    await void_unseen(store, session, 0)

    await store.write([said(session, 1, frame=1, at=now() + timedelta(hours=1))])

    assert await seqs(store, session) == [1]


# --- what the owner hears ----------------------------------------------------------------------


async def test_an_owner_finds_out_what_it_lost(store):
    kept, moved, erased = [await attach(store) for _ in range(3)]
    await take_over(store, moved)
    await erase_conversation(store, erased.conversation_id, user_id=USER)

    lost = await find_lost(store, NODE, {s.id: 1 for s in (kept, moved, erased)})

    assert lost == {moved.id: "moved", erased.id: "hung_up"}
    assert await find_lost(store, OTHER, {moved.id: 2}) == {}


async def test_an_owner_that_was_taken_for_dead_goes_on(store):
    session = await attach(store)
    async with store.transaction() as connection:
        assert await ownership.sweep(connection, 30.0) == 1
    assert await row(store, session, "state, end_reason") == ("ended", "node_lost")

    assert await find_lost(store, NODE, {session.id: 1}) == {}

    assert await row(store, session, "state, end_reason, ended_at") == ("live", None, None)


class SessionRegistry:
    def __init__(self, owned):
        self.owned = owned
        self.lost = {}
        self.is_drained = False
        self.changed = asyncio.Event()

    def epoch(self, session_id):
        return self.owned.get(session_id)

    def hang_up(self, session_id, reason):
        self.lost[session_id] = reason
        del self.owned[session_id]
        self.changed.set()


LISTENS = """
    SELECT pid FROM pg_stat_activity WHERE application_name = 'voice-relay notices'
    AND datname = current_database() AND query = 'SELECT 1'
"""


async def listens(store, before=None):
    """The process of the connection that listens, when there is another one than before."""
    while (found := await fetch(store, LISTENS)) in ([], before):  # noqa: ASYNC110 (it is the server that knows)
        await asyncio.sleep(0.01)
    return found


async def test_a_node_ends_at_once_what_went_elsewhere(store, database_url):
    session, ours = await attach(store), await attach(store)
    session_registry = SessionRegistry({session.id: 1, ours.id: 1})

    async with (
        asyncio.timeout(10),
        Heartbeat(store, session_registry, database_url, node_id=uuid7(), grace=30.0).running(),
    ):
        await listens(store)
        await take_over(store, session)
        async with asyncio.timeout(4):  # before the next heartbeat
            await session_registry.changed.wait()

        assert session_registry.lost == {session.id: EndReason.MOVED}
        assert session_registry.owned == {ours.id: 1}


async def test_a_node_without_notices_finds_out_with_its_heartbeat(store):
    session = await attach(store)
    session_registry = SessionRegistry({session.id: 1})
    nowhere = "postgresql://127.0.0.1:1/none"
    node = Heartbeat(store, session_registry, nowhere, node_id=uuid7(), grace=30.0)
    await take_over(store, session)

    await node.beat()

    assert session_registry.lost == {session.id: EndReason.MOVED}


async def test_a_connection_that_listens_is_opened_again(store, database_url, monkeypatch):
    monkeypatch.setattr("control.cluster.heartbeat.PAUSE_SECONDS", 0.01)
    session = await attach(store)
    session_registry = SessionRegistry({session.id: 1})

    async with (
        asyncio.timeout(10),
        Heartbeat(store, session_registry, database_url, node_id=uuid7(), grace=30.0).running(),
    ):
        first = await listens(store)
        await fetch(store, "SELECT pg_terminate_backend($1)", first[0]["pid"])
        await listens(store, first)
        await fetch(store, "SELECT pg_notify($1, 'not an id')", ownership.CHANNEL)
        await take_over(store, session)
        async with asyncio.timeout(4):  # before the next heartbeat
            await session_registry.changed.wait()

        assert session_registry.lost == {session.id: EndReason.MOVED}


async def test_nobody_is_told_of_the_end_of_a_session_that_no_other_node_has(store, database_url):
    """All nodes hear each notice: of the three that end here, they hear of one."""
    heard = asyncio.Queue()
    new, here, live = await begin(store), await attach(store), await attach(store)
    connection = await connect(database_url)
    try:
        await connection.add_listener(ownership.CHANNEL, lambda *given: heard.put_nowait(given[-1]))
        for session, epoch in ((new, None), (here, 1), (live, 0)):
            assert await close_session(
                store, session.id, user_id=USER, reason="hung_up", epoch_here=epoch
            )
        async with asyncio.timeout(5):
            assert await heard.get() == str(live.id)
    finally:
        await connection.close()


async def test_a_session_that_its_node_does_not_have_is_ended(store):
    session = await attach(store)
    nowhere = "postgresql://127.0.0.1:1/none"
    node = Heartbeat(store, SessionRegistry({}), nowhere, node_id=NODE, grace=30.0)

    await node.beat()
    assert await row(store, session, "state") == ("live",)  # its end may be on its way

    await node.beat()
    assert await row(store, session, "state, end_reason") == ("ended", "node_lost")


# --- admission ---------------------------------------------------------------------------------


async def settled(conversation_id):
    return True


async def test_a_browser_from_another_node_is_told_what_it_may_not_have(store):
    session = await attach(store)
    await store.write([said(session, seq) for seq in (1, 2, 3)])
    admit = admission(store, settled, node_id=OTHER)

    admitted = await admit(session.id, "next", ResumePoint(received=7, seq=1))

    assert [m.seq for m in admitted.takeover.messages] == [2, 3]
    assert admitted.takeover.ticket == "next"
    assert (admitted.epoch, admitted.last_seq) == (2, GAP + 3)
    assert [line.content for line in admitted.history] == ["line 1", "line 2", "line 3"]
    [(received,)] = await fetch(store, "SELECT received FROM voice.takeovers")
    assert received == 7
    assert (await row(store, session, "resume_hash"))[0] == hash_ticket(admitted.resume_ticket)
    with pytest.raises(Refused, match="401"):
        await admit(session.id, "next")


async def test_the_last_words_of_an_owner_that_lives_are_waited_for(store):
    session = await attach(store)
    await seen(store, NODE)

    async def settle(conversation_id):
        # The owner hears of it now.
        tasks.create_task(store.write([said(session, 1), ended(session)]))
        return False  # and that we have trouble of our own is no reason to lose the session

    async with asyncio.TaskGroup() as tasks:
        admitted = await admission(store, settle, node_id=OTHER)(session.id, "next")

    assert admitted.last_seq == 1
    assert [m.content for m in admitted.takeover.messages] == ["line 1"]


async def test_a_ticket_that_is_still_on_its_way_is_waited_for(store):
    session = await attach(store)
    admit = admission(store, settled, node_id=OTHER)
    issued = TicketIssued(session_id=session.id, hash=hash_ticket("late"), epoch=1)

    async with asyncio.TaskGroup() as tasks:
        coming = tasks.create_task(admit(session.id, "late"))
        tasks.create_task(store.write([issued]))

    assert coming.result().epoch == 2


async def test_without_a_grace_time_nothing_is_taken_over(store):
    session = await begin(store)

    admitted = await admission(store, settled, grace=0.0)(session.id, "first")

    assert admitted.resume_ticket is None
    assert await row(store, session, "resume_hash, epoch") == (None, 1)
