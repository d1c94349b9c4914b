"""What goes wrong while others speak: the audio of the others must not feel it.

Load tests, our relay only. Sessions speak, then something breaks for as long again; the same
sessions are compared before and while. Every fault ends what it did.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from time import monotonic_ns
from typing import Any

import asyncpg
import httpx
import msgspec
import psutil

from loadtests import arms
from loadtests.agent import GROUP
from loadtests.caller import Load
from loadtests.lab import Lab
from loadtests.partner import PartnerFailed
from loadtests.processes import ProgramFailed
from loadtests.results import Arm, Figure, Latency, Run
from loadtests.run import DRAIN, attach, expect, find_loss, latencies, speak, until
from loadtests.traffic import CONVERSATION, FLOOD

SLOW_DATABASE = 0.2, 0.05  # seconds stopped and seconds running, over and over
SLOW_ORCHESTRATOR = 5.0  # seconds to an answer
STORM = 100  # sessions that attach at once
UNREAD = 5  # browsers that stop reading
UNREAD_SECONDS = 15.0  # until what the kernel keeps for them is full too
UNREAD_TALK_NS = 5_000_000_000  # that they speak
SMALL_BUFFER = 16 * 1024  # of the kernel, for what a browser has not read
WARM_UP = 2.0
GOODBYE = 3.0  # seconds in which every session must have been closed after SIGTERM
RESTARTING = 1012


class Scene(msgspec.Struct, frozen=True):
    """What a fault may lay hands on. `extra` is where it leaves what it saw."""

    lab: Lab
    started: arms.Started
    extra: dict[str, Any]


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def stopped_database(scene: Scene) -> AsyncIterator[None]:
    """Every process of the database stands still: nothing is refused, nothing is answered."""
    _signal(scene.lab.database_processes(), signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(scene.lab.database_processes(), signal.SIGCONT)


@asynccontextmanager
async def slow_database(scene: Scene) -> AsyncIterator[None]:
    """It stands still most of the time."""
    stopped, running = SLOW_DATABASE

    async def tease() -> None:
        try:
            while True:
                _signal(scene.lab.database_processes(), signal.SIGSTOP)
                await asyncio.sleep(stopped)
                _signal(scene.lab.database_processes(), signal.SIGCONT)
                await asyncio.sleep(running)
        finally:
            _signal(scene.lab.database_processes(), signal.SIGCONT)

    async with asyncio.TaskGroup() as tasks:
        teasing = tasks.create_task(tease(), name="slow database")
        yield
        teasing.cancel()


@asynccontextmanager
async def slow_orchestrator(scene: Scene) -> AsyncIterator[None]:
    """Every function call takes seconds."""
    await scene.lab.agent.ask({"do": "orchestrator", "delay": SLOW_ORCHESTRATOR})
    try:
        yield
    finally:
        await scene.lab.agent.ask({"do": "orchestrator", "delay": 0.0})


@asynccontextmanager
async def unread(scene: Scene) -> AsyncIterator[None]:
    """Further browsers attach, speak and read nothing."""
    async with scene.lab.caller() as others:
        more = {"first": GROUP, "receive_buffer": SMALL_BUFFER}
        await attach(scene.lab, others, scene.started, CONVERSATION, UNREAD, **more)
        now = monotonic_ns()
        order = {"do": "speak", "at": now, "until": now + UNREAD_TALK_NS, "unread_from": now}
        others.tell(order)
        yield


@asynccontextmanager
async def storm(scene: Scene) -> AsyncIterator[None]:
    """Many browsers attach in the same moment."""
    async with scene.lab.caller() as others:
        load = Load(
            door=scene.started.door,
            traffic=CONVERSATION,
            sessions=STORM,
            first=GROUP,
            at_once=STORM,
        )
        others.tell({"do": "attach", "load": msgspec.to_builtins(load)})
        yield
        came = await others.answer(seconds=30)
        scene.extra["storm_attached"] = came["attached"]
        scene.extra["storm_seconds"] = round(came["seconds"], 3)
        scene.extra["storm_failed"] = came["failed"]
        await others.ask({"do": "leave"})


FAULTS: dict[str, Fault] = {
    "stopped database": stopped_database,
    "slow database": slow_database,
    "slow orchestrator": slow_orchestrator,
    "unread browsers": unread,
    "connect storm": storm,
}


def _signal(processes: list[psutil.Process], what: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(what)
        except psutil.NoSuchProcess:
            continue


# --- running them --------------------------------------------------------------------------------


async def run_fault(lab: Lab, name: str, *, sessions: int, seconds: float) -> list[Run]:
    """Two runs of the same sessions: before, and while it lasts. They are not voided by lag."""
    extra: dict[str, Any] = {}
    scenario = f"fault: {name}"
    try:
        async with AsyncExitStack() as stack:
            started = await stack.enter_async_context(arms.start(Arm.OURS, lab.around, tls=False))
            caller = await stack.enter_async_context(lab.caller())
            await expect(lab, CONVERSATION)
            attached = await attach(lab, caller, started, CONVERSATION, sessions)
            if attached["attached"] < sessions:
                return [_void(scenario, sessions, f"not all attached: {attached['failed']}")]
            start, stop = await speak(lab, caller, warm_up=WARM_UP, seconds=2 * seconds)
            middle = start + int(seconds * 1e9)
            await until(middle)
            stalls = await _read_stalls(started)
            async with FAULTS[name](Scene(lab, started, extra)):
                await until(stop)
            extra["stall_ms"] = _longest(await _read_stalls(started), stalls)
            await caller.answer(seconds=15)
            await asyncio.sleep(DRAIN)
            windows = [(start, middle), (middle, stop)]
            came = await caller.ask({"do": "collect", "windows": windows}, seconds=60)
            heard = await lab.agent.ask({"do": "collect", "windows": windows}, seconds=60)
            await caller.ask({"do": "leave"})
    except (ProgramFailed, PartnerFailed, httpx.HTTPError) as error:
        return [_void(scenario, sessions, str(error))]
    # With a slow Orchestrator a call is open for longer than one may be otherwise.
    void = find_loss(came, heard, stop - int(SLOW_ORCHESTRATOR * 1e9))
    return [
        _make_run(scenario, sessions, seconds, which, latencies(came, heard, place), void, extra)
        for place, which in enumerate(("ours, before", Arm.OURS))
    ]


def _make_run(
    scenario: str,
    sessions: int,
    seconds: float,
    arm: str,
    measured: tuple[Latency, Latency, Latency],
    void: str | None,
    extra: dict[str, Any],
) -> Run:
    up, down, lag = measured
    return Run(
        arm=arm,
        scenario=scenario,
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


def _void(scenario: str, sessions: int, why: str) -> Run:
    return Run(arm=Arm.OURS, scenario=scenario, sessions=sessions, void=why)


Buckets = dict[float, float]  # upper bound in seconds to how many, as /metrics has it


async def _read_stalls(started: arms.Started) -> Buckets:
    """The relay's own record of how late its event loop was."""
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as rest:
        answer = await rest.get(f"{started.door.url}/metrics")
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


