"""Micro-benchmarks, without a load of frames: messages stored, pages of history read, set-up.

Load tests. Each function measures one thing against real parts and returns numbers; sizes are
arguments, so that a test can run them small. `measure` starts what they need and runs them all.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import msgspec
import uuid_utils.compat as uuids
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from control.api.sessions import PREFIX
from control.auth.current_user import USER_ID
from control.db.conversations import create_conversation
from control.db.migrate import migrate
from control.db.store import Store, StoreUnavailable
from control.dev.postgres import embedded
from loadtests import systems_under_test
from loadtests.deployed_relay import begin_session
from loadtests.load_generator import SETTINGS
from loadtests.percentiles import Latency, summarize_values
from loadtests.processes import ANYWHERE
from loadtests.results import Arm, Figure
from loadtests.systems_under_test import KEY, Dependencies
from relay.core.records import MessageSaid, Record
from relay.journal.journal import Journal, WriteFailed
from relay.protocol import deepgram
from relay.protocol.relay_events import SUBPROTOCOL
from relay.sandbox.options import Options
from relay.sandbox.server import serve as serve_sandbox
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PAGE = 50
CHUNK = 2_000  # messages given to the journal at once; two chunks are under way
FILL_CHUNK = 50_000  # rows of one insert
LINES = 997  # different ones among them
SECONDS = 60.0  # the longest that one step may take


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured. The defaults are what the budgets speak of; `QUICK` is for a while."""

    stored: int = 200_000
    history: int = 1_000_000
    pages: int = 2_000
    waits: int = 30
    handshake: float = 0.15  # what the agent takes for it


QUICK = Sizes(stored=60_000, history=200_000, pages=1_000, waits=10)

Progress = Callable[[str], None]


async def measure(sizes: Sizes, progress: Progress) -> dict[str, float]:
    """All of it, in some minutes for the default sizes; what was started has ended.

    Raises EmbeddedError, MigrationError or ProgramFailed.
    """
    figures: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="figures-")))
        progress("starting PostgreSQL")
        url = await stack.enter_async_context(embedded(folder / "data"))
        await migrate(url, log=log)
        progress(f"storing {sizes.stored:,} messages")
        figures[Figure.MESSAGES_PER_SECOND] = await store_messages(url, messages=sizes.stored)
        progress(f"filling a history of {sizes.history:,} messages")
        conversations = await fill_history(url, messages=sizes.history)
        options = Options(api_key=KEY, handshake_delay=sizes.handshake)
        agent = await stack.enter_async_context(serve_sandbox(options))
        relay_url = await stack.enter_async_context(run_relay(url, agent.agent_url, folder))
        progress(f"reading {sizes.pages:,} pages of it")
        pages = await read_history(relay_url, conversations, pages=sizes.pages)
        figures[Figure.HISTORY_P99_MS] = pages.p99 / 1000
        figures[Figure.HISTORY_MESSAGES] = sizes.history
        progress(f"waiting for SettingsApplied {sizes.waits} times each way")
        figures |= await compare_waits(relay_url, agent.agent_url, times=sizes.waits)
    return figures


# --- storing -------------------------------------------------------------------------------------


async def store_messages(
    database_url: str, *, messages: int, conversations: int = 100, warm_up: int = CHUNK
) -> float:
    """Messages per second from `Journal.append` to committed, with the relay's own journal.

    They come from `conversations` talks in turn, as fast as they are stored.
    """
    store = Store(database_url)
    await store.open()
    try:
        talks = [Talk(uuids.uuid7(), uuids.uuid7()) for _ in range(conversations)]
        for talk in talks:
            await create_conversation(store, talk.conversation_id, user_id=USER_ID)

        async def write(records: Sequence[Record]) -> None:
            try:
                await store.write(records)
            except StoreUnavailable as error:
                raise WriteFailed(str(error)) from error

        with tempfile.TemporaryDirectory(prefix="relay-journal-") as directory:
            journal = Journal(write, Metrics(), Path(directory))
            async with journal.running(grace=SECONDS):
                await _pour(journal, talks, warm_up)
                start = time.perf_counter()
                await _pour(journal, talks, messages)
                return messages / (time.perf_counter() - start)
    finally:
        await store.close()


