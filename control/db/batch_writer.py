"""What live sessions leave behind, into the tables: the SQL of a batch from the journal.

Control plane. The store opens the transaction, translates errors and calls `flush`; every statement
takes the whole batch at once and may be repeated.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from control.db.errors import ValuesRefused
from control.db.rows import make_title, storable, storable_json
from relay.core.records import (
    IntentCalled,
    MessageSaid,
    Record,
    SessionBegan,
    SessionEnded,
    TicketIssued,
)

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Row: TypeAlias = asyncpg.Record


async def flush(connection: Connection, records: Sequence[Record]) -> None:
    """Write a batch within the transaction that `connection` is in.

    A repeated batch changes nothing; records of what was erased meanwhile are dropped. Raises
    `ValuesRefused` when another message has the place of one.
    """
    messages = [record for record in records if isinstance(record, MessageSaid)]
    calls = [record for record in records if isinstance(record, IntentCalled)]
    began = [record for record in records if isinstance(record, SessionBegan)]
    ended = [record for record in records if isinstance(record, SessionEnded)]
    issued = [record for record in records if isinstance(record, TicketIssued)]
    touched = {m.conversation_id for m in messages} | {c.conversation_id for c in calls}
    if touched:
        owners = await _lock_conversations(connection, touched)
        messages = [m for m in messages if m.conversation_id in owners]
        calls = [call for call in calls if call.conversation_id in owners]
    if messages:
        messages = await _leave_out_void(connection, messages)
    if messages:
        await _insert_messages(connection, messages, owners)
        await _touch_conversations(connection, messages)
    for part in _split_calls(calls):
        await _upsert_calls(connection, part)
    if began:
        await _begin_sessions(connection, began)
    if issued:
        await _keep_tickets(connection, issued)
    if ended:
        await _end_sessions(connection, ended)


async def _lock_conversations(
    connection: Connection, conversations: Iterable[UUID]
) -> dict[UUID, str]:
    """Those that exist, with their owners; they cannot be erased until the transaction ends."""
    rows = await connection.fetch(
        # In one order for everybody, or two batches could wait for each other.
        """
        SELECT id, user_id FROM voice.conversations WHERE id = ANY($1::uuid[])
        ORDER BY id FOR NO KEY UPDATE
        """,
        list(conversations),
    )
    return {row["id"]: row["user_id"] for row in rows}


async def _leave_out_void(connection: Connection, messages: list[MessageSaid]) -> list[MessageSaid]:
    """Without those of an owner that was replaced before it said them, and that nobody saw.

    What the browser saw counts, however late it comes. It told the next owner how much that was;
    who said nothing of that is given everything.
    """
    rows = await connection.fetch(
        """
        SELECT session_id, epoch, received, at FROM voice.takeovers
        WHERE session_id = ANY($1::uuid[]) AND received > 0
        """,
        list({m.session_id for m in messages}),
    )
    replaced = {(row["session_id"], row["epoch"]): row for row in rows}

    def is_void(m: MessageSaid) -> bool:
        end = replaced.get((m.session_id, m.epoch))
        return end is not None and m.frame > end["received"] and m.at > end["at"]

    void = [m for m in messages if is_void(m)]
    for m in void:
        log.warning("message_void conversation=%s session=%s", m.conversation_id, m.session_id)
    return [m for m in messages if m not in void] if void else messages


async def _insert_messages(
    connection: Connection, messages: Sequence[MessageSaid], owners: Mapping[UUID, str]
) -> None:
    stored = await connection.fetch(
        """
        INSERT INTO voice.messages (conversation_id, seq, turn, id, session_id, user_id, role,
                                    content, created_at)
        SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::uuid[],
                             $6::text[], $7::text[], $8::text[], $9::timestamptz[])
        ON CONFLICT DO NOTHING
        RETURNING id
        """,
        [m.conversation_id for m in messages],
        [m.seq for m in messages],
        [m.turn for m in messages],
        [m.id for m in messages],
        [m.session_id for m in messages],
        [owners[m.conversation_id] for m in messages],
        [m.role for m in messages],
        [storable(m.content) for m in messages],
        [m.at for m in messages],
    )
    if len(stored) < len(messages):
        await _refuse_conflicts(connection, messages)


async def _refuse_conflicts(connection: Connection, messages: Sequence[MessageSaid]) -> None:
    """Repeated is fine; another message in the place means that two sessions number at once."""
    rows = await connection.fetch(
        "SELECT id FROM voice.messages WHERE id = ANY($1::uuid[])", [m.id for m in messages]
    )
    known = {row["id"] for row in rows}
    conflicts = [m for m in messages if m.id not in known]
    if not conflicts:
        return
    if len(messages) == 1:  # the journal tries each alone before it gives it up: said once
        (m,) = conflicts
        log.error(
            "message_conflict conversation=%s session=%s seq=%d",
            m.conversation_id,
            m.session_id,
            m.seq,
        )
    raise ValuesRefused("another message has its place in the conversation")


async def _touch_conversations(connection: Connection, messages: Sequence[MessageSaid]) -> None:
    """Move them up in the list, and name them after what the user said first."""
    newest: dict[UUID, datetime] = {}
    first_words: dict[UUID, str] = {}
    for m in sorted(messages, key=lambda m: m.seq):
        newest[m.conversation_id] = max(m.at, newest.get(m.conversation_id, m.at))
        if m.role == "user" and (title := make_title(m.content)):
            first_words.setdefault(m.conversation_id, title)
    await connection.execute(
        """
        UPDATE voice.conversations AS c
        SET updated_at = greatest(c.updated_at, r.at), title = coalesce(c.title, r.title)
        FROM unnest($1::uuid[], $2::timestamptz[], $3::text[]) AS r (id, at, title)
        WHERE c.id = r.id
        """,
        list(newest),
        list(newest.values()),
        [first_words.get(conversation_id) for conversation_id in newest],
    )


async def _upsert_calls(connection: Connection, calls: Sequence[IntentCalled]) -> None:
    await connection.execute(
        # What the Orchestrator answered is a fact and counts whenever it comes: that it took the
        # call most of all, since a copy may have been refused. That somebody waits or gave up is a
        # guess: it counts while the call is open, from who had the call last, and not if it is
        # older than what we know (a repeated batch). No clock but the database's says when a call
        # is due, and its time begins now: a record that comes late is not overdue because of it.
        """
        INSERT INTO voice.intents AS known
            (id, conversation_id, session_id, call_id, after_seq, function, intent, arguments,
             status, attempts, result, response, created_at, updated_at, accepted_at,
             next_attempt_at, in_doubt, last_error, claims, idempotency_key)
        SELECT id, conversation_id, session_id, call_id, after_seq, function, intent, arguments,
               status, attempts, result::jsonb, response, at, at, now(),
               now() + make_interval(secs => due_in), in_doubt, error, claim,
               idempotency_key
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::text[],
                    $7::text[], $8::text[], $9::text[], $10::int[], $11::text[], $12::text[],
                    $13::timestamptz[], $14::float8[], $15::bool[], $16::text[], $17::int[],
                    $18::text[])
             AS r (id, conversation_id, session_id, call_id, after_seq, function, intent, arguments,
                   status, attempts, result, response, at, due_in, in_doubt, error, claim,
                   idempotency_key)
        ON CONFLICT (id) DO UPDATE
        SET status = excluded.status, attempts = greatest(known.attempts, excluded.attempts),
            result = excluded.result, response = coalesce(excluded.response, known.response),
            updated_at = greatest(known.updated_at, excluded.updated_at),
            next_attempt_at = excluded.next_attempt_at, in_doubt = excluded.in_doubt,
            last_error = excluded.last_error
        WHERE (excluded.status = 'submitted' AND known.status <> 'submitted')
           OR (excluded.status = 'rejected' AND known.status NOT IN ('submitted', 'rejected'))
           OR (known.status = 'submitting'
               AND excluded.claims = known.claims AND excluded.attempts >= known.attempts)
        """,
        [c.id for c in calls],
        [c.conversation_id for c in calls],
        [c.session_id for c in calls],
        [storable(c.call_id) for c in calls],
        [c.after_seq for c in calls],
        [storable(c.function) for c in calls],
        [c.intent for c in calls],
        [storable(c.arguments) for c in calls],
        [c.status.value for c in calls],
        [c.attempts for c in calls],
        [storable_json(c.result) for c in calls],
        [None if c.response is None else storable(c.response) for c in calls],
        [c.at for c in calls],
        [c.due_in for c in calls],
        [c.in_doubt for c in calls],
        [None if c.error is None else storable(c.error) for c in calls],
        [c.claim for c in calls],
        [c.idempotency_key for c in calls],
    )


async def _begin_sessions(connection: Connection, began: Sequence[SessionBegan]) -> None:
    await connection.execute(
        """
        UPDATE voice.sessions AS s
        SET state = CASE s.state WHEN 'ended' THEN 'ended' ELSE 'live' END,
            started_at = coalesce(s.started_at, r.at),
            agent_request_id = coalesce(r.agent_request_id, s.agent_request_id)
        FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::int[])
             AS r (id, agent_request_id, at, epoch)
        WHERE s.id = r.id AND s.epoch = r.epoch
        """,
        [b.session_id for b in began],
        [None if b.agent_request_id is None else storable(b.agent_request_id) for b in began],
        [b.at for b in began],
        [b.epoch for b in began],
    )


async def _keep_tickets(connection: Connection, issued: Sequence[TicketIssued]) -> None:
    newest = {(one.session_id, one.epoch): one.hash for one in issued}
    await connection.execute(
        """
        UPDATE voice.sessions AS s SET resume_hash = r.hash
        FROM unnest($1::uuid[], $2::int[], $3::bytea[]) AS r (id, epoch, hash)
        WHERE s.id = r.id AND s.epoch = r.epoch
        """,
        [session_id for session_id, _ in newest],
        [epoch for _, epoch in newest],
        list(newest.values()),
    )


async def _end_sessions(connection: Connection, ended: Sequence[SessionEnded]) -> None:
    await connection.execute(
        """
        UPDATE voice.sessions AS s
        SET state = 'ended', ended_at = r.at, end_reason = r.reason, end_detail = r.detail,
            browser_code = r.browser_code, agent_code = r.agent_code,
            browser_frames = r.browser_frames, browser_bytes = r.browser_bytes,
            agent_frames = r.agent_frames, agent_bytes = r.agent_bytes, latency = r.latency,
            released_at = coalesce(s.released_at, now())
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::int[], $6::bigint[],
                    $7::bigint[], $8::bigint[], $9::bigint[], $10::jsonb[], $11::timestamptz[],
                    $12::int[])
             AS r (id, reason, detail, browser_code, agent_code, browser_frames, browser_bytes,
                   agent_frames, agent_bytes, latency, at, epoch)
        WHERE s.id = r.id AND s.epoch = r.epoch
        """,
        [e.session_id for e in ended],
        [storable(e.reason) for e in ended],
        [storable(e.detail) for e in ended],
        [e.browser_code for e in ended],
        [e.agent_code for e in ended],
        [e.figures.browser_frames for e in ended],
        [e.figures.browser_bytes for e in ended],
        [e.figures.agent_frames for e in ended],
        [e.figures.agent_bytes for e in ended],
        [msgspec.json.encode(e.figures.latency).decode() for e in ended],
        [e.at for e in ended],
        [e.epoch for e in ended],
    )
    await connection.execute(
        """
        UPDATE voice.sessions AS s SET settled_epoch = greatest(s.settled_epoch, r.epoch)
        FROM (
            SELECT id, max(epoch) AS epoch FROM unnest($1::uuid[], $2::int[]) AS e (id, epoch)
            GROUP BY id
        ) AS r
        WHERE s.id = r.id
        """,
        [e.session_id for e in ended],
        [e.epoch for e in ended],
    )


def _split_calls(calls: Iterable[IntentCalled]) -> list[list[IntentCalled]]:
    """In order, each call at most once in a part: one statement may not touch a row twice."""
    parts: list[list[IntentCalled]] = []
    seen: Counter[UUID] = Counter()
    for call in calls:
        if seen[call.id] == len(parts):
            parts.append([])
        parts[seen[call.id]].append(call)
        seen[call.id] += 1
    return parts
