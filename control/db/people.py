"""Everything that is stored of one person: found, counted, shown and erased. The SQL.

Control plane. Every function works within the transaction that its connection is in. What is found,
counted and shown is looked for in all tables that name a person, a conversation or a session, as
the database itself lists them: a table of a later version is not forgotten.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from uuid import UUID

import msgspec

from control.db import ownership
from control.db.pool import Connection

BATCH = 100  # conversations that are erased in one transaction
PAGE = 200  # rows that are fetched at once

_COLUMNS = """
    SELECT c.relname::text AS "table", quote_ident(a.attname) AS name, a.attnotnull AS needed,
           a.atttypid = 'bytea'::regtype AS is_hash
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'voice'::regnamespace AND c.relkind IN ('r', 'p')
      AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY c.relname, a.attnum
"""


class Person(msgspec.Struct, frozen=True):
    """The ids that a row of theirs may have."""

    user_id: str
    conversations: Sequence[UUID]
    sessions: Sequence[UUID]


class Place(msgspec.Struct, frozen=True):
    """A table with rows of people: its columns that may be shown, and what leads to a person."""

    table: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]

    def where(self, person: Person) -> tuple[str, list[object]]:
        """The condition of a row of theirs, and its values."""
        known: dict[str, tuple[str, object]] = {
            "user_id": ("= ${}", person.user_id),
            "conversation_id": ("= ANY(${}::uuid[])", person.conversations),
            "session_id": ("= ANY(${}::uuid[])", person.sessions),
        }
        conditions = [f"{key} {known[key][0].format(n)}" for n, key in enumerate(self.keys, 1)]
        return " OR ".join(conditions), [known[key][1] for key in self.keys]


async def find_person(connection: Connection, user_id: str) -> Person:
    """Whoever it is: of somebody who never came there is nothing."""
    sql = "SELECT id FROM voice.conversations WHERE user_id = $1"
    conversations = [row["id"] for row in await connection.fetch(sql, user_id)]
    sql = "SELECT id FROM voice.sessions WHERE conversation_id = ANY($1::uuid[])"
    sessions = [row["id"] for row in await connection.fetch(sql, conversations)]
    return Person(user_id, conversations, sessions)


async def find_places(connection: Connection) -> list[Place]:
    """All tables with rows of people. Hashes of tickets are not for anybody's eyes."""
    tables: dict[str, list[dict[str, object]]] = {}
    for row in await connection.fetch(_COLUMNS):
        tables.setdefault(row["table"], []).append(dict(row))
    found = []
    for table, columns in tables.items():
        # What belongs to a conversation is of whom that is, and there is an index to it.
        needed = [c["name"] for c in columns if c["name"] == "conversation_id" and c["needed"]]
        names = ("user_id", "conversation_id", "session_id")
        keys = needed or [c["name"] for c in columns if c["name"] in names]
        shown = tuple(str(c["name"]) for c in columns if not c["is_hash"])
        if keys:
            found.append(Place(table, shown, tuple(map(str, keys))))
    return found


async def count_rows(connection: Connection, person: Person) -> dict[str, int]:
    """How many rows of theirs each table has."""
    counts = {}
    for place in await find_places(connection):
        where, values = place.where(person)
        sql = f"SELECT count(*) FROM voice.{place.table} WHERE {where}"
        counts[place.table] = int(await connection.fetchval(sql, *values))
    return counts


async def show_rows(connection: Connection, person: Person) -> AsyncIterator[tuple[str, list[str]]]:
    """Some rows after others, each as JSON, with their table; no rows: the next table begins."""
    for place in await find_places(connection):
        yield place.table, []
        where, values = place.where(person)
        order = "1, 2" if len(place.columns) > 1 else "1"  # messages: by conversation and `seq`
        sql = f"""
            SELECT row_to_json(r)::text FROM (
                SELECT {", ".join(place.columns)} FROM voice.{place.table} WHERE {where}
                ORDER BY {order}
            ) AS r
        """
        cursor = await connection.cursor(sql, *values)
        while rows := await cursor.fetch(PAGE):
            yield place.table, [row[0] for row in rows]


# --- erasing -------------------------------------------------------------------------------------


async def ask_to_end(connection: Connection, person: Person) -> None:
    """Their owners are to end what is live; nothing of theirs may begin any more."""
    await connection.execute("DELETE FROM voice.grants WHERE user_id = $1", person.user_id)
    sql = """
        UPDATE voice.sessions SET end_asked = 'hung_up'
        WHERE id = ANY($1::uuid[]) AND epoch > 0 AND (state <> 'ended' OR end_reason = 'shutdown')
        RETURNING id
    """
    asked = await connection.fetch(sql, person.sessions)
    await ownership.notify(connection, [row["id"] for row in asked])


async def find_live(connection: Connection, person: Person) -> list[UUID]:
    """Sessions of theirs that a node which lives has not ended yet."""
    sql = f"""
        SELECT s.id FROM voice.sessions AS s
        WHERE s.id = ANY($1::uuid[]) AND s.state <> 'ended' AND {ownership.OWNER_LIVES}
    """
    return [row["id"] for row in await connection.fetch(sql, person.sessions)]


async def erase_some(connection: Connection, person: Person, ids: Sequence[UUID]) -> None:
    """Erase these conversations of theirs with all that is in them, and grants.

    Records of them that are still in a journal are dropped when it is their turn.
    """
    sql = """
        SELECT id FROM voice.conversations WHERE id = ANY($1::uuid[]) AND user_id = $2
        ORDER BY id FOR UPDATE
    """
    locked = [row["id"] for row in await connection.fetch(sql, ids, person.user_id)]
    sql = """
        SELECT id FROM voice.sessions WHERE conversation_id = ANY($1::uuid[]) AND state <> 'ended'
    """
    left = [row["id"] for row in await connection.fetch(sql, locked)]
    await connection.execute("DELETE FROM voice.conversations WHERE id = ANY($1::uuid[])", locked)
    await connection.execute("DELETE FROM voice.grants WHERE user_id = $1", person.user_id)
    await ownership.notify(connection, left)


async def tell_nodes(connection: Connection, nodes: Iterable[UUID]) -> None:
    """They are to look at their files now, and not only with the next heartbeat."""
    await ownership.notify(connection, nodes)


async def find_gone(
    connection: Connection, conversations: Iterable[UUID], sessions: Iterable[UUID]
) -> set[UUID]:
    """Those of these conversations and sessions that are not there: they were erased."""
    sql = """
        SELECT id FROM unnest($1::uuid[]) AS id
        WHERE NOT EXISTS (SELECT FROM voice.conversations AS c WHERE c.id = id.id)
        UNION
        SELECT id FROM unnest($2::uuid[]) AS id
        WHERE NOT EXISTS (SELECT FROM voice.sessions AS s WHERE s.id = id.id)
    """
    return {row["id"] for row in await connection.fetch(sql, list(conversations), list(sessions))}
