"""REST for administrators: function calls of all conversations; those that failed are begun again
or given up, many at once.

Control plane, under /admin/api/intents. Who changes many says how many these are: without that it
is only counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, get, post
from litestar.params import JSONBody, QueryParameter

from control.admin.people import Administrator
from control.api.pagination import LIMIT, Cursor, Limit, cut_page, read_cursor
from control.api.problems import describe_problems
from control.api.sessions import Database
from control.db import audit, bulk_calls
from control.db.bulk_calls import CallLine, Change, Wanted
from control.errors import Mistake, ProblemError, invalid
from relay.functions.submission import discarded, saved
from relay.protocol.relay_events import IntentStatus

IDS_MAX = 1_000
AGAIN = "an administrator asked again"

Words = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class CallPage(msgspec.Struct, frozen=True):
    items: list[CallLine]
    next_cursor: str | None


class Chosen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Failed calls: these `ids`, or all with this `intent`, `reason` (a part of `last_error`) and a
    change `since`. `confirm` is how many they are; without it nothing is done."""

    ids: Annotated[list[UUID], msgspec.Meta(max_length=IDS_MAX)] | None = None
    intent: Words | None = None
    reason: Words | None = None
    since: datetime | None = None
    confirm: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Changed(msgspec.Struct, frozen=True):
    """`done` of `matched` calls: all, or none as it was not confirmed."""

    matched: int
    done: int


class CallController(Controller):
    path = "/intents"
    tags = ("intents",)

    @get(
        "/",
        summary="Function calls of all conversations, the newest change first",
        responses=describe_problems(400),
    )
    async def list_calls(
        self,
        store: Database,
        *,
        status: Annotated[IntentStatus, QueryParameter()] = IntentStatus.FAILED,
        intent: Annotated[str | None, QueryParameter(max_length=200)] = None,
        reason: Annotated[
            str | None, QueryParameter(max_length=200, description="a part of `last_error`")
        ] = None,
        since: Annotated[datetime | None, QueryParameter(description="changed since then")] = None,
        limit: Limit = LIMIT,
        cursor: Cursor = None,
    ) -> CallPage:
        before = read_cursor(cursor, tuple[datetime, UUID])
        wanted = _wanted(status=status, intent=intent, reason=reason, since=since)
        found = await bulk_calls.list_calls(store, wanted, before=before, limit=limit + 1)
        return CallPage(*cut_page(found, limit, lambda last: (last.updated_at, last.id)))

    @post(
        "/retry",
        summary="Submit failed calls again, with their own keys",
        status_code=200,
        responses=describe_problems(400, 409, 413),
    )
    async def retry(
        self, store: Database, administrator: Administrator, data: JSONBody[Chosen]
    ) -> Changed:
        return await _change(store, administrator, data, "retry", saved(AGAIN))

    @post(
        "/discard",
        summary="Give failed calls up: they are cancelled",
        status_code=200,
        responses=describe_problems(400, 409, 413),
    )
    async def discard(
        self, store: Database, administrator: Administrator, data: JSONBody[Chosen]
    ) -> Changed:
        return await _change(store, administrator, data, "discard", discarded())


async def _change(
    store: Database, administrator: str, chosen: Chosen, change: Change, response: str
) -> Changed:
    wanted = _wanted(intent=chosen.intent, reason=chosen.reason, since=chosen.since, ids=chosen.ids)
    async with store.transaction() as connection:
        matched = await bulk_calls.count_failed(connection, wanted)
        if chosen.confirm is None:
            return Changed(matched, 0)
        done = await bulk_calls.change_failed(connection, wanted, change, response=response)
        if done != chosen.confirm:  # raised within: nothing is changed
            detail = f"expected {chosen.confirm} failed calls, there are {done}: look again"
            raise ProblemError(409, "count_changed", detail)
        outcome = {"calls": done, "intent": chosen.intent, "since": chosen.since}
        await audit.note(connection, administrator, f"intents.{change}", None, outcome)
    return Changed(done, done)


def _wanted(
    *,
    status: IntentStatus = IntentStatus.FAILED,
    intent: str | None,
    reason: str | None,
    since: datetime | None,
    ids: Sequence[UUID] | None = None,
) -> Wanted:
    if since is not None and since.utcoffset() is None:
        raise invalid(Mistake("since", "expected an instant with its offset, as 2026-01-31T09:00Z"))
    # Far from any call; beyond these years neither Python nor Postgres counts.
    if since is not None and not 1900 < since.year < 9000:
        raise invalid(Mistake("since", "expected an instant of this age"))
    return Wanted(status=status, intent=intent, reason=reason, since=since, ids=ids)
