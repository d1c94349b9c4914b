"""For how long agents were connected, by session and day, which is what they cost: the SQL.

Control plane. Days are those of UTC. Every function works within the transaction
that its connection is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Literal
from uuid import UUID

import msgspec

from control.db.people import Person
from control.db.pool import Connection
from control.db.rows import read, storable_json
from relay.core.records import AgentTime

# A day has what was counted by its end, without the days before. Rows are locked in one order for
# everybody, or two writers could wait for each other.
KEEP = """
    INSERT INTO voice.usage AS known (session_id, epoch, day, user_id, seconds)
    SELECT t.session_id, t.epoch, t.day, s.user_id, t.seconds - before.seconds
    FROM (
        SELECT session_id, epoch, seconds, (at AT TIME ZONE 'UTC')::date AS day
        FROM json_to_recordset($1) AS r (session_id uuid, epoch int, seconds float8, at timestamptz)
    ) AS t
    JOIN voice.sessions AS s ON s.id = t.session_id
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(u.seconds), 0) AS seconds FROM voice.usage AS u
        WHERE u.session_id = t.session_id AND u.epoch = t.epoch AND u.day < t.day
    ) AS before
    WHERE t.seconds > before.seconds
    ORDER BY t.session_id, t.epoch
    ON CONFLICT (session_id, epoch, day)
        DO UPDATE SET seconds = greatest(known.seconds, excluded.seconds)
"""
# In SQL, of the session {}.
OF_SESSION = "(SELECT coalesce(sum(u.seconds), 0) FROM voice.usage AS u WHERE u.session_id = {}.id)"


async def keep(connection: Connection, times: Sequence[AgentTime]) -> None:
    """Write what is known so far; of one owner once at most. What was known already, or is of a
    session that was erased, changes nothing."""
    if times:
        await connection.execute(KEEP, storable_json(list(times)))


async def sum_others(connection: Connection, session_id: UUID, epoch: int) -> float:
    """The seconds of a session without those of the owner with this `epoch`."""
    sql = """
        SELECT coalesce(sum(seconds), 0) FROM voice.usage WHERE session_id = $1 AND epoch <> $2
    """
    return float(await connection.fetchval(sql, session_id, epoch))


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What this user has used today, in seconds, how many sessions of the user are live now, and in
    how many seconds the next day begins."""

    user_id: str
    seconds: float
    live: int
    to_midnight: float


class UsedByAll(msgspec.Struct, frozen=True, kw_only=True):
    """The same of all users."""

    seconds: float
    live: int
    to_midnight: float


_LIVE = "state <> 'ended' AND node_id IS NOT NULL"
_TO_MIDNIGHT = """
    extract(epoch FROM date_trunc('day', now.utc) + interval '1 day' - now.utc)::float8
        AS to_midnight
"""


async def read_used(connection: Connection, user_ids: Iterable[str]) -> list[Used]:
    """One for each of these users."""
    sql = f"""
        SELECT asked.user_id,
               (SELECT coalesce(sum(seconds), 0) FROM voice.usage AS u
                WHERE u.day = now.utc::date AND u.user_id = asked.user_id) AS seconds,
               (SELECT count(*) FROM voice.sessions AS s
                WHERE s.user_id = asked.user_id AND {_LIVE}) AS live, {_TO_MIDNIGHT}
        FROM (SELECT now() AT TIME ZONE 'UTC' AS utc) AS now, unnest($1::text[]) AS asked (user_id)
    """
    return [read(Used, row) for row in await connection.fetch(sql, sorted(set(user_ids)))]


async def read_used_by_all(connection: Connection) -> UsedByAll:
    """All rows of the day and all sessions that are live are read for it: not for each request."""
    sql = f"""
        SELECT (SELECT coalesce(sum(seconds), 0) FROM voice.usage AS u
                WHERE u.day = now.utc::date) AS seconds,
               (SELECT count(*) FROM voice.sessions WHERE {_LIVE}) AS live, {_TO_MIDNIGHT}
        FROM (SELECT now() AT TIME ZONE 'UTC' AS utc) AS now
    """
    row = await connection.fetchrow(sql)
    assert row is not None, "there is one now"
    return read(UsedByAll, row)


async def forget(connection: Connection, person: Person) -> None:
    """What they used counts on, and is nobody's."""
    sql = """
        UPDATE voice.usage SET user_id = NULL, session_id = gen_random_uuid()
        WHERE user_id = $1 OR session_id = ANY ($2::uuid[])
    """
    await connection.execute(sql, person.user_id, person.sessions)


# --- for administrators --------------------------------------------------------------------------

By = Literal["day", "user", "session"]


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """`agent_seconds` of a day, a user or a session: the other two of `day`, `user_id` and
    `session_id` are null, and `user_id` of those who were erased. `cost` is in US dollars, null
    without a price."""

    day: date | None
    user_id: str | None
    session_id: UUID | None
    sessions: int
    agent_seconds: float
    cost: float | None = None


_GROUPS = {
    "day": ("day, NULL::text, NULL::uuid", "day", "day DESC"),
    "user": ("NULL::date, user_id, NULL::uuid", "user_id", "agent_seconds DESC, user_id"),
    "session": (
        "max(day), max(user_id), session_id",
        "session_id",
        "agent_seconds DESC, session_id",
    ),
}


async def list_costs(
    connection: Connection, by: By, *, since: date, until: date, user_id: str | None, limit: int
) -> list[Cost]:
    """From the day `since` to the day `until`; days newest first, else what used most first."""
    shown, group, order = _GROUPS[by]
    sql = f"""
        SELECT day, user_id, session_id, sessions, agent_seconds FROM (
            SELECT {shown}, count(DISTINCT session_id), sum(seconds) FROM voice.usage
            WHERE day BETWEEN $1 AND $2 AND ($3::text IS NULL OR user_id = $3)
            GROUP BY {group}
        ) AS c (day, user_id, session_id, sessions, agent_seconds)
        ORDER BY {order} LIMIT $4
    """
    return [read(Cost, row) for row in await connection.fetch(sql, since, until, user_id, limit)]
