"""The pool of connections to Postgres, and the transactions in which all SQL of `serve` runs.

Control plane. Nothing depends on the state of a connection, every table is named with its schema,
no statement is kept prepared; so a transaction pooler may stand in between. What the driver raises
becomes `StoreUnavailable`, or `ValuesRefused` for a defect of the values: see errors.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg

from control.db.batch_writer import flush
from control.db.errors import FROM_DATABASE, ValuesRefused, describe, is_of_values
from control.db.pool import SILENT, Connection, find_reason, make_pool
from control.db.rows import AnyRow, read
from relay.core.records import Record
from relay.journal.journal import WriteFailed

log = logging.getLogger(__name__)

POOL_SIZE = 10
SEARCHES = 3  # of these, for what users look for
COMMAND_SECONDS = 10.0  # the longest that one statement may take
LOCK_SECONDS = 8.0  # the longest that one waits for a lock
ACQUIRE_SECONDS = 5.0  # waiting for a connection, opening it included
CLOSE_SECONDS = 2.0
MARGIN_SECONDS = 1.0  # the server knows better why a statement was ended: it is to be the first
TRANSACTION = 3  # how many of the longest statements
# A process that freezes within a transaction, or is cut off, keeps the locks for so long: with a
# conversation's nobody else can take its session over.
IDLE_SECONDS = 5.0
FORGETFUL = "; SET LOCAL synchronous_commit = off"


class StoreUnavailable(WriteFailed):
    """The database is away, refuses work or takes too long; the same call may succeed later.

    The text is for the log; `reason` may be shown to anybody.
    """

    def __init__(self, text: str, reason: str = SILENT) -> None:
        super().__init__(text)
        self.reason = reason


class Store:
    """One pool of connections. `open` before use, `close` after; neither needs the database.

    `event_grace`: the Orchestrator is told of sessions that end, of one that we ended because we
    stop not before so many seconds (None: of none).

    What works with the database raises `StoreUnavailable`, and `ValuesRefused`.
    """

    def __init__(
        self,
        database_url: str,
        *,
        size: int = POOL_SIZE,
        statement_seconds: float = COMMAND_SECONDS,
        lock_seconds: float = LOCK_SECONDS,
        event_grace: float | None = None,
    ) -> None:
        self._url = database_url
        # The server's own limits: they end what a process left that froze or was cut off. Not
        # settings of the connection: a pooler may stand in between.
        limits = {
            "idle_in_transaction_session_timeout": IDLE_SECONDS,
            "statement_timeout": statement_seconds,
            "lock_timeout": lock_seconds,
            # Who freezes in the middle of a statement is not idle, and none of it runs.
            "transaction_timeout": TRANSACTION * statement_seconds,
        }
        self._limits = "; ".join(_at_most(name, seconds) for name, seconds in limits.items())
        if event_grace is not None:
            self._limits += f"; SET LOCAL voice.event_grace = '{event_grace:g}'"  # migrations/0015
        self._size = size
        self._seconds = statement_seconds
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self.is_up = True  # the last transaction did not find it away
        self.waiting = 0  # for a connection
        self._searches = asyncio.Semaphore(SEARCHES)

    def __repr__(self) -> str:
        if self._pool is None:
            return "<Store closed>"
        return f"<Store open connections={self._pool.get_size()}/{self._size}>"

    @property
    def busy(self) -> int:
        """Connections that somebody works with."""
        return self._pool.get_size() - self._pool.get_idle_size() if self._pool else 0

    @property
    def idle(self) -> int:
        """Those that nobody does."""
        return self._pool.get_idle_size() if self._pool else 0

    async def open(self) -> None:
        """Make the pool. Connections are opened when needed: a lost database comes back."""
        self._pool = await make_pool(
            self._url,
            size=self._size,
            timeout=ACQUIRE_SECONDS,
            command_timeout=self._seconds + MARGIN_SECONDS,
            reset=_keep_as_is,
        )

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            log.warning("store_close_slow")
            pool.terminate()

    async def write(self, records: Sequence[Record]) -> None:
        """Store a batch, all or nothing. Repeating it changes nothing.

        Records of a conversation or session that is gone are dropped: it was erased meanwhile.
        """
        async with self.transaction() as connection:
            await flush(connection, records)

    async def fetch(self, kind: type[AnyRow], sql: str, *values: object) -> list[AnyRow]:
        """The rows of one statement that reads."""
        async with self.reading() as connection:
            return [read(kind, row) for row in await connection.fetch(sql, *values)]

    async def change(self, kind: type[AnyRow], sql: str, *values: object) -> list[AnyRow]:
        """The rows of one statement that writes."""
        async with self.transaction() as connection:
            return [read(kind, row) for row in await connection.fetch(sql, *values)]

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A transaction in which all statements see one snapshot."""
        async with self._begin("ISOLATION LEVEL REPEATABLE READ READ ONLY") as connection:
            yield connection

    @asynccontextmanager
    async def searching(self) -> AsyncIterator[Connection]:
        """`reading`, for what may take long: never with all connections of the pool."""
        try:
            async with asyncio.timeout(ACQUIRE_SECONDS):
                await self._searches.acquire()
        except TimeoutError:
            raise StoreUnavailable("other searches take too long") from None
        try:
            async with self.reading() as connection:
                yield connection
        finally:
            self._searches.release()

    @asynccontextmanager
    async def transaction(self, *, durable: bool = True) -> AsyncIterator[Connection]:
        """One that may write. Unless it is `durable`, nobody waits until it is on the server's
        disk, and it may be lost if that server dies within the second: for what is soon said again.
        """
        async with self._begin(f"; {self._limits}{'' if durable else FORGETFUL}") as connection:
            yield connection

    @asynccontextmanager
    async def _begin(self, how: str) -> AsyncIterator[Connection]:
        if self._pool is None:
            raise StoreUnavailable("the store is not open")
        try:
            async with (
                self._acquired(self._pool) as connection,
                _transaction(connection, how),
            ):
                yield connection
            self.is_up = True
        except FROM_DATABASE as error:
            # Without the cause: its text may quote rows, and a traceback would show it.
            if is_of_values(error):
                raise ValuesRefused(describe(error)) from None
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the driver has lost the cancellation
                raise asyncio.CancelledError from None
            self.is_up = False
            raise StoreUnavailable(describe(error), reason=find_reason(error)) from None

    @asynccontextmanager
    async def _acquired(self, pool: asyncpg.Pool[asyncpg.Record]) -> AsyncIterator[Connection]:
        self.waiting += 1
        try:
            connection = await pool.acquire(timeout=ACQUIRE_SECONDS)
        finally:
            self.waiting -= 1
        try:
            yield connection
        finally:
            await pool.release(connection)


