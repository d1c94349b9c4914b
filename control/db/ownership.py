"""Which node has which session: the SQL of nodes, takeovers and ends that another node asks for.

Control plane. Every function works within the transaction that its connection is in; the store
opens it and translates errors. All instants are those of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from control.db.pool import Connection
from control.db.rows import AttachResult, Numbering, read

DEAD_SECONDS = 20.0  # without a heartbeat
SWEEPERS = 3
# In SQL: a node that was seen after this instant is alive; whether the owner of a session `s` is.
ALIVE_SINCE = f"now() - interval '{DEAD_SECONDS} seconds'"
OWNER_LIVES = f"""EXISTS (
    SELECT FROM voice.nodes AS n WHERE n.id = s.node_id AND n.seen_at > {ALIVE_SINCE}
)"""
CHANNEL = "voice_sessions"  # NOTIFY with the id of a session: its owner is to look at its row
# What is left free for messages of an owner before that are not stored yet: more than fit into a
# journal. JavaScript counts exactly to nine thousand million times this.
GAP = 1_000_000


async def beat(connection: Connection, node_id: UUID, name: str | None = None) -> bool:
    """This node is alive; it is known from its first beat on. `name` is for people.

    Whether it is to look after what the dead leave: `SWEEPERS` of those that live are, whose ids
    come first. Each looks at all live sessions, so it cannot be everybody's work; of one alone
    nobody would notice that it does not do it.
    """
    sql = f"""
        INSERT INTO voice.nodes AS n (id, name) VALUES ($1, $2)
        ON CONFLICT (id) DO UPDATE SET seen_at = now(), name = coalesce(excluded.name, n.name)
        RETURNING (
            SELECT count(*) FROM (
                SELECT FROM voice.nodes WHERE id < $1 AND seen_at > {ALIVE_SINCE} LIMIT {SWEEPERS}
            ) AS before
        ) < {SWEEPERS}
    """
    return bool(await connection.fetchval(sql, node_id, name))


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What administrators want of a node. `erased_at`: when somebody was erased last whose records
    may be in its files; None: nobody, since it has looked."""

    drained: bool
    erased_at: datetime | None


async def read_wishes(connection: Connection, node_id: UUID) -> Wishes:
    sql = """
        SELECT drained, CASE WHEN e.at > coalesce(cleared_at, '-infinity') THEN e.at END
            AS erased_at
        FROM voice.nodes, (
            SELECT max(at) AS at FROM voice.audit
            WHERE act = 'user.erase' AND outcome IS NOT NULL
        ) AS e
        WHERE id = $1
    """
    row = await connection.fetchrow(sql, node_id)
    return read(Wishes, row) if row else Wishes(drained=False, erased_at=None)


async def note_cleared(connection: Connection, node_id: UUID, erased_at: datetime) -> None:
    """The files of this node have nothing any more of who was erased until then."""
    await connection.execute(
        "UPDATE voice.nodes SET cleared_at = $2 WHERE id = $1", node_id, erased_at
    )


async def leave(connection: Connection, node_id: UUID) -> None:
    """This node stops; with sessions that are not ended in the database it stays, and is dead soon.

    Then others see for how long those may be taken over.
    """
    sql = """
        DELETE FROM voice.nodes WHERE id = $1 AND NOT EXISTS (
            SELECT FROM voice.sessions WHERE node_id = $1 AND state <> 'ended'
        )
    """
    await connection.execute(sql, node_id)


async def sweep(connection: Connection, grace: float) -> int:
    """End the sessions of nodes that are dead for `grace` seconds, and forget these nodes.

    How many sessions that were. The epoch stays: an owner that lives after all and could not reach
    the database goes on.
    """
    sql = f"""
        UPDATE voice.sessions AS s
        SET state = 'ended', ended_at = now(), end_reason = coalesce(end_asked, 'node_lost')
        WHERE s.state <> 'ended' AND s.node_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM voice.nodes AS n
            WHERE n.id = s.node_id AND n.seen_at > {ALIVE_SINCE} - make_interval(secs => $1)
        )
    """
    done = await connection.execute(sql, grace)
    await connection.execute(
        f"DELETE FROM voice.nodes WHERE seen_at <= {ALIVE_SINCE} - make_interval(secs => $1)",
        grace,
    )
    return int(done.split()[-1])


