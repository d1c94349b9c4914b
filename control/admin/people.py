"""REST for administrators: one person; what is stored of them, shown, given out and erased.

Control plane, under /admin/api/user. Whose is asked for in the query: an id may have any letters,
and the query is in no log. Every act is in the audit log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, delete, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter, SkipValidation
from litestar.response import Stream

from control.admin.erasure import Erased, Erasure
from control.api.conversations import ConversationPage
from control.api.pagination import LIMIT, Cursor, Limit, cut_page, read_cursor
from control.api.problems import describe_problems
from control.api.sessions import Database
from control.db import audit, conversations, people
from control.db.store import Store
from relay.journal.journal import Journal

SETTLE_SECONDS = 2.0

Administrator = NamedDependency[str]
UserId = Annotated[str, QueryParameter(name="id", min_length=1, max_length=255)]


class Stored(msgspec.Struct, frozen=True):
    """How many rows of this person each table has, and how many sessions are live."""

    user_id: str
    rows: dict[str, int]
    live: int


class UserController(Controller):
    path = "/user"
    tags = ("user",)

    @get("/", summary="How much is stored of a person", responses=describe_problems(400))
    async def get_user(self, store: Database, user_id: UserId) -> Stored:
        async with store.reading() as connection:
            person = await people.find_person(connection, user_id)
            rows = await people.count_rows(connection, person)
            return Stored(user_id, rows, len(await people.find_live(connection, person)))

    @get(
        "/conversations",
        summary="The conversations of a person, newest first",
        responses=describe_problems(400),
    )
    async def list_conversations(
        self,
        store: Database,
        administrator: Administrator,
        user_id: UserId,
        *,
        limit: Limit = LIMIT,
        cursor: Cursor = None,
    ) -> ConversationPage:
        before = read_cursor(cursor, tuple[datetime, UUID])
        if before is None:  # the first page; it has titles, which are words of theirs
            async with store.transaction() as connection:
                await audit.note(connection, administrator, "user.list", user_id, {})
        found = await conversations.list_conversations(
            store, user_id, before=before, limit=limit + 1
        )
        return ConversationPage(*cut_page(found, limit, lambda last: (last.updated_at, last.id)))

    @get(
        "/export",
        summary="Everything that is stored of a person, as one JSON document",
        responses=describe_problems(400),
    )
    async def export_user(
        self,
        store: Database,
        journal: SkipValidation[NamedDependency[Journal]],
        administrator: Administrator,
        user_id: UserId,
    ) -> Stream:
        await journal.settled(SETTLE_SECONDS)  # the newest words; if it cannot be, without them
        async with store.transaction() as connection:
            person = await people.find_person(connection, user_id)
            counts = await people.count_rows(connection, person)
            await audit.note(connection, administrator, "user.export", user_id, counts)
        headers = {"Content-Disposition": 'attachment; filename="export.json"'}
        return Stream(_write(store, user_id), media_type="application/json", headers=headers)

    @delete(
        "/",
        summary="Erase everything of a person: what there was, and the proof that it is gone",
        status_code=200,
        responses=describe_problems(400),
    )
    async def erase_user(
        self,
        erasure: SkipValidation[NamedDependency[Erasure]],
        administrator: Administrator,
        user_id: UserId,
    ) -> Erased:
        return await erasure.erase(user_id, administrator)


async def _write(store: Store, user_id: str) -> AsyncIterator[bytes]:
    """All tables as they are at one moment; the rows of each in a list."""
    head = {"user_id": user_id, "exported_at": datetime.now(UTC)}
    yield msgspec.json.encode(head)[:-1] + b',"tables":{'
    async with store.reading() as connection:
        person = await people.find_person(connection, user_id)
        is_first, end = True, b""
        async for table, rows in people.show_rows(connection, person):
            if not rows:
                yield end + msgspec.json.encode(table) + b":["
                is_first, end = True, b"],"
                continue
            yield (b"" if is_first else b",") + ",".join(rows).encode()
            is_first = False
    yield end.rstrip(b",") + b"}}\n"