# --- a browser that never reads, and the end -----------------------------------------------------


async def weigh_unread(lab: Lab, *, browsers: int = 10) -> dict[str, float]:
    """KiB that a session needs more when its browser never reads, at the most.

    Nothing when a session did not last: it would have needed no memory.
    """
    async with arms.start(Arm.OURS, lab.around, tls=False) as started, lab.caller() as caller:
        program = started.program
        if program is None:
            return {}
        await expect(lab, FLOOD)
        await attach(lab, caller, started, FLOOD, browsers, receive_buffer=SMALL_BUFFER)
        start, stop = await speak(
            lab, caller, warm_up=WARM_UP, seconds=UNREAD_SECONDS, unread_after=WARM_UP
        )
        await until(start)
        normal = most = program.rss_bytes()
        live = await _count_open(lab)
        while monotonic_ns() < stop:
            await asyncio.sleep(0.25)
            most = max(most, program.rss_bytes())
        if await _count_open(lab) < live:
            return {}
        await caller.answer(seconds=10)
        await caller.ask({"do": "leave"})
    return {Figure.UNREAD_SESSION_KIB: (most - normal) / 1024 / browsers}


async def run_goodbye(lab: Lab, *, sessions: int) -> Run:
    """SIGTERM while all speak: each browser is told 1012, all is stored, the process ends."""
    scenario = "fault: SIGTERM"
    extra: dict[str, Any] = {}
    async with arms.start(Arm.OURS, lab.around, tls=False) as started, lab.caller() as caller:
        assert started.program is not None
        await expect(lab, CONVERSATION)
        await attach(lab, caller, started, CONVERSATION, sessions)
        start, stop = await speak(lab, caller, warm_up=1.0, seconds=GOODBYE)
        await until(start)
        before = await _count_open(lab) - sessions
        process = started.program.process
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 30)
        extra["ended_after_s"] = round((monotonic_ns() - start) / 1e9, 3)
        await caller.answer(seconds=15)
        came = await caller.ask({"do": "collect", "windows": [(start, stop)]})
    void = None if code == 0 else f"exit code {code}"
    told = [voice["problems"] for voice in came["voices"]]
    expected = [f"closed: {RESTARTING}"]
    if wrong := [problems for problems in told if problems != expected]:
        void = f"{len(wrong)} of {sessions} sessions were not closed with {RESTARTING}: {wrong[0]}"
    extra["sessions_left_open"] = max(0, await _count_open(lab) - max(0, before))
    if extra["sessions_left_open"]:
        void = f"{extra['sessions_left_open']} sessions are still open in the database"
    return Run(arm=Arm.OURS, scenario=scenario, sessions=sessions, void=void, extra=extra)


async def _count_open(lab: Lab) -> int:
    assert lab.around.database_url is not None
    connection = await asyncpg.connect(lab.around.database_url)
    try:
        count = await connection.fetchval(
            "SELECT count(*) FROM voice.sessions WHERE state = 'live'"
        )
        return int(count)
    finally:
        await connection.close()
