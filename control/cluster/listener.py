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

import asyncpg

from control.db.ownership import CHANNEL
from control.db.pool import connect
from relay.supervisor import Supervisor

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
CHECK_SECONDS = 30.0  # a connection that is half open is found within this
PAUSE_SECONDS = 5.0

Heard = Callable[[UUID | None], None]
"""Something is to be done about this session; None: perhaps about any, we were away."""

_LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class NotificationListener:
    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self.listening = asyncio.Event()

    def __repr__(self) -> str:
        return f"<NotificationListener {'listening' if self.listening.is_set() else 'deaf'}>"

    @asynccontextmanager
    async def listening_for(self, heard: Heard, supervisor: Supervisor) -> AsyncIterator[None]:
        """Listen while inside; a connection that is lost is opened again."""
        async with supervisor.repeating(
            "node notices",
            partial(self._listen, heard),
            pause=partial(asyncio.sleep, PAUSE_SECONDS),
            foreseen=_LOST,
            say=_say_lost,
        ):
            yield

    async def _listen(self, heard: Heard) -> None:
        connection = await connect(
            self._url,
            application_name="voice-relay notices",
            timeout=CONNECT_SECONDS,
            command_timeout=CONNECT_SECONDS,
        )
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        try:
            await connection.add_listener(CHANNEL, lambda _, __, ___, text: heard(_read(text)))
            self.listening.set()
            heard(None)
            while not ended.is_set():
                await connection.execute("SELECT 1")
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await ended.wait()
        finally:
            self.listening.clear()
            connection.terminate()


def _say_lost(error: Exception) -> None:
    # Nobody has to mend this: if the database is away, the heartbeat says so.
    log.debug("notices_lost reason=%s", error)


def _read(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None  # somebody else's; looking costs little
