"""Hears at once what other nodes want of our sessions: LISTEN, on a connection of its own.

Control plane. A convenience: a notification may be lost, and behind a pooler in transaction mode
none comes. What it says is in the tables, where every heartbeat looks as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from uuid import UUID

from control.db.errors import FROM_DATABASE
from control.db.ownership import CHANNEL
from control.db.pool import connect
from relay.supervisor import Supervisor

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
CHECK_SECONDS = 30.0  # a connection that is half open is found within this
PAUSE_SECONDS = 5.0

Heard = Callable[[UUID | None], None]
"""Something is to be done about this session; None: perhaps about any, we were away."""


@asynccontextmanager
async def listening(database_url: str, heard: Heard, supervisor: Supervisor) -> AsyncIterator[None]:
    """Listen while inside; a connection that is lost is opened again."""
    async with supervisor.repeating(
        "node notices",
        partial(_listen, database_url, heard),
        pause=partial(asyncio.sleep, PAUSE_SECONDS),
        foreseen=FROM_DATABASE,
        # Nobody has to mend this: if the database is away, the heartbeat says so.
        say=lambda error: log.debug("notices_lost reason=%s", error),
    ):
        yield


async def _listen(database_url: str, heard: Heard) -> None:
    connection = await connect(
        database_url,
        application_name="voice-relay notices",
        timeout=CONNECT_SECONDS,
        command_timeout=CONNECT_SECONDS,
    )
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    try:
        await connection.add_listener(CHANNEL, lambda _, __, ___, text: heard(_read(text)))
        heard(None)
        while not ended.is_set():
            await connection.execute("SELECT 1")
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await ended.wait()
    finally:
        connection.terminate()


def _read(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None  # somebody else's; looking costs little
