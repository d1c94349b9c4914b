"""The SQL of the program: one method for each question to Postgres, its statement a literal.

Control plane; the statements that store a batch of the journal are in batch_writer.py. Nothing
depends on the state of a connection: every call is one transaction, every table is named with its
schema, no statement is kept prepared; so a transaction pooler may stand in between. What the driver
raises becomes `StoreUnavailable`, or `ValuesRefused` for a defect of the values: see errors.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from control.db import ownership
from control.db.batch_writer import Connection, flush
from control.db.errors import FROM_DATABASE, ValuesRefused, describe, is_of_values
from control.db.inspection import find_lacking
from control.db.pool import ROWS_HIDDEN, SILENT, ConnectFailed, find_reason, make_pool
from control.db.rows import (
    Claimed,
    Conversation,
    History,
    IntentCall,
    Message,
    NewSession,
    Session,
    Settled,
    Status,
    Waiting,
    storable,
)
from control.db.search import Term, parse
from relay.core.records import Record
from relay.journal.journal import WriteFailed
from relay.protocol.relay_events import IntentStatus
from relay.telemetry.histogram import SessionLatency

log = logging.getLogger(__name__)

POOL_SIZE = 10
COMMAND_SECONDS = 10.0  # the longest that one statement may take
ACQUIRE_SECONDS = 5.0  # waiting for a connection, opening it included
CLOSE_SECONDS = 2.0
# A process that freezes within a transaction, or is cut off, keeps the locks for so long: with a
# conversation's nobody else can take its session over.
IDLE_SECONDS = 5.0
HISTORY_LENGTH = 200  # the newest messages that a resumed session is told


class StoreUnavailable(WriteFailed):
    """The database is away, refuses work or takes too long; the same call may succeed later.

    The text is for the log; `reason` may be shown to anybody.
    """

    def __init__(self, text: str, reason: str = SILENT) -> None:
        super().__init__(text)
        self.reason = reason


class Store:
    """One pool of connections. `open` before use, `close` after; neither needs the database."""

    def __init__(self, database_url: str, *, size: int = POOL_SIZE) -> None:
        self._url = database_url
        self._size = size
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    def __repr__(self) -> str:
        if self._pool is None:
            return "<Store closed>"
        return f"<Store open connections={self._pool.get_size()}/{self._size}>"

    async def open(self) -> None:
        """Make the pool. Connections are opened when needed: a lost database comes back."""
        self._pool = await make_pool(
            self._url,
            size=self._size,
            timeout=ACQUIRE_SECONDS,
            command_timeout=COMMAND_SECONDS,
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

    async def check(self) -> None:
        """Raises `StoreUnavailable` when the database does not answer."""
        async with self._reading() as connection:
            await connection.fetchval("SELECT 1")

    async def applied_migrations(self) -> Mapping[str, str]:
        """Name to checksum; empty when nothing was ever applied."""
        async with self._reading() as connection:
            if not await connection.fetchval("SELECT to_regclass('voice.migrations')::text"):
                return {}
            rows = await connection.fetch("SELECT name, checksum FROM voice.migrations")
            if not rows and await connection.fetchval(
                "SELECT row_security_active('voice.migrations')"
            ):
                raise ConnectFailed(ROWS_HIDDEN)
        return {row["name"]: row["checksum"] for row in rows}

    async def lacking_privileges(self) -> tuple[str, ...]:
        """What our account may not do and has to; doctor and /health/ready say so."""
        async with self._reading() as connection:
            return await find_lacking(connection)

    # --- conversations -----------------------------------------------------------------------

    async def create_conversation(self, conversation_id: UUID, *, user_id: str) -> Conversation:
        async with self._writing() as connection:
            row = await connection.fetchrow(
                """
                INSERT INTO voice.conversations (id, user_id) VALUES ($1, $2)
                RETURNING id, title, status, created_at, updated_at
                """,
                conversation_id,
                user_id,
            )
        assert row is not None, "an insert without conflict clause returns its row"
        return _read(row, Conversation)

    async def get_conversation(self, conversation_id: UUID, *, user_id: str) -> Conversation | None:
        async with self._reading() as connection:
            row = await connection.fetchrow(
                """
                SELECT id, title, status, created_at, updated_at
                FROM voice.conversations WHERE id = $1 AND user_id = $2
                """,
                conversation_id,
                user_id,
            )
        return _read_or_none(row, Conversation)

    async def list_conversations(
        self,
        user_id: str,
        *,
        status: Status | None = None,
        before: tuple[datetime, UUID] | None = None,
        limit: int,
    ) -> list[Conversation]:
        """Newest first; `before` is (updated_at, id) of the last one seen."""
        updated_at, last_id = before or (None, None)
        async with self._reading() as connection:
            rows = await connection.fetch(
                """
                SELECT id, title, status, created_at, updated_at
                FROM voice.conversations
                WHERE user_id = $1
                  AND ($2::text IS NULL OR status = $2)
                  AND ($3::timestamptz IS NULL OR (updated_at, id) < ($3, $4::uuid))
                ORDER BY updated_at DESC, id DESC
                LIMIT $5
                """,
                user_id,
                status,
                updated_at,
                last_id,
                limit,
            )
        return [_read(row, Conversation) for row in rows]

    async def search_conversations(
        self,
        user_id: str,
        q: str,
        *,
        status: Status | None = None,
        before: tuple[datetime, UUID] | None = None,
        limit: int,
    ) -> list[Conversation]:
        """Like `list_conversations`, where the title or one message has the words of `q`.

        `q` as people type it: all words or beginnings of words, "a phrase", or, -not; capitals and
        accents do not matter. Nothing to look for finds nothing.
        """
        updated_at, last_id = before or (None, None)
        async with self._reading() as connection:
            query = await _make_query(connection, parse(storable(q)))
            if query is None:
                return []
            rows = await connection.fetch(
                """
                WITH found AS (
                    SELECT id FROM voice.conversations
                    WHERE (to_tsvector('simple', voice.fold(coalesce(title, '')))
                           || array_to_tsvector(ARRAY['=' || user_id]))
                          @@ ($3::text::tsquery && $2::text::tsquery)
                    UNION
                    SELECT conversation_id FROM voice.messages
                    WHERE (to_tsvector('simple', voice.fold(content))
                           || array_to_tsvector(ARRAY['=' || user_id]))
                          @@ ($3::text::tsquery && $2::text::tsquery)
                )
                SELECT id, title, status, created_at, updated_at
                FROM voice.conversations
                WHERE id IN (SELECT id FROM found)
                  AND user_id = $1
                  AND ($4::text IS NULL OR status = $4)
                  AND ($5::timestamptz IS NULL OR (updated_at, id) < ($5, $6::uuid))
                ORDER BY updated_at DESC, id DESC
                LIMIT $7
                """,
                user_id,
                _quote_word(f"={user_id}"),
                query,
                status,
                updated_at,
                last_id,
                limit,
            )
        return [_read(row, Conversation) for row in rows]

    async def rename_conversation(
        self, conversation_id: UUID, *, user_id: str, title: str
    ) -> Conversation | None:
        """A new title is not news: the place in the list stays."""
        async with self._writing() as connection:
            row = await connection.fetchrow(
                """
                UPDATE voice.conversations SET title = $3 WHERE id = $1 AND user_id = $2
                RETURNING id, title, status, created_at, updated_at
                """,
                conversation_id,
                user_id,
                storable(title),
            )
        return _read_or_none(row, Conversation)

    async def erase_conversation(self, conversation_id: UUID, *, user_id: str) -> list[UUID] | None:
        """Delete it with its messages, calls and sessions; returns the sessions not ended yet.

        None: there was no such conversation.
        """
        async with self._writing() as connection:
            row = await connection.fetchrow(
                """
                WITH erased AS (
                    DELETE FROM voice.conversations WHERE id = $1 AND user_id = $2 RETURNING id
                )
                SELECT array(
                    SELECT id FROM voice.sessions
                    WHERE conversation_id = erased.id AND state <> 'ended'
                ) AS sessions
                FROM erased
                """,
                conversation_id,
                user_id,
            )
            if row is not None:
                await ownership.notify(connection, row["sessions"])
        return None if row is None else list(row["sessions"])

    async def list_messages(
        self, conversation_id: UUID, *, after_seq: int = 0, limit: int
    ) -> list[Message]:
        async with self._reading() as connection:
            rows = await connection.fetch(
                """
                SELECT id, seq, turn, role, content, session_id, created_at
                FROM voice.messages WHERE conversation_id = $1 AND seq > $2
                ORDER BY seq LIMIT $3
                """,
                conversation_id,
                after_seq,
                limit,
            )
        return [_read(row, Message) for row in rows]

    async def list_calls(
        self, conversation_id: UUID, *, after: tuple[int, UUID] | None = None, limit: int
    ) -> list[IntentCall]:
        """In order; `after` is (after_seq, id) of the last one seen."""
        after_seq, last_id = after or (-1, UUID(int=0))
        async with self._reading() as connection:
            rows = await connection.fetch(
                """
                SELECT id, call_id, session_id, after_seq, function, intent, arguments, status,
                       attempts, result, response, last_error, created_at, updated_at,
                       CASE status WHEN 'submitting' THEN next_attempt_at END AS next_attempt_at
                FROM voice.intents WHERE conversation_id = $1 AND (after_seq, id) > ($2, $3)
                ORDER BY after_seq, id LIMIT $4
                """,
                conversation_id,
                after_seq,
                last_id,
                limit,
            )
        return [_read_call(row) for row in rows]

    async def load_history(self, conversation_id: UUID) -> History:
        """The newest messages, and the calls since the first of them that the next model is told
        of: those that were answered, and those that may yet reach the Orchestrator."""
        async with self._reading() as connection:
            messages = await connection.fetch(
                """
                SELECT id, seq, turn, role, content, session_id, created_at
                FROM voice.messages WHERE conversation_id = $1
                ORDER BY seq DESC LIMIT $2
                """,
                conversation_id,
                HISTORY_LENGTH,
            )
            whole = len(messages) < HISTORY_LENGTH
            calls = await connection.fetch(
                """
                SELECT id, call_id, session_id, after_seq, function, intent, arguments, status,
                       attempts, result, response, last_error, created_at, updated_at,
                       CASE status WHEN 'submitting' THEN next_attempt_at END AS next_attempt_at
                FROM voice.intents
                WHERE conversation_id = $1 AND after_seq >= $2
                  AND (response IS NOT NULL OR status = 'submitting')
                ORDER BY after_seq DESC, id DESC LIMIT $3
                """,
                conversation_id,
                0 if whole else messages[-1]["seq"],
                HISTORY_LENGTH,
            )
        return History(
            messages=[_read(row, Message) for row in reversed(messages)],
            calls=[_read_call(row) for row in reversed(calls)],
        )

    # --- the outbox --------------------------------------------------------------------------

    async def claim_calls(self, limit: int, *, lease: float) -> list[Claimed]:
        """Calls that are due, at most `limit`: others leave them alone for `lease` seconds.

        From now on a request of each may arrive, until a record says otherwise.
        """
        async with self._writing() as connection:
            rows = await connection.fetch(
                """
                WITH due AS (
                    SELECT id, in_doubt FROM voice.intents
                    WHERE status = 'submitting' AND next_attempt_at <= now()
                    ORDER BY next_attempt_at LIMIT $1
                    FOR UPDATE SKIP LOCKED
                )
                UPDATE voice.intents AS i
                SET next_attempt_at = now() + make_interval(secs => $2), in_doubt = true,
                    claims = i.claims + 1
                FROM due, voice.conversations AS c
                WHERE i.id = due.id AND c.id = i.conversation_id
                RETURNING i.id, i.conversation_id, i.session_id, c.user_id, i.call_id, i.after_seq,
                          i.function, i.intent, i.arguments, i.attempts, due.in_doubt,
                          i.idempotency_key, i.claims AS claim,
                          extract(epoch FROM now() - i.accepted_at)::float8 AS age
                """,
                limit,
                lease,
            )
        return [_read(row, Claimed) for row in rows]

    async def list_outcomes(self, ids: Sequence[UUID]) -> list[Settled]:
        """Those of the calls that have an outcome."""
        async with self._reading() as connection:
            rows = await connection.fetch(
                """
                SELECT id, status, result, response FROM voice.intents
                WHERE id = ANY($1::uuid[]) AND status <> 'submitting'
                """,
                list(ids),
            )
        return [
            Settled(
                id=row["id"],
                status=IntentStatus(row["status"]),
                result=_read_json(row["result"]),
                response=row["response"] or "",
            )
            for row in rows
        ]

    async def count_waiting(self) -> Waiting:
        async with self._reading() as connection:
            row = await connection.fetchrow(
                """
                SELECT count(*) AS count,
                       coalesce(extract(epoch FROM now() - min(accepted_at)), 0)::float8 AS oldest
                FROM voice.intents WHERE status = 'submitting'
                """
            )
        assert row is not None, "an aggregate has one row"
        return _read(row, Waiting)

    async def retry_call(
        self, call_id: UUID, conversation_id: UUID, *, user_id: str, response: str
    ) -> tuple[IntentCall, bool] | None:
        """Submit a failed call again, at once; `response` is what a model is told meanwhile.

        The call as it is now, and whether it was failed. None: the user has no such call.
        """
        async with self._writing() as connection:
            row = await connection.fetchrow(
                """
                SELECT i.status FROM voice.intents AS i
                JOIN voice.conversations AS c ON c.id = i.conversation_id
                WHERE i.id = $1 AND i.conversation_id = $2 AND c.user_id = $3
                FOR UPDATE OF i
                """,
                call_id,
                conversation_id,
                user_id,
            )
            if row is None:
                return None
            failed = row["status"] == IntentStatus.FAILED.value
            if failed:
                await connection.execute(
                    # A new claim: what was written about it before, and comes late, is void.
                    """
                    UPDATE voice.intents
                    SET status = 'submitting', attempts = 0, result = NULL, response = $2,
                        next_attempt_at = now(), accepted_at = now(), in_doubt = false,
                        last_error = NULL, claims = claims + 1,
                        updated_at = greatest(updated_at, now())
                    WHERE id = $1
                    """,
                    call_id,
                    response,
                )
            row = await connection.fetchrow(
                """
                SELECT id, call_id, session_id, after_seq, function, intent, arguments, status,
                       attempts, result, response, last_error, created_at, updated_at,
                       CASE status WHEN 'submitting' THEN next_attempt_at END AS next_attempt_at
                FROM voice.intents WHERE id = $1
                """,
                call_id,
            )
        assert row is not None, "it is locked"
        return _read_call(row), failed

    # --- sessions ----------------------------------------------------------------------------

    async def create_session(self, session: NewSession, *, resume: bool) -> datetime | None:
        """Add a session to a new conversation, or (`resume`) to one that the user has.

        When its ticket expires. None: there is none to resume. A closed conversation is open again.
        """
        async with self._writing() as connection:
            if resume:
                done = await connection.execute(
                    "UPDATE voice.conversations SET status = 'open' WHERE id = $1 AND user_id = $2",
                    session.conversation_id,
                    session.user_id,
                )
                if done != "UPDATE 1":
                    return None
                await ownership.supersede_direct(connection, session.conversation_id, session.id)
            else:
                await connection.execute(
                    "INSERT INTO voice.conversations (id, user_id) VALUES ($1, $2)",
                    session.conversation_id,
                    session.user_id,
                )
            expires_at: datetime = await connection.fetchval(
                """
                INSERT INTO voice.sessions (id, conversation_id, user_id, ticket_hash,
                                            ticket_expires_at, timezone, audio, voice, language)
                VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), $6, $7::jsonb, $8, $9)
                RETURNING ticket_expires_at
                """,
                session.id,
                session.conversation_id,
                session.user_id,
                session.ticket_hash,
                session.ticket_seconds,
                session.timezone,
                session.audio.decode(),
                session.voice,
                session.language,
            )
        return expires_at

    async def get_session(self, session_id: UUID, *, user_id: str) -> Session | None:
        async with self._reading() as connection:
            row = await connection.fetchrow(
                """
                SELECT id, conversation_id, state, agent_request_id, created_at, started_at,
                       ended_at, end_reason, browser_code, agent_code,
                       browser_frames, browser_bytes, agent_frames, agent_bytes, latency
                FROM voice.sessions WHERE id = $1 AND user_id = $2
                """,
                session_id,
                user_id,
            )
        return None if row is None else _read_session(row)

    async def close_session(self, session_id: UUID, *, user_id: str, reason: str) -> bool:
        """Close its conversation; end it if it never began. False: the user has no such session.

        One that is live is ended by its owner: its `SessionEnded` says how.
        """
        async with self._writing() as connection:
            conversation_id = await connection.fetchval(
                """
                UPDATE voice.conversations SET status = 'closed'
                WHERE id = (
                    SELECT conversation_id FROM voice.sessions WHERE id = $1 AND user_id = $2
                )
                RETURNING id
                """,
                session_id,
                user_id,
            )
            if conversation_id is None:
                return False
            await connection.execute(
                """
                UPDATE voice.sessions SET state = 'ended', ended_at = now(), end_reason = $2
                WHERE id = $1 AND state <> 'ended'
                  AND (ticket_used_at IS NULL AND state = 'new' OR transport = 'direct')
                """,
                session_id,
                reason,
            )
            await ownership.ask_to_hang_up(connection, session_id)
        return True

    # --- the journal -------------------------------------------------------------------------

    async def write(self, records: Sequence[Record]) -> None:
        """Store a batch, all or nothing. Repeating it changes nothing.

        Records of a conversation or session that is gone are dropped: it was erased meanwhile.
        Raises `StoreUnavailable`, and `ValuesRefused` when one of them can never be stored.
        """
        async with self._writing() as connection:
            await flush(connection, records)

    # --- transactions ------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """For statements that stand elsewhere, as in ownership.py. Raises `StoreUnavailable`."""
        async with self._writing() as connection:
            yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        # One snapshot for all statements of a question.
        with _translated():
            async with (
                self._opened().acquire(timeout=ACQUIRE_SECONDS) as connection,
                _transaction(connection, isolation="repeatable_read", readonly=True),
            ):
                yield connection

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Connection]:
        with _translated():
            async with (
                self._opened().acquire(timeout=ACQUIRE_SECONDS) as connection,
                _transaction(connection),
            ):
                # Not a setting of the connection: a pooler may stand in between.
                await connection.execute(
                    f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_SECONDS * 1000:.0f}"
                )
                yield connection

    def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            raise StoreUnavailable("the store is not open")
        return self._pool


_Row = TypeVar("_Row", bound=msgspec.Struct)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except FROM_DATABASE as error:
        # Without the cause: its text may quote rows, and a traceback would show it.
        if is_of_values(error):
            raise ValuesRefused(describe(error)) from None
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # the driver has lost the cancellation
            raise asyncio.CancelledError from None
        raise StoreUnavailable(describe(error), reason=find_reason(error)) from None


@asynccontextmanager
async def _transaction(connection: Connection, **options: Any) -> AsyncIterator[None]:
    """One that is cancelled, or gets no answer in time, ends at once and with its connection.

    The driver would wait for the server, to cancel the statement and to roll back. One that is
    frozen never answers; one that lives rolls back by itself.
    """
    transaction = connection.transaction(**options)
    try:
        await transaction.start()
        try:
            yield
        except (asyncio.CancelledError, TimeoutError):
            raise
        except BaseException:
            await transaction.rollback()
            raise
        await transaction.commit()
    except (asyncio.CancelledError, TimeoutError):
        connection.terminate()
        raise


async def _keep_as_is(_: object) -> None:
    """Nothing was changed on a connection, so nothing is reset when it goes back to the pool."""


async def _make_query(connection: Connection, terms: Sequence[Term]) -> str | None:
    """The tsquery of these terms, as text; None: there is no word in them."""
    query: str | None = await connection.fetchval(
        """
        SELECT string_agg('(' || together || ')', ' | ')
        FROM (
            SELECT string_agg(CASE WHEN negated THEN '!' ELSE '' END
                              || '(' || words || CASE WHEN prefix THEN ':*' ELSE '' END || ')',
                              ' & ') AS together
            FROM unnest($1::int[], $2::text[], $3::bool[], $4::bool[])
                     AS t (place, said, negated, prefix),
                 CAST(phraseto_tsquery('simple', voice.fold(said)) AS text) AS words
            WHERE words <> ''
            GROUP BY place
        ) AS alternative
        """,
        [term.place for term in terms],
        [term.text for term in terms],
        [term.negated for term in terms],
        [term.prefix for term in terms],
    )
    return query


def _quote_word(word: str) -> str:
    """A tsquery of this one word, taken literally."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"


def _read(row: asyncpg.Record, struct: type[_Row]) -> _Row:
    return struct(**row)


def _read_or_none(row: asyncpg.Record | None, struct: type[_Row]) -> _Row | None:
    return None if row is None else _read(row, struct)


def _read_session(row: asyncpg.Record) -> Session:
    fields = dict(row)
    if fields["latency"] is not None:
        fields["latency"] = msgspec.json.decode(fields["latency"], type=SessionLatency)
    return Session(**fields)


def _read_call(row: asyncpg.Record) -> IntentCall:
    fields = dict(row)
    fields["status"] = IntentStatus(fields["status"])
    fields["result"] = _read_json(fields["result"])
    return IntentCall(**fields)


def _read_json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