async def _pour(journal: Journal, talks: Sequence[Talk], messages: int) -> None:
    stored: asyncio.Event | None = None
    for first in range(0, messages, CHUNK):
        before, stored = stored, asyncio.Event()
        last = min(first + CHUNK, messages) - 1
        for number in range(first, last + 1):
            record = talks[number % len(talks)].say()
            journal.append(record, stored.set if number == last else None)
        if before is not None:
            await before.wait()
    if stored is not None:
        await stored.wait()


class Talk:
    """A conversation that goes on: user and assistant in turn, lines as people and models speak."""

    def __init__(self, conversation_id: UUID, session_id: UUID) -> None:
        self.conversation_id = conversation_id
        self._session_id = session_id
        self._seq = 0
        self._words = random.Random(conversation_id.int)

    def say(self) -> MessageSaid:
        self._seq += 1
        role: deepgram.Role = "user" if self._seq % 2 else "assistant"
        return MessageSaid(
            id=uuids.uuid7(),
            conversation_id=self.conversation_id,
            session_id=self._session_id,
            seq=self._seq,
            turn=self._seq,
            role=role,
            content=" ".join(self._words.choices(WORDS, k=8 if role == "user" else 16)),
            at=datetime.now(UTC),
        )


SPEECH = """
i you we the a to and of in is it that for on with my want run marathon april deadline task
tomorrow friday week please move add buy shoes dentist appointment goal sure shall when what
morning evening plan remind set done yes right before after again first next long short call
"""
WORDS = SPEECH.split()


# --- reading history -----------------------------------------------------------------------------


async def fill_history(
    database_url: str, *, messages: int, conversations: int = 1_000
) -> list[UUID]:
    """Put `messages` into the tables, evenly; returns the conversations, with `seq` from 1."""
    ids = [uuids.uuid7() for _ in range(min(conversations, messages))]
    connection = await asyncpg.connect(database_url, statement_cache_size=0)
    try:
        await connection.execute(
            "INSERT INTO voice.conversations (id, user_id) SELECT unnest($1::uuid[]), $2",
            ids,
            USER_ID,
        )
        await connection.execute("SET maintenance_work_mem = '256MB'")
        # The index of the words is made again afterwards: many times faster than row by row.
        index = "voice.messages_search"
        words = await connection.fetchval("SELECT pg_get_indexdef($1::text::regclass)", index)
        await connection.execute(f"DROP INDEX {index}")
        for first in range(0, messages, FILL_CHUNK):
            await _insert_many(connection, ids, first, min(FILL_CHUNK, messages - first))
        await connection.execute(words)
        # As autovacuum would, some time later.
        await connection.execute("VACUUM ANALYZE voice.messages")
    finally:
        await connection.close()
    return ids


async def _insert_many(
    connection: asyncpg.Connection[asyncpg.Record], ids: list[UUID], first: int, count: int
) -> None:
    """The message with number n goes to conversation n % len(ids)."""
    lines = [" ".join(random.Random(n).choices(WORDS, k=8 + n % 9)) for n in range(LINES)]
    await connection.execute(
        """
        INSERT INTO voice.messages (conversation_id, seq, turn, id, session_id, user_id, role,
                                    content, created_at)
        SELECT ($3::uuid[])[1 + n % $4], 1 + n / $4, 1 + n / $4, lpad(to_hex(n), 32, '0')::uuid,
               ($3::uuid[])[1 + n % $4], $5,
               CASE n / $4 % 2 WHEN 0 THEN 'user' ELSE 'assistant' END,
               ($6::text[])[1 + n % $7], now()
        FROM generate_series($1::bigint, $1 + $2::bigint - 1) AS n
        """,
        first,
        count,
        ids,
        len(ids),
        USER_ID,
        lines,
        LINES,
        timeout=10 * SECONDS,
    )


