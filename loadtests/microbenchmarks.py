"""Micro-benchmarks, without a load of frames: messages stored, pages of history read, set-up.

Load tests. Each function measures one thing against real parts and returns numbers; sizes are
arguments, so that a test can run them small. `measure` runs them all.
"""

from __future__ import annotations

import asyncio
import random
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import msgspec
import uuid_utils.compat as uuids

from config.limits import Limits
from config.loader import load
from config.settings import CONFIG_DIR, STAND_INS, from_environment
from control.api.sessions import PREFIX
from control.auth.current_user import USER_ID
from control.db.conversations import create_conversation
from control.db.store import Store
from control.outbox.orchestrator_client import Post, connect
from loadtests import greeting
from loadtests.environment import Environment
from loadtests.load_generator import Caller, Load
from loadtests.percentiles import Latency, summarize_values
from loadtests.processes import ANYWHERE, HOST, ProgramFailed, find_usage
from loadtests.results import Arm
from loadtests.scenarios import QUIET, Sizes
from loadtests.systems_under_test import KEY, start
from loadtests.worker_process import running
from relay.core.admitted import Admitted
from relay.core.events import AgentOpened, EndReason
from relay.core.records import MessageSaid, Record
from relay.core.session import Session
from relay.functions.executor import Functions
from relay.functions.submission import Submitted
from relay.journal.journal import Journal
from relay.live import agent_settings
from relay.live.alarms import Alarms
from relay.live.quotas import AgentQuota
from relay.live.session_record import SessionRecord
from relay.live.session_runner import SessionRunner
from relay.live.tickets import new_ticket
from relay.live.watchers import Watchers
from relay.protocol import deepgram
from relay.sandbox.options import Options
from relay.sandbox.server import serve as serve_sandbox
from relay.supervisor import Contained, Supervisor
from relay.telemetry.log_limit import LogLimit
from relay.telemetry.metrics import Metrics
from relay.transport.connection import Connection
from relay.transport.egress import Egress
from relay.transport.send_queue import SendQueue

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
    progress(f"{sizes.storm:,} browsers at once")
    storm = await attach_at_once(environment, sessions=sizes.storm)
    return (
        tapped
        | storm
        | {
            "line_us": await time_lines(lines=sizes.lines),
            "call_ms": await time_calls(calls=sizes.calls),
            "messages_per_second": speed,
            "history_p99_ms": pages.p99 / 1000,
            "history_messages": sizes.history,
            "ready_direct_ms": direct.p50 / 1000,
            "ready_ms": relayed.p50 / 1000,
        }
    )


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


# --- beside the frames ----------------------------------------------------------------------------


