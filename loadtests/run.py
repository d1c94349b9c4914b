"""One run: an arm under one load for some seconds, and what is left to say about it.

Load tests.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import monotonic_ns
from typing import Any

import msgspec

from loadtests import systems_under_test
from loadtests.environment import Environment
from loadtests.load_generator import Load
from loadtests.percentiles import Latency
from loadtests.processes import Program, ProgramFailed
from loadtests.results import Arm, Run
from loadtests.scenarios import Traffic
from loadtests.worker_process import Message, WorkerFailed, WorkerProcess

MOST_LAG = 1_000  # microseconds at p99: above it what we measure is ourselves
MOST_CALL = 1_000_000_000  # ns that an answer to a function call may take
MOST_WAITED = 0.05  # of a run, that the relay was ready and something else had its core
SETTLING = 0.3  # seconds from attached to the first frame
DRAIN = 0.5  # seconds after the last frame was due; what has not come by then is lost
ATTACH_SECONDS = 30.0
PRIMING_NS = 500_000_000  # that they speak
PRIMING = 20  # sessions before memory is looked at: what every first one loads is not its price


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. The first `warm_up` seconds do not count.

    A run that is not `timed` counts on a busy machine too: only lost frames void it.
    """

    arm: Arm
    traffic: Traffic
    sessions: int
    tls: bool = False
    repetition: int = 0
    warm_up: float = 2.0
    seconds: float = 8.0
    memory: bool = False
    timed: bool = True


class Spent(msgspec.Struct, frozen=True):
    """Of the relay's process(es): ns on a processor, and ns ready to run without one."""

    processor: float
    waited: float


async def run(environment: Environment, plan: Plan) -> Run:
    """Never raises for what the arm does: a run that failed is void and says why."""
    try:
        async with AsyncExitStack() as stack:
            started = await stack.enter_async_context(
                systems_under_test.start(plan.arm, environment.dependencies, tls=plan.tls)
            )
            before = await _prime(environment, plan, started) if plan.memory else 0
            caller = await stack.enter_async_context(environment.caller())
            return await _measure(environment, plan, started, caller, before)
    except (ProgramFailed, WorkerFailed) as error:
        return _void(plan, str(error))


async def attach(
    environment: Environment,
    caller: WorkerProcess,
    started: systems_under_test.Started,
    traffic: Traffic,
    sessions: int,
    **more: Any,
) -> Message:
    """Attach callers to an arm; the answer says how many and how long each took."""
    load = Load(
        endpoint=started.endpoint,
        traffic=traffic,
        sessions=sessions,
        seconds=ATTACH_SECONDS,
        **more,
    )
    order = {"do": "attach", "load": msgspec.to_builtins(load)}
    return await caller.ask(order, seconds=ATTACH_SECONDS + 10)


async def expect(environment: Environment, traffic: Traffic) -> None:
    """Tell the agent what comes; it forgets what was."""
    await environment.agent.ask({"do": "expect", "traffic": msgspec.to_builtins(traffic)})


async def _prime(environment: Environment, plan: Plan, started: systems_under_test.Started) -> int:
    """What the arm's processes need after a few sessions have come and gone."""
    await expect(environment, plan.traffic)
    async with environment.caller() as caller:
        await attach(environment, caller, started, plan.traffic, PRIMING)
        at = monotonic_ns()
        until = at + PRIMING_NS
        await caller.ask({"do": "speak", "at": at, "until": until, "unread_from": 0})
        await caller.ask({"do": "leave"})
    await asyncio.sleep(0.5)
    return started.program.rss_bytes() if started.program else 0


async def _measure(
    environment: Environment,
    plan: Plan,
    started: systems_under_test.Started,
    caller: WorkerProcess,
    rss_before: int,
) -> Run:
    await expect(environment, plan.traffic)
    attached = await attach(environment, caller, started, plan.traffic, plan.sessions)
    if attached["attached"] < plan.sessions:
        await caller.ask({"do": "leave"})
        why = "; ".join(attached["failed"])
        return _void(plan, f"{attached['attached']} of {plan.sessions} sessions attached: {why}")
    start, stop = await speak(environment, caller, warm_up=plan.warm_up, seconds=plan.seconds)
    window = start, stop
    spent = await _processor_time(started.program, start, stop)
    rss = started.program.rss_bytes() if started.program else 0
    await caller.answer(seconds=plan.seconds + 10)
    await asyncio.sleep(DRAIN)
    came = await caller.ask({"do": "collect", "windows": [window]}, seconds=60)
    heard = await environment.agent.ask({"do": "collect", "windows": [window]}, seconds=60)
    await caller.ask({"do": "leave"})
    up, down, lag = latencies(came, heard)
    frames = up.count + down.count
    memory = None
    if plan.memory and started.program:
        memory = (rss - rss_before) / 1024 / plan.sessions
    return Run(
        arm=plan.arm,
        scenario=plan.traffic.name,
        tls=plan.tls,
        sessions=plan.sessions,
        repetition=plan.repetition,
        void=find_loss(came, heard, stop)
        or (find_disturbance(lag, heard, spent, plan) if plan.timed else None),
        seconds=plan.seconds,
        frames_up=up.count,
        frames_down=down.count,
        cpu_us_per_frame=spent.processor / 1000 / frames if started.program and frames else None,
        rss_kib_per_session=memory,
        up=up,
        down=down,
        lag=lag,
        settle=msgspec.convert(attached["settle"], Latency),
        extra={
            "cpu_share": spent.processor / (plan.seconds * 1e9) if started.program else None,
            "waited_share": spent.waited / (plan.seconds * 1e9) if started.program else None,
            "agent_lag_p99": heard["lag"][0]["p99"] if heard["lag"] else 0,
            "calls": sum(agent["calls"] for agent in heard["connections"]),
            "posts": heard["posts"],
            "events": sum(browser["events"] for browser in came["browsers"]),
        },
    )


