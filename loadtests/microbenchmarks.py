"""Micro-benchmarks, without a load of frames: messages stored, pages of history read, set-up.

Load tests. Each function measures one thing against real parts and returns numbers; sizes are
arguments, so that a test can run them small. `measure` runs them all.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import msgspec
import uuid_utils.compat as uuids

from control.api.sessions import PREFIX
from control.auth.current_user import USER_ID
from control.db.conversations import create_conversation
from control.db.store import Store
from loadtests import greeting
from loadtests.environment import Environment
from loadtests.load_generator import Caller, Load
from loadtests.percentiles import Latency, summarize_values
from loadtests.processes import ANYWHERE, ProgramFailed
from loadtests.results import Arm
from loadtests.scenarios import QUIET, Sizes
from loadtests.systems_under_test import KEY, start
from loadtests.worker_process import running
from relay.core.records import MessageSaid
from relay.journal.journal import Journal
from relay.sandbox.options import Options
from relay.sandbox.server import serve as serve_sandbox
from relay.telemetry.metrics import Metrics

PAGE = 50
UNDER_WAY = 4_000  # messages given to the journal and not stored yet
FILL_CHUNK = 50_000  # rows of one insert
SECONDS = 60.0  # the longest that one step may take

SPEECH = """
i you we the a to and of in is it that for on with my want run marathon april deadline task
tomorrow friday week please move add buy shoes dentist appointment goal sure shall when what
morning evening plan remind set done yes right before after again first next long short call
"""
# As people and models speak.
LINES = [" ".join(random.Random(n).choices(SPEECH.split(), k=8 + n % 9)) for n in range(997)]


async def measure(
    environment: Environment, sizes: Sizes, progress: Callable[[str], None]
) -> dict[str, float]:
    """All of it, in some minutes for the default sizes. Raises ProgramFailed."""
    url = environment.database_url
    progress(f"storing {sizes.stored:,} messages")
    speed = await store_messages(url, messages=sizes.stored)
    progress(f"filling a history of {sizes.history:,} messages")
    conversations = await fill_history(url, messages=sizes.history)
    progress(f"reading {sizes.pages:,} pages of it")
    async with start(Arm.OURS, environment) as ours:
        pages = await read_history(ours.endpoint.url, conversations, pages=sizes.pages)
    progress(f"waiting for SettingsApplied {sizes.waits} times each way")
    async with serve_sandbox(Options(api_key=KEY, handshake_delay=sizes.handshake)) as agent:
        slow = msgspec.structs.replace(environment, agent_url=agent.agent_url)
        direct, relayed = [
            await wait_for_settings(slow, arm, times=sizes.waits) for arm in (Arm.DIRECT, Arm.OURS)
        ]
        tapped = await greeting.find_figures(slow, progress, taps=sizes.taps)
    return tapped | {
        "messages_per_second": speed,
        "history_p99_ms": pages.p99 / 1000,
        "history_messages": sizes.history,
        "ready_direct_ms": direct.p50 / 1000,
        "ready_ms": relayed.p50 / 1000,
    }


async def store_messages(
    database_url: str, *, messages: int, conversations: int = 100, warm_up: int = 2_000
) -> float:
    """Messages per second from `Journal.append` to committed, with the relay's own journal.

    They come from `conversations` talks in turn, as fast as they are stored.
    """
    store = Store(database_url)
    await store.open()
    try:
        talks = [uuids.uuid7() for _ in range(conversations)]
        for talk in talks:
            await create_conversation(store, talk, user_id=USER_ID)
        with tempfile.TemporaryDirectory(prefix="relay-journal-") as directory:
            journal = Journal(store.write, Metrics(), Path(directory))
            async with journal.running(grace=SECONDS):
                await _pour(journal, talks, range(warm_up))
                begun = time.perf_counter()
                await _pour(journal, talks, range(warm_up, warm_up + messages))
                return messages / (time.perf_counter() - begun)
    finally:
        await store.close()


async def _pour(journal: Journal, talks: Sequence[UUID], numbers: range) -> None:
    """Give messages to the journal, as many as may be under way; all are stored on return.

    User and assistant in turn; of the talks, one after the other.
    """
    slots = asyncio.Semaphore(UNDER_WAY)
    for number in numbers:
        talk, seq = talks[number % len(talks)], 1 + number // len(talks)
        message = MessageSaid(
            id=uuids.uuid7(),
            conversation_id=talk,
            session_id=talk,
            seq=seq,
            turn=seq,
            role="user" if seq % 2 else "assistant",
            content=LINES[number % len(LINES)],
            at=datetime.now(UTC),
        )
        await slots.acquire()
        journal.append(message, slots.release)
    for _ in range(UNDER_WAY):
        await slots.acquire()


# The message with number n goes to conversation n % $4.
FILL = """
    INSERT INTO voice.messages (conversation_id, seq, turn, id, session_id, user_id, role,
                                content, created_at)
    SELECT ($3::uuid[])[1 + n % $4], 1 + n / $4, 1 + n / $4, lpad(to_hex(n), 32, '0')::uuid,
           ($3::uuid[])[1 + n % $4], $5,
           CASE n / $4 % 2 WHEN 0 THEN 'user' ELSE 'assistant' END,
           ($6::text[])[1 + n % $7], now()
    FROM generate_series($1::bigint, $1 + $2::bigint - 1) AS n
"""


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
        made_of = (ids, len(ids), USER_ID, LINES, len(LINES))
        for first in range(0, messages, FILL_CHUNK):
            rows = min(FILL_CHUNK, messages - first)
            await connection.execute(FILL, first, rows, *made_of, timeout=10 * SECONDS)
        await connection.execute(words)
        # As autovacuum would, some time later.
        await connection.execute("VACUUM ANALYZE voice.messages")
    finally:
        await connection.close()
    return ids


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


async def wait_for_settings(environment: Environment, arm: Arm, *, times: int) -> Latency:
    """From opening the WebSocket, directly after POST /session, to SettingsApplied.

    Raises ProgramFailed.
    """
    async with start(arm, environment) as started, running(Caller, ANYWHERE) as caller:
        load = Load(endpoint=started.endpoint, traffic=QUIET, sessions=times, at_once=1)
        attached = await caller.ask(Caller.attach, load)
        await caller.ask(Caller.leave)
    if attached.settle.count < times:
        raise ProgramFailed(f"{arm}: {'; '.join(attached.failed)}")
    return attached.settle
