"""REST for administrators: what agents cost, by day, user or session.

Control plane, under /admin/api/costs.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec.structs import replace

from config.settings import Settings
from control.api.problems import describe_problems
from control.api.sessions import Database
from control.db import usage
from control.db.usage import By, Cost
from control.errors import Mistake, invalid
from control.sessions.meter import cost

DAYS = 30  # what is shown if nobody says since when
MOST = 1_000


class CostList(msgspec.Struct, frozen=True, kw_only=True):
    """From the day `since` to the day `until`, in UTC. `agent_seconds` and `cost` are the sums of
    what is shown; `items` are 1,000 at most: `is_cut` if there are more."""

    since: date
    until: date
    agent_seconds: float
    cost: float | None
    items: list[Cost]
    is_cut: bool


@get(
    "/costs",
    tags=["costs"],
    summary="For how long agents were connected, and what that cost",
    responses=describe_problems(400),
)
async def list_costs(
    store: Database,
    settings: NamedDependency[Settings],
    *,
    by: Annotated[By, QueryParameter(description="what a line is")] = "day",
    since: Annotated[date | None, QueryParameter(description="a day; 30 days ago")] = None,
    until: Annotated[date | None, QueryParameter(description="a day; today")] = None,
    user: Annotated[
        str | None, QueryParameter(description="of this user only", max_length=255)
    ] = None,
) -> CostList:
    last = until or datetime.now(UTC).date()
    first = since or last - timedelta(days=DAYS)
    if first > last:
        raise invalid(Mistake("since", f"expected a day before {last}, got {first}"))
    async with store.reading() as connection:
        found = await usage.list_costs(
            connection, by, since=first, until=last, user_id=user, limit=MOST + 1
        )
    price = settings.price_per_minute
    shown = [replace(one, cost=cost(one.agent_seconds, price)) for one in found[:MOST]]
    seconds = round(sum(one.agent_seconds for one in shown), 3)
    return CostList(
        since=first,
        until=last,
        agent_seconds=seconds,
        cost=cost(seconds, price),
        items=shown,
        is_cut=len(found) > MOST,
    )