async def speak(
    environment: Environment,
    caller: WorkerProcess,
    *,
    warm_up: float,
    seconds: float,
    unread_after: float | None = None,
) -> tuple[int, int]:
    """Let callers and agent speak; returns at once, with the instants (ns) of what counts.

    The callers stop reading `unread_after` seconds after they began.
    """
    at = monotonic_ns() + int(SETTLING * 1e9)
    start = at + int(warm_up * 1e9)
    stop = start + int(seconds * 1e9)
    unread_from = 0 if unread_after is None else at + int(unread_after * 1e9)
    await environment.agent.ask({"do": "begin", "at": at, "until": stop})
    caller.tell({"do": "speak", "at": at, "until": stop, "unread_from": unread_from})
    return start, stop


async def until(instant: int) -> None:
    await asyncio.sleep(max(0.0, (instant - monotonic_ns()) / 1e9))


async def _processor_time(program: Program | None, start: int, stop: int) -> Spent:
    """What the program spent from `start` to `stop`."""
    await until(start)
    before, waited, began = _look(program)
    await until(stop)
    after, waited_after, ended = _look(program)
    part = (stop - start) / (ended - began)
    return Spent((after - before) * part, (waited_after - waited) * part)


def _look(program: Program | None) -> tuple[int, int, int]:
    spent = (program.cpu_ns(), program.waited_ns()) if program else (0, 0)
    return (*spent, monotonic_ns())


def latencies(came: Message, heard: Message, window: int = 0) -> tuple[Latency, Latency, Latency]:
    """Up, down and lag of the callers."""
    up = msgspec.convert(heard["up"][window], Latency)
    down = msgspec.convert(came["down"][window], Latency)
    lag = msgspec.convert(came["lag"][window], Latency)
    return up, down, lag


def find_loss(came: Message, heard: Message, stop: int) -> str | None:
    """What was lost, doubled or out of order; None: nothing."""
    agents = {agent["session"]: agent for agent in heard["connections"]}
    for browser in came["browsers"]:
        agent = agents.get(browser["session"])
        if agent is None:
            return f"nothing of session {browser['session']} reached the agent"
        for problem in (*browser["problems"], *agent["problems"]):
            return f"session {browser['session']}: {problem}"
        if agent["received"] != browser["sent"]:
            return f"up: {browser['sent'] - agent['received']} of {browser['sent']} frames missing"
        if browser["received"] != agent["sent"]:
            return f"down: {agent['sent'] - browser['received']} of {agent['sent']} frames missing"
        if agent["call_open"] and stop - agent["called"] > MOST_CALL:
            return f"session {browser['session']}: a function call was not answered"
    return None


def find_disturbance(lag: Latency, heard: Message, spent: Spent, plan: Plan) -> str | None:
    """Why a run says more about this machine than about the arm; None: it does not."""
    reasons = []
    agent_lag = heard["lag"][0]["p99"] if plan.traffic.agent != "echo" else 0
    for name, late in (("callers", lag.p99), ("the agent", agent_lag)):
        if late > MOST_LAG:
            reasons.append(f"{name} sent late: p99 {late / 1000:.1f} ms")
    share = spent.waited / (plan.seconds * 1e9)
    if share > MOST_WAITED:
        reasons.append(f"others had the relay's core: it waited {share:.0%} of the time")
    return "; ".join(reasons) or None


def _void(plan: Plan, why: str) -> Run:
    return Run(
        arm=plan.arm,
        scenario=plan.traffic.name,
        tls=plan.tls,
        sessions=plan.sessions,
        repetition=plan.repetition,
        void=why,
    )


def describe(run: Run) -> str:
    """One line, for people who watch."""
    cpu = f"{run.cpu_us_per_frame:6.1f} µs/frame" if run.cpu_us_per_frame else " " * 15
    up, down = (f"p50 {way.p50:5d} p99 {way.p99:6d}" for way in (run.up, run.down))
    name = f"{run.arm}{' tls' if run.tls else ''}"
    end = f"  VOID {run.void}" if run.void else ""
    return f"{name:12} {run.scenario:13} {run.sessions:4d}  {cpu}  up {up}  down {down}{end}"
