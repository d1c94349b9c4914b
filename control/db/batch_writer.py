"""What live sessions leave behind, into the tables: the SQL of a batch from the journal.

Control plane. The store opens the transaction, translates errors and calls `flush`; every statement
takes all its records at once, as JSON with the names of their fields, and may be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from uuid import UUID

import msgspec

from control.db import usage
from control.db.errors import ValuesRefused
from control.db.pool import Connection
from control.db.rows import make_title, storable_json
from relay.core.records import (
    CallDecided,
    IntentCalled,
    MessageSaid,
    Record,
    SessionBegan,
    SessionEnded,
    TicketIssued,
)

log = logging.getLogger(__name__)

INSERT_MESSAGES = """
    INSERT INTO voice.messages
        (conversation_id, seq, turn, id, session_id, user_id, role, content, created_at)
    SELECT m.conversation_id, m.seq, m.turn, m.id, m.session_id, c.user_id, m.role, m.content, m.at
    FROM json_to_recordset($1) AS m
             (conversation_id uuid, seq bigint, turn bigint, id uuid, session_id uuid, role text,
              content text, at timestamptz)
    JOIN voice.conversations AS c ON c.id = m.conversation_id
    ON CONFLICT DO NOTHING
    RETURNING id
"""
# They move up in the list, and are named after what the user said first. One short word, such as
# "Hello", names nothing: the first line of several words takes its place.
TOUCH_CONVERSATIONS = r"""
    UPDATE voice.conversations AS c
    SET updated_at = greatest(c.updated_at, r.at),
        title = CASE
            WHEN r.title ~ ' ' AND c.title ~ '^\S{1,12}$' AND c.title = (
                SELECT btrim(content, E' \t\n\r') FROM voice.messages AS m
                WHERE m.conversation_id = c.id AND m.role = 'user' ORDER BY seq LIMIT 1
            ) THEN r.title
            ELSE coalesce(c.title, r.title)
        END
    FROM (
        SELECT conversation_id, max(at) AS at,
               (array_agg(title ORDER BY title !~ ' ', seq) FILTER (WHERE title <> ''))[1] AS title
        FROM json_to_recordset($1)
                 AS m (conversation_id uuid, seq bigint, title text, at timestamptz)
        GROUP BY conversation_id
    ) AS r
    WHERE c.id = r.conversation_id
"""
# What the Orchestrator answered is a fact and counts whenever it comes: that it took the call most
# of all, since a copy may have been refused. That somebody waits or gave up is a guess: it counts
# while the call is open, from who had the call last, and not if it is older than what we know (a
# repeated batch). No clock but the database's says when a call is due, and its time begins now: a
# record that comes late is not overdue because of it.
#
# Of a call that was taken back, that it was taken is known: it does not count against undoing it,
# which only who asks for that (the newest claim) may end. What is undone stays so.
UPSERT_CALLS = """
    INSERT INTO voice.intents AS known
        (id, conversation_id, session_id, call_id, after_seq, function, intent, arguments, status,
         attempts, result, response, created_at, updated_at, accepted_at, next_attempt_at,
         in_doubt, last_error, claims, idempotency_key)
    SELECT id, conversation_id, session_id, call_id, after_seq, function, intent, arguments, status,
           attempts, result, response, at, at, now(), now() + make_interval(secs => due_in),
           in_doubt, error, claim, idempotency_key
    FROM json_to_recordset($1) AS r
             (id uuid, conversation_id uuid, session_id uuid, call_id text, after_seq bigint,
              function text, intent text, arguments text, status text, attempts int, result jsonb,
              response text, at timestamptz, due_in float8, in_doubt bool, error text, claim int,
              idempotency_key text)
    ON CONFLICT (id) DO UPDATE
    SET status = excluded.status, attempts = greatest(known.attempts, excluded.attempts),
        result = CASE known.status WHEN 'cancelling' THEN known.result ELSE excluded.result END,
        response = coalesce(excluded.response, known.response),
        updated_at = greatest(known.updated_at, excluded.updated_at),
        next_attempt_at = excluded.next_attempt_at, in_doubt = excluded.in_doubt,
        last_error = excluded.last_error
    WHERE (excluded.status = 'submitted' AND known.status <> 'submitted'
           AND NOT (known.taken_back AND known.status IN ('cancelling', 'cancelled')))
       OR (excluded.status = 'rejected'
           AND known.status NOT IN ('submitted', 'rejected', 'cancelling')
           AND NOT (known.taken_back AND known.status = 'cancelled'))
       OR (known.status = 'cancelling' AND excluded.status = 'cancelled')
       OR (known.status IN ('submitting', 'cancelling')
           AND excluded.claims = known.claims AND excluded.attempts >= known.attempts)