# --- a browser attaches ------------------------------------------------------------------------


# The conversation first, as a batch of the journal does, or the two could wait for each other.
LOCK_CONVERSATION = """
    SELECT FROM voice.sessions AS s JOIN voice.conversations AS c ON c.id = s.conversation_id
    WHERE s.id = $1 AND $2 IN (s.ticket_hash, s.resume_hash)
    FOR NO KEY UPDATE OF c
"""
# Whom our own session registry did not let in has an old ticket: it knows the newest before
# Postgres does.
LOCK_SESSION = f"""
    SELECT s.id AS session_id, s.conversation_id, s.user_id, s.timezone, s.audio, s.voice,
           s.language, s.record_audio, s.epoch + 1 AS epoch, shown.resumes AS taken_over,
           now() AS taken_at,
           {OWNER_LIVES} AS owner_lives,
           CASE WHEN shown.resumes THEN shown.lost ELSE s.state = 'ended' END AS over,
           CASE WHEN shown.resumes THEN NOT shown.lost
                ELSE s.state = 'new' AND s.ticket_used_at IS NULL AND s.ticket_expires_at > now()
           END AS taken,
           EXISTS (
               SELECT FROM voice.sessions AS other
               WHERE other.conversation_id = s.conversation_id AND other.id <> s.id
           ) AS resumed
    FROM voice.sessions AS s, LATERAL (
        SELECT s.resume_hash IS NOT DISTINCT FROM $2 AS resumes,
               s.end_asked IS NOT NULL OR s.state = 'ended' AND (
                   s.end_reason IS DISTINCT FROM 'shutdown'
                   OR s.released_at <= now() - make_interval(secs => $3)
               ) IS TRUE AS lost
    ) AS shown
    WHERE s.id = $1 AND $2 IN (s.ticket_hash, s.resume_hash)
      AND NOT (shown.resumes AND s.node_id IS NOT DISTINCT FROM $4 AND s.state <> 'ended')
    FOR NO KEY UPDATE OF s
"""
# Who attaches waits for each statement, and a thousand may attach at once: as few as will do. $1 is
# the session, $2 the conversation (or the session again: it is who hears of it), $3 where owners
# listen.
NEW_OWNER = """
    owner AS (
        UPDATE voice.sessions
        SET node_id = $4, epoch = epoch + 1, resume_hash = $5,
            ticket_used_at = coalesce(ticket_used_at, now()),
            state = CASE state WHEN 'ended' THEN 'live' ELSE state END,
            ended_at = NULL, end_reason = NULL, released_at = NULL
        WHERE id = $1
    )
"""
END_DIRECT = """
    UPDATE voice.sessions
    SET end_asked = 'superseded', state = 'ended', ended_at = now(), end_reason = 'superseded'
    WHERE conversation_id = $2 AND id <> $1 AND transport = 'direct' AND state <> 'ended'
"""
END_OTHERS = f"""
    direct AS ({END_DIRECT}),
    others AS (
        UPDATE voice.sessions SET end_asked = 'superseded'
        WHERE conversation_id = $2 AND id <> $1 AND transport <> 'direct' AND epoch > 0
          AND end_asked IS NULL AND (state <> 'ended' OR end_reason = 'shutdown')
        RETURNING id
    )
    SELECT pg_notify($3, id::text) FROM others
"""
TAKE = f"WITH {NEW_OWNER}, {END_OTHERS}"
SUPERSEDE = f"WITH {END_OTHERS}"
TAKE_OVER = f"""
    WITH {NEW_OWNER} SELECT pg_notify($3, $2::uuid::text)
"""


