"""What goes wrong while others speak: a database that stops, browsers that never read.

Load tests, our relay only. The audio of the others must not feel it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from time import monotonic_ns
from typing import Any

import asyncpg
import httpx
import psutil

from loadtests import systems_under_test
from loadtests.environment import Environment
from loadtests.processes import ProgramFailed
from loadtests.results import Arm, Figure, Run
from loadtests.run import DRAIN, attach, expect, find_loss, latencies, speak, until
from loadtests.scenarios import CONVERSATION, FLOOD
from loadtests.worker_process import WorkerFailed

UNREAD_SECONDS = 15.0  # until what the kernel keeps for them is full too
SMALL_BUFFER = 16 * 1024  # of the kernel, for what a browser has not read
WARM_UP = 2.0
STOPPED_DATABASE = "fault: stopped database"


@contextmanager
def stopped_database(environment: Environment) -> Iterator[None]:
    """Every process of the database stands still: nothing is refused, nothing is answered."""
    _signal(environment.database_processes(), signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(environment.database_processes(), signal.SIGCONT)


def _signal(processes: list[psutil.Process], what: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(what)
        except psutil.NoSuchProcess:
            continue


async def run_stopped_database(
    environment: Environment, *, sessions: int, seconds: float
) -> list[Run]:
    """Two runs of the same sessions: before, and while it lasts. They are not voided by lag."""
    extra: dict[str, Any] = {}
    try:
        async with AsyncExitStack() as stack:
            started = await stack.enter_async_context(
                systems_under_test.start(Arm.OURS, environment.dependencies, tls=False)
            )
            caller = await stack.enter_async_context(environment.caller())
            await expect(environment, CONVERSATION)
            attached = await attach(environment, caller, started, CONVERSATION, sessions)
            if attached["attached"] < sessions:
                return [_void(sessions, f"not all attached: {attached['failed']}")]
            start, stop = await speak(environment, caller, warm_up=WARM_UP, seconds=2 * seconds)
            middle = start + int(seconds * 1e9)
            await until(middle)
            stalls = await _read_stalls(started)
            with stopped_database(environment):
                await until(stop)
            extra["stall_ms"] = _longest(await _read_stalls(started), stalls)
            await caller.answer(seconds=15)
            await asyncio.sleep(DRAIN)
            windows = [(start, middle), (middle, stop)]
            came = await caller.ask({"do": "collect", "windows": windows}, seconds=60)
            heard = await environment.agent.ask({"do": "collect", "windows": windows}, seconds=60)
            await caller.ask({"do": "leave"})
    except (ProgramFailed, WorkerFailed, httpx.HTTPError) as error:
        return [_void(sessions, str(error))]
    void = find_loss(came, heard, stop)
    runs = []
    for place, which in enumerate(("ours, before", Arm.OURS)):
        up, down, lag = latencies(came, heard, place)
        runs.append(
            Run(
                arm=which,
                scenario=STOPPED_DATABASE,
                sessions=sessions,
                void=void,
                seconds=seconds,
                frames_up=up.count,
                frames_down=down.count,
                up=up,
                down=down,
                lag=lag,
                extra=extra,
            )
        )
    return runs


def _void(sessions: int, why: str) -> Run:
    return Run(arm=Arm.OURS, scenario=STOPPED_DATABASE, sessions=sessions, void=why)


Buckets = dict[float, float]  # upper bound in seconds to how many, as /metrics has it


async def _read_stalls(started: systems_under_test.Started) -> Buckets:
    """The relay's own record of how late its event loop was."""
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as rest:
        answer = await rest.get(f"{started.endpoint.url}/metrics")
    buckets = {}
    for line in answer.text.splitlines():
        name, _, rest_of_line = line.partition("{")
        if name == "relay_loop_lag_seconds_bucket":
            bound, _, count = rest_of_line.partition("} ")
            buckets[float(bound.split('"')[1])] = float(count.split()[0])
    return buckets


def _longest(after: Buckets, before: Buckets) -> float | None:
    """The upper bound (ms) of the highest bucket that grew in between; None: no such metric."""
    grown = 0.0
    longest: float | None = None
    for bound in sorted(after):
        more = after[bound] - before.get(bound, 0.0)
        if more > grown:
            longest, grown = bound * 1000, more
    return longest


async def weigh_unread(environment: Environment, *, browsers: int = 10) -> dict[str, float]:
    """KiB that a session needs more when its browser never reads, at the most.

    Nothing when a session did not last: it would have needed no memory.
    """
    async with (
        systems_under_test.start(Arm.OURS, environment.dependencies, tls=False) as started,
        environment.caller() as caller,
    ):
        program = started.program
        if program is None:
            return {}
        await expect(environment, FLOOD)
        await attach(environment, caller, started, FLOOD, browsers, receive_buffer=SMALL_BUFFER)
        start, stop = await speak(
            environment, caller, warm_up=WARM_UP, seconds=UNREAD_SECONDS, unread_after=WARM_UP
        )
        await until(start)
        normal = most = program.rss_bytes()
        live = await _count_live(environment)
        while monotonic_ns() < stop:
            await asyncio.sleep(0.25)
            most = max(most, program.rss_bytes())
        if await _count_live(environment) < live:
            return {}
        await caller.answer(seconds=10)
        await caller.ask({"do": "leave"})
    return {Figure.UNREAD_SESSION_KIB: (most - normal) / 1024 / browsers}


async def _count_live(environment: Environment) -> int:
    assert environment.dependencies.database_url is not None
    connection = await asyncpg.connect(environment.dependencies.database_url)
    try:
        count = await connection.fetchval(
            "SELECT count(*) FROM voice.sessions WHERE state = 'live'"
        )
        return int(count)
    finally:
        await connection.close()