"""
# Each is a new claim: what was thought of the call before is void.
CONFIRM_CALLS = """
    UPDATE voice.intents AS known
    SET status = 'submitting', next_attempt_at = now(), accepted_at = now(), in_doubt = false,
        response = NULL, claims = claims + 1, updated_at = greatest(updated_at, r.at)
    FROM json_to_recordset($1) AS r (id uuid, conversation_id uuid, at timestamptz)
    WHERE known.id = r.id AND known.conversation_id = r.conversation_id
      AND known.status = 'awaiting'
"""
CANCEL_CALLS = """
    WITH decided AS (
        SELECT i.id, r.response, r.at,
               CASE
                   WHEN i.status = 'awaiting' OR (i.status = 'submitting' AND NOT i.in_doubt)
                       THEN 'cancelled'
                   WHEN r.can_cancel AND i.status <> 'failed' THEN 'cancelling'
                   ELSE i.status
               END AS status
        FROM json_to_recordset($1)
                 AS r (id uuid, conversation_id uuid, can_cancel bool, response text,
                       at timestamptz)
        JOIN voice.intents AS i ON i.id = r.id AND i.conversation_id = r.conversation_id
        WHERE i.status IN ('awaiting', 'submitting', 'submitted', 'failed') AND NOT i.taken_back
        FOR UPDATE OF i
    )
    UPDATE voice.intents AS known
    SET status = d.status, taken_back = true, claims = known.claims + 1,
        response = CASE WHEN d.status IN ('cancelling', 'cancelled') THEN d.response
                        ELSE known.response END,
        accepted_at = CASE d.status WHEN 'cancelling' THEN now() ELSE known.accepted_at END,
        next_attempt_at = CASE WHEN d.status = 'cancelling' THEN now()
                               WHEN d.status = 'cancelled' THEN NULL
                               ELSE known.next_attempt_at END,
        updated_at = greatest(known.updated_at, d.at)
    FROM decided AS d
    WHERE known.id = d.id
"""
BEGIN_SESSIONS = """
    UPDATE voice.sessions AS s
    SET state = CASE s.state WHEN 'ended' THEN 'ended' ELSE 'live' END,
        started_at = coalesce(s.started_at, r.at),
        agent_request_id = coalesce(r.agent_request_id, s.agent_request_id)
    FROM json_to_recordset($1)
             AS r (session_id uuid, agent_request_id text, at timestamptz, epoch int)
    WHERE s.id = r.session_id AND s.epoch = r.epoch
"""
KEEP_TICKETS = """
    UPDATE voice.sessions AS s SET resume_hash = decode(r.hash, 'base64')
    FROM json_to_recordset($1) AS r (session_id uuid, epoch int, hash text)
    WHERE s.id = r.session_id AND s.epoch = r.epoch
"""
END_SESSIONS = """
    UPDATE voice.sessions AS s
    SET state = 'ended', ended_at = r.at, end_reason = r.reason, end_detail = r.detail,
        browser_code = r.browser_code, agent_code = r.agent_code,
        browser_frames = f.browser_frames, browser_bytes = f.browser_bytes,
        agent_frames = f.agent_frames, agent_bytes = f.agent_bytes, latency = f.latency,
        released_at = coalesce(s.released_at, now())
    FROM json_to_recordset($1) AS r
             (session_id uuid, reason text, detail text, browser_code int, agent_code int,
              figures json, at timestamptz, epoch int),
         json_to_record(r.figures) AS f
             (browser_frames bigint, browser_bytes bigint, agent_frames bigint, agent_bytes bigint,
              latency jsonb)
    WHERE s.id = r.session_id AND s.epoch = r.epoch
"""
SETTLE_SESSIONS = """
    UPDATE voice.sessions AS s SET settled_epoch = greatest(s.settled_epoch, r.epoch)
    FROM (
        SELECT session_id, max(epoch) AS epoch
        FROM json_to_recordset($1) AS e (session_id uuid, epoch int)
        GROUP BY session_id
    ) AS r
    WHERE s.id = r.session_id