async def take(
    connection: Connection,
    session_id: UUID,
    ticket_hash: bytes,
    *,
    node_id: UUID,
    resume_hash: bytes | None,
    grace: float,
) -> AttachResult | None:
    """Use a ticket up, the first one or a resume ticket: of two that come with it one is `taken`.

    This node is the owner from now on; the owner before, and other sessions of the conversation,
    hear that they are over. None: it is not a ticket of this session.

    `resume_hash` is of the ticket that the browser gets next (None: none). Another node's session
    that was drained may be had for `grace` seconds.
    """
    shown = session_id, ticket_hash
    await connection.execute(LOCK_CONVERSATION, *shown)
    row = await connection.fetchrow(LOCK_SESSION, *shown, grace, node_id)
    if row is None:
        return None
    result = read(AttachResult, row)
    if not result.taken:
        return result
    sql = TAKE_OVER if result.taken_over else TAKE
    about = session_id, session_id if result.taken_over else result.conversation_id
    await connection.execute(sql, *about, CHANNEL, node_id, resume_hash)
    return result


async def void_unseen(
    connection: Connection, session_id: UUID, epoch: int, *, received: int, since: datetime
) -> None:
    """What owners before `epoch` say from the instant `since` on does not count, but for the first
    `received` text frames, which the browser has got (0: not known, and all count).

    In the transaction that reads for the browser what it missed: until then it may go back to the
    owner that it came from, which does not know of all this and tells it more.
    """
    sql = """
        INSERT INTO voice.takeovers (session_id, epoch, received, at)
        SELECT $1, epoch, $3, $4 FROM generate_series(1, $2 - 1) AS epoch
        ON CONFLICT DO NOTHING
    """
    await connection.execute(sql, session_id, epoch, received, since)


async def supersede(connection: Connection, conversation_id: UUID, session_id: UUID) -> None:
    """This session has the conversation now: it has one numbering, and so one session at a time.

    The others hear that they are over. The caller has locked the conversation.
    """
    await connection.execute(SUPERSEDE, session_id, conversation_id, CHANNEL)


async def supersede_direct(connection: Connection, conversation_id: UUID, session_id: UUID) -> None:
    """End the direct sessions of the conversation: nobody is their owner, who could."""
    await connection.execute(END_DIRECT, session_id, conversation_id)


async def is_elsewhere(connection: Connection, session_id: UUID, node_id: UUID) -> bool:
    """Whether another node has it, and so perhaps a ticket that is not known here yet."""
    sql = """
        SELECT EXISTS (
            SELECT FROM voice.sessions
            WHERE id = $1 AND state <> 'ended' AND epoch > 0 AND node_id <> $2
        )
    """
    return bool(await connection.fetchval(sql, session_id, node_id))


async def may_settle(
    connection: Connection, session_id: UUID, conversation_id: UUID, *, before_us: bool
) -> bool:
    """Whether an owner is alive and has not said yet that it stored all it had: one of another
    session of the conversation, or (`before_us`) of this one."""
    sql = f"""
        SELECT EXISTS (
            SELECT FROM voice.sessions AS s
            WHERE s.conversation_id = $1 AND s.id <> $2 AND s.settled_epoch < s.epoch
              AND {OWNER_LIVES}
        ) OR $3 AND EXISTS (
            SELECT FROM voice.sessions AS s WHERE s.id = $2 AND s.settled_epoch < s.epoch - 1
        )
    """
    return bool(await connection.fetchval(sql, conversation_id, session_id, before_us))


async def number(connection: Connection, conversation_id: UUID, session_id: UUID) -> Numbering:
    """Where the numbering of the newest owner begins: behind all that is stored or may yet be."""
    numbered_from = await connection.fetchval(
        "SELECT numbered_from FROM voice.conversations WHERE id = $1 FOR NO KEY UPDATE",
        conversation_id,
    )
    last = await find_last(connection, conversation_id)
    sql = """
        UPDATE voice.sessions SET settled_epoch = epoch - (id = $2)::int
        WHERE conversation_id = $1 AND settled_epoch < epoch - (id = $2)::int
        RETURNING id
    """
    unsettled = await connection.fetch(sql, conversation_id, session_id)
    seq = max(last.last_seq, numbered_from or 0)
    if unsettled:
        seq += GAP
        last = Numbering(last_turn=seq)  # a conversation never has more turns than messages
    await connection.execute(
        "UPDATE voice.conversations SET numbered_from = $2 WHERE id = $1", conversation_id, seq
    )
    return msgspec.structs.replace(last, last_seq=seq)