@asynccontextmanager
async def _transaction(connection: Connection, how: str) -> AsyncIterator[None]:
    """One that begins with `how`, in one go with what is in there.

    One that is cancelled, or gets no answer in time, ends at once and with its connection: the
    driver would wait for the server, to cancel the statement and to roll back. One that is frozen
    never answers; one that lives rolls back by itself.
    """
    try:
        try:
            await connection.execute(f"BEGIN {how}")
            yield
        except (asyncio.CancelledError, TimeoutError):
            raise
        except BaseException:
            with suppress(asyncpg.InterfaceError):  # the connection is gone, and all of it
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
    except (asyncio.CancelledError, TimeoutError):
        connection.terminate()
        raise


async def _keep_as_is(_: object) -> None:
    """Nothing was changed on a connection, so nothing is reset when it goes back to the pool."""


def _at_most(name: str, seconds: float) -> str:
    """The SQL that sets a time-out for this transaction, unless account or database have a shorter
    one. A server that does not know it (`transaction_timeout` before 17) is left alone."""
    milliseconds = f"{seconds * 1000:.0f}"
    return f"""
        SELECT set_config('{name}', '{milliseconds}', true)
        WHERE current_setting('{name}', true)::interval
              NOT BETWEEN '1 ms' AND '{milliseconds} ms'"""
