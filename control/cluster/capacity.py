"""How many agents this node may have, of the number that all nodes together may.

Control plane. A part of that number belongs to each node, in `voice.agent_shares`; sessions begin
within it without a look at the database. The part grows when it is used up, and every 5 s what is
not needed goes back. A node that is not seen any more (`voice.nodes`) has no part: what it had is
free for the others. When the database is away, each node goes on with the part that it had.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from control.db import ownership
from control.db.errors import ValuesRefused
from control.db.store import Store, StoreUnavailable
from relay.live.quotas import AgentQuota
from relay.supervisor import Supervisor

log = logging.getLogger(__name__)

BALANCE_SECONDS = 5.0
ASK_SECONDS = 2.0  # what a browser waits for it before it is refused
_LOCK = 0x766F696365  # "voice": one node at a time

# The part of a node, from what it uses (never less: that many are there) to that and some to spare,
# an equal part of what all together have to spare; and what nobody has. While another is hungry a
# node gets none to spare.
CLAIM = f"""
    WITH others AS (
        SELECT coalesce(sum(s.size), 0)::int AS taken,
               coalesce(bool_or(s.hungry), false) AS wait,
               greatest(1, $4::int / (1 + count(*)))::int AS spare
        FROM voice.agent_shares AS s JOIN voice.nodes AS n ON n.id = s.node_id
        WHERE n.id <> $1 AND n.seen_at > {ownership.ALIVE_SINCE}
    ), part AS (
        SELECT greatest($3::int, least(
                   $3::int + CASE WHEN wait THEN $5::bool::int ELSE spare END, $2::int - taken
               )) AS size, taken
        FROM others
    )
    INSERT INTO voice.agent_shares AS mine (node_id, size, hungry)
    SELECT $1, part.size, $5 AND part.size <= $3
    FROM part
    ON CONFLICT (node_id) DO UPDATE SET size = excluded.size, hungry = excluded.hungry
    RETURNING size, greatest(0, $2::int - size - (SELECT taken FROM part)) AS free
"""


class Capacity:
    """Keeps `share` of this node at the right size."""

    def __init__(
        self, store: Store, node_id: UUID, share: AgentQuota, supervisor: Supervisor | None = None
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._share = share
        self._supervisor = supervisor or Supervisor()
        self._asking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Capacity {self._share!r}>"

    @property
    def figures(self) -> tuple[int, int, int, int]:
        """The number for all nodes, this node's part, what it uses of it, what nobody had."""
        share = self._share
        return share.limit, share.size, share.used, share.free

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Balance while inside. The part goes with the node's row when the node leaves."""
        if not self._share.limit:
            yield
            return
        async with self._supervisor.repeating(
            "governor",
            self.ask,
            pause=BALANCE_SECONDS,
            foreseen=(StoreUnavailable,),
            say=lambda error: log.error(
                "governor_unavailable size=%d reason=%s", self._share.size, error
            ),
        ):
            yield

    async def grow(self) -> None:
        """The part is used up: ask for more, if there is any. Does not raise."""
        with suppress(StoreUnavailable, ValuesRefused, TimeoutError):  # a moment later it is said
            async with asyncio.timeout(ASK_SECONDS):
                await self.ask(hungry=True)

    async def ask(self, *, hungry: bool = False) -> None:
        """Tell the database what is used and hear what may be. Asking is a heartbeat, too.

        Raises `StoreUnavailable`.
        """
        share = self._share
        async with self._asking:
            if hungry and share.used < share.size:
                return  # somebody has asked meanwhile
            async with self._store.transaction(durable=False) as connection:
                await ownership.beat(connection, self._node_id)
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                row = await connection.fetchrow(
                    CLAIM, self._node_id, share.limit, share.used, share.spare, hungry
                )
            assert row is not None, "one row goes in"
            share.resize(row["size"], row["free"])