async def find_last(connection: Connection, conversation_id: UUID) -> Numbering:
    """The numbers of the newest message that is stored; 0 and None: there is none."""
    sql = """
        SELECT seq AS last_seq, turn AS last_turn, role AS last_role FROM voice.messages
        WHERE conversation_id = $1 ORDER BY seq DESC LIMIT 1
    """
    row = await connection.fetchrow(sql, conversation_id)
    return read(Numbering, row) if row else Numbering()


async def end_missing(
    connection: Connection, node_id: UUID, owned: Iterable[UUID], missed: Mapping[UUID, int]
) -> dict[UUID, int]:
    """What this node is said to have and does not, each with its epoch: it has just ended or is
    about to begin, or its browser was refused after all.

    What it `missed` at the look before as well is marked ended: its end is not on its way through
    the journal. One that begins after all is live again when `find_lost` sees it.
    """
    ours = node_id, list(owned)
    sql = """
        UPDATE voice.sessions AS s
        SET state = 'ended', ended_at = now(), end_reason = coalesce(end_asked, 'node_lost')
        FROM unnest($3::uuid[], $4::int[]) AS m (id, epoch)
        WHERE s.node_id = $1 AND s.state <> 'ended' AND s.id <> ALL ($2::uuid[])
          AND s.id = m.id AND s.epoch = m.epoch
    """
    if missed:
        await connection.execute(sql, *ours, list(missed), list(missed.values()))
    sql = """
        SELECT id, epoch FROM voice.sessions
        WHERE node_id = $1 AND state <> 'ended' AND id <> ALL ($2::uuid[])
    """
    rows = await connection.fetch(sql, *ours)
    return {row["id"]: row["epoch"] for row in rows}


# --- an owner is to hear that it is over ---------------------------------------------------------


async def notify(connection: Connection, sessions: Iterable[UUID]) -> None:
    """Tell their owners, wherever they are, when the transaction is done.

    All nodes hear it, and the commits of those that notify wait for one another.
    """
    if told := list(sessions):
        await connection.execute(
            "SELECT pg_notify($1, id::text) FROM unnest($2::uuid[]) AS id", CHANNEL, told
        )


async def find_lost(
    connection: Connection, node_id: UUID, owned: Mapping[UUID, int]
) -> dict[UUID, str]:
    """Which of these sessions, each with its epoch, are this node's no longer, and why.

    'moved', 'hung_up' or 'superseded'. What was taken for dead meanwhile, and is not, is live.
    """
    given = list(owned), list(owned.values())
    sql = """
        SELECT o.id, CASE WHEN s.id IS NULL THEN 'hung_up'  -- erased
                          WHEN s.epoch <> o.epoch THEN 'moved'
                          ELSE s.end_asked END AS why
        FROM unnest($1::uuid[], $2::int[]) AS o (id, epoch)
        LEFT JOIN voice.sessions AS s ON s.id = o.id
        WHERE s.id IS NULL OR s.epoch <> o.epoch OR s.end_asked IS NOT NULL
    """
    rows = await connection.fetch(sql, *given)
    sql = """
        UPDATE voice.sessions AS s SET state = 'live', ended_at = NULL, end_reason = NULL
        FROM unnest($1::uuid[], $2::int[]) AS o (id, epoch)
        WHERE s.id = o.id AND s.epoch = o.epoch AND s.node_id = $3
          AND s.state = 'ended' AND s.end_reason = 'node_lost'
    """
    await connection.execute(sql, *given, node_id)
    return {row["id"]: row["why"] for row in rows}