"""
OF_SESSIONS: dict[type[SessionBegan | TicketIssued | SessionEnded], list[str]] = {
    SessionBegan: [BEGIN_SESSIONS],
    TicketIssued: [KEEP_TICKETS],
    SessionEnded: [END_SESSIONS, SETTLE_SESSIONS],
}


async def flush(connection: Connection, records: Sequence[Record]) -> None:
    """Write a batch within the transaction that `connection` is in.

    A repeated batch changes nothing; records of what was erased meanwhile are dropped. Raises
    `ValuesRefused` when another message has the place of one.
    """
    of_conversations = [
        r for r in records if isinstance(r, MessageSaid | IntentCalled | CallDecided)
    ]
    there = await _lock_conversations(
        connection,
        {r.conversation_id for r in of_conversations},
        [r.session_id for r in records if isinstance(r, SessionEnded)],
    )
    kept = [r for r in of_conversations if r.conversation_id in there]
    await _insert_messages(connection, [r for r in kept if isinstance(r, MessageSaid)])
    # One by one and in order: there may be several of a call, and no statement may touch a row
    # twice.
    calls = [r for r in kept if isinstance(r, IntentCalled | CallDecided)]
    for statement, some in groupby(calls, _statement_of):
        await connection.executemany(statement, [[storable_json([r])] for r in some])
    for kind, statements in OF_SESSIONS.items():
        newest = {(r.session_id, r.epoch): r for r in records if isinstance(r, kind)}
        if newest:
            for statement in statements:
                await connection.execute(statement, storable_json(list(newest.values())))
        # Of each owner, also of one that was replaced: its end changes nothing else.
        ends = [r.agent_time for r in newest.values() if isinstance(r, SessionEnded)]
        await usage.keep(connection, ends)


def _statement_of(record: IntentCalled | CallDecided) -> str:
    if isinstance(record, IntentCalled):
        return UPSERT_CALLS
    return CONFIRM_CALLS if record.wanted == "submit" else CANCEL_CALLS


async def _lock_conversations(
    connection: Connection, conversations: set[UUID], ended: list[UUID]
) -> set[UUID]:
    """Those that exist, and those of sessions that have `ended`; they cannot be erased until the
    transaction ends. (Who changes a session twice locks its conversation with the second change:
    too late, if that is being erased.)"""
    if not (conversations or ended):
        return conversations
    rows = await connection.fetch(
        # In one order for everybody, or two batches could wait for each other.
        """
        SELECT id FROM voice.conversations
        WHERE id = ANY($1::uuid[]) OR id IN (
            SELECT conversation_id FROM voice.sessions WHERE id = ANY($2::uuid[])
        )
        ORDER BY id FOR NO KEY UPDATE
        """,
        conversations,
        ended,
    )
    return {row["id"] for row in rows}


async def _insert_messages(connection: Connection, messages: list[MessageSaid]) -> None:
    if messages:
        messages = await _leave_out_void(connection, messages)
    if not messages:
        return
    titles = [make_title(m.content) if m.role == "user" else "" for m in messages]
    rows = [msgspec.structs.asdict(m) | {"title": t} for m, t in zip(messages, titles, strict=True)]
    batch = storable_json(rows)
    stored = await connection.fetch(INSERT_MESSAGES, batch)
    if len(stored) < len(messages):
        await _refuse_conflicts(connection, messages)
    await connection.execute(TOUCH_CONVERSATIONS, batch)


async def _leave_out_void(connection: Connection, messages: list[MessageSaid]) -> list[MessageSaid]:
    """Without those of an owner that was replaced before it said them, and that nobody saw.

    What the browser saw counts, however late it comes. It told the next owner how much that was;
    who said nothing of that is given everything.
    """
    sql = """
        SELECT m.id FROM json_to_recordset($1)
                 AS m (id uuid, session_id uuid, epoch int, frame bigint, at timestamptz)
        JOIN voice.takeovers AS t ON t.session_id = m.session_id AND t.epoch = m.epoch
        WHERE t.received > 0 AND m.frame > t.received AND m.at > t.at
    """
    void = {row["id"] for row in await connection.fetch(sql, storable_json(messages))}
    for m in messages:
        if m.id in void:
            log.warning("message_void conversation=%s session=%s", m.conversation_id, m.session_id)
    return [m for m in messages if m.id not in void]


async def _refuse_conflicts(connection: Connection, messages: Sequence[MessageSaid]) -> None:
    """Repeated is fine; another message in the place means that two sessions number at once."""
    sql = "SELECT id FROM voice.messages WHERE id = ANY($1::uuid[])"
    known = {row["id"] for row in await connection.fetch(sql, [m.id for m in messages])}
    conflicts = [m for m in messages if m.id not in known]
    if not conflicts:
        return
    if len(messages) == 1:  # the journal tries each alone before it gives it up: said once
        where = conflicts[0].conversation_id, conflicts[0].session_id, conflicts[0].seq
        log.error("message_conflict conversation=%s session=%s seq=%d", *where)
    raise ValuesRefused("another message has its place in the conversation")