async def read_history(
    relay_url: str, conversations: Sequence[UUID], *, pages: int, deepest: int = 900
) -> Latency:
    """What GET of one page takes, over one kept connection, one after the other.

    Each is a page of another conversation, after a `seq` of at most `deepest`.
    """
    chosen = random.Random(1)
    took: list[float] = []
    async with httpx.AsyncClient(base_url=relay_url, timeout=SECONDS, trust_env=False) as rest:
        for _ in range(pages + pages // 10):
            path = f"{PREFIX}/conversations/{chosen.choice(conversations)}/messages"
            after = chosen.randint(0, deepest)
            start = time.perf_counter()
            response = await rest.get(path, params={"limit": PAGE, "after_seq": after})
            took.append((time.perf_counter() - start) * 1e6)
            if response.status_code != 200:
                raise RuntimeError(f"GET {path}: expected 200, got {response.status_code}")
    return summarize_values(took[pages // 10 :])  # what came first warmed it up


# --- the wait for SettingsApplied ----------------------------------------------------------------


@asynccontextmanager
async def run_relay(database_url: str, agent_url: str, folder: Path) -> AsyncIterator[str]:
    """`voice-relay serve` while inside; its URL. Raises `ProgramFailed`."""
    dependencies = Dependencies(
        folder=folder,
        cores=ANYWHERE,
        agent_url=agent_url,
        agent_tls_url=None,
        ca=None,
        database_url=database_url,
        orchestrator_url="http://127.0.0.1:9",  # nobody: no function is called here
    )
    async with systems_under_test.start(Arm.OURS, dependencies, tls=False) as started:
        yield started.endpoint.url


async def compare_waits(relay_url: str, agent_url: str, *, times: int) -> dict[str, float]:
    """Medians in ms, from opening the WebSocket to SettingsApplied; the two ways take turns."""
    direct: list[float] = []
    relayed: list[float] = []
    for _ in range(times):
        direct.append(await wait_direct(agent_url))
        relayed.append(await wait_relayed(relay_url))
    return {
        Figure.READY_DIRECT_MS: summarize_values(direct).p50 / 1000,
        Figure.READY_MS: summarize_values(relayed).p50 / 1000,
    }


async def wait_direct(agent_url: str) -> float:
    """Microseconds, without a relay: the browser sends the Settings itself."""
    start = time.perf_counter()
    headers = {"Authorization": f"Token {KEY}"}
    async with (
        asyncio.timeout(SECONDS),
        connect(agent_url, additional_headers=headers, compression=None, proxy=None) as agent,
    ):
        await _expect(agent, "Welcome")
        await agent.send(SETTINGS.decode())
        await _expect(agent, "SettingsApplied")
        return (time.perf_counter() - start) * 1e6


async def wait_relayed(relay_url: str) -> float:
    """Microseconds, through the relay, directly after POST /session."""
    async with httpx.AsyncClient(base_url=relay_url, timeout=SECONDS, trust_env=False) as rest:
        url, ticket = await begin_session(rest)
    protocols = [Subprotocol(SUBPROTOCOL), Subprotocol(ticket)]
    start = time.perf_counter()
    async with (
        asyncio.timeout(SECONDS),
        connect(url, subprotocols=protocols, compression=None, proxy=None) as browser,
    ):
        await _expect(browser, "SettingsApplied")
        return (time.perf_counter() - start) * 1e6


async def _expect(connection: ClientConnection, kind: str) -> None:
    """Read until a text of this type; other texts and audio pass."""
    while True:
        frame = await connection.recv()
        if isinstance(frame, str):
            found = msgspec.json.decode(frame)["type"]
            if found == kind:
                return
            if found in ("Error", "RelayError"):
                raise RuntimeError(f"expected {kind}, got {frame}")