async def time_lines(*, lines: int, sessions: int = 50) -> float:
    """Processor time of one `ConversationText`, in µs: from the bytes of the agent to the browser's
    send queue, with a journal on disk and the `RelayMessageSaved` that follows. No sockets, and no
    database: what is written there is thrown away."""

    async def write(_: Sequence[Record]) -> None:
        pass

    metrics = Metrics()
    supervisor = Supervisor(metrics)
    with tempfile.TemporaryDirectory(prefix="relay-journal-") as directory:
        journal = Journal(write, metrics, Path(directory))
        async with (
            journal.running(grace=SECONDS),
            supervisor.containing("session", seconds=0.0) as tasks,
        ):
            runners = [_open_session(journal, metrics, tasks) for _ in range(sessions)]
            begun = time.thread_time_ns()
            for number in range(lines):
                said = deepgram.ConversationText(
                    role="assistant" if number % 2 else "user", content=LINES[number % len(LINES)]
                )
                text = deepgram.encode(said)
                runners[number // 2 % sessions].hear(text, is_from_agent=True)
                await asyncio.sleep(0)  # as a rule each comes in a tick of its own
            await journal.settled(SECONDS)
            await asyncio.sleep(0)
            took = time.thread_time_ns() - begun
            for runner in runners:
                runner.hang_up(EndReason.HUNG_UP)
    return took / lines / 1000


def _open_session(journal: Journal, metrics: Metrics, tasks: Contained) -> SessionRunner:
    """A session whose agent has applied its Settings; both its queues swallow what they get."""
    configuration = load(CONFIG_DIR, {})
    admitted = Admitted(
        session_id=uuids.uuid7(),
        conversation_id=uuids.uuid7(),
        user_id=USER_ID,
        timezone="UTC",
        audio=configuration.agent.audio,
    )
    rules = Session(
        admitted,
        partial(agent_settings.compose, configuration, admitted),
        now=asyncio.get_running_loop().time(),
        began=datetime.now(UTC),
        limits=Limits(
            setup_seconds=SECONDS,
            roll_over_seconds=3_000.0,
            grace_seconds=30.0,
            idle_seconds=300.0,
            session_seconds=7_200.0,
        ),
        policy=configuration.policy,
        new_id=uuids.uuid7,
        jitter=random.random,
        new_ticket=new_ticket,
    )
    browser, agent = [Connection(SendQueue(1 << 20), max_message_bytes=1 << 20) for _ in range(2)]

    async def dial(_: Connection) -> None:
        await asyncio.sleep(SECONDS)

    runner = SessionRunner(
        rules,
        SessionRecord(admitted, journal, metrics, LogLimit(), Watchers()),
        connections=(browser, agent),
        dials=(dial, dial),
        asks=None,
        tasks=tasks,
        calls=(Functions(journal, metrics), configuration.registry),
        share=AgentQuota(0),
        alarms=Alarms(),
    )
    for queue in (browser.queue, agent.queue):
        queue.detach()
    runner.begin()
    runner.handle(AgentOpened())
    for message in (deepgram.Welcome(request_id="bench"), deepgram.SettingsApplied()):
        runner.hear(deepgram.encode(message), is_from_agent=True)
    return runner


async def attach_at_once(environment: Environment, *, sessions: int) -> dict[str, float]:
    """So many browsers begin a session and attach in the same moment: seconds until all have
    `SettingsApplied`, and the relay's processor time for one of them, in ms. Raises
    ProgramFailed."""
    async with start(Arm.OURS, environment) as started, running(Caller, ANYWHERE) as caller:
        load = Load(endpoint=started.endpoint, traffic=QUIET, sessions=sessions, at_once=sessions)
        cpu, begun = find_usage(started.process).cpu_ns, time.perf_counter()
        attached = await caller.ask(Caller.attach, load)
        seconds = time.perf_counter() - begun
        cpu = find_usage(started.process).cpu_ns - cpu
        await caller.ask(Caller.leave)
    if attached.settle.count < sessions:
        raise ProgramFailed(f"{sessions} at once: {'; '.join(attached.failed)}")
    return {"storm_seconds": seconds, "storm_attach_cpu_ms": cpu / sessions / 1e6}


async def time_calls(*, calls: int, at_once: int = 4) -> float:
    """Processor time of one request to the Orchestrator that is taken, in ms, over TCP on this
    machine and without TLS; the one that answers is a thread, whose time does not count."""
    answer = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # closed: all were answered
            with connection, connection.makefile("rb") as request:
                length = 0
                while (line := request.readline().lower()) not in (b"\r\n", b""):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                request.read(length)
                connection.sendall(answer)

    with socket.create_server((HOST, 0), backlog=64) as listening:
        answering = asyncio.create_task(asyncio.to_thread(serve, listening))
        url = f"http://{HOST}:{listening.getsockname()[1]}"
        egress = Egress(from_environment(STAND_INS))
        post = Post(
            name="GOAL",
            path="/goals",
            key=str(uuids.uuid7()),
            body=msgspec.json.encode({"intent": "GOAL", "parameters": {"title": "run a marathon"}}),
            seconds=SECONDS,
            in_doubt=False,
        )
        async with connect(url, "token", "secret", egress=egress) as orchestrator:

            async def submit(times: int) -> None:
                for _ in range(times):
                    outcome = await orchestrator.post(post)
                    if not isinstance(outcome, Submitted):
                        raise RuntimeError(f"expected Submitted, got {outcome}")

            await submit(at_once)
            begun = time.thread_time_ns()
            async with asyncio.TaskGroup() as tasks:
                for _ in range(at_once):
                    tasks.create_task(submit(calls // at_once))
            took = time.thread_time_ns() - begun
        listening.shutdown(socket.SHUT_RDWR)
        await answering
    return took / (calls // at_once * at_once) / 1e6
