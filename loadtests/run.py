"""One run: an arm under one load for some seconds, and what is left to say about it.

Load tests. In the scenarios of faults the database stands still meanwhile, or no browser reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic_ns

import httpx
import msgspec
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from loadtests import systems_under_test
from loadtests.environment import Environment
from loadtests.load_generator import Attached, Caller, Load
from loadtests.mock_agent import Agent
from loadtests.processes import ProgramFailed, Usage, find_usage
from loadtests.results import Arm, Run
from loadtests.scenarios import QUIET, STOPPED_DATABASE, UNREAD, Stage
from loadtests.session_end import Collected
from loadtests.systems_under_test import Started
from loadtests.worker_process import WorkerFailed, WorkerProcess, running

MOST_LAG = 1_000  # microseconds at p99: above it what we measure is ourselves
MOST_WAITED = 0.05  # of a run, that the relay was ready and something else had its core
SETTLING = 0.3  # seconds from attached to the first frame
DRAIN = 0.5  # seconds after the last frame was due; what has not come by then is lost
PRIMING = 20  # sessions before memory is looked at: what every first one loads is not its price
SMALL_BUFFER = 16 * 1024  # of the kernel, for what a browser has not read


async def run(
    environment: Environment,
    stage: Stage,
    arm: Arm,
    sessions: int,
    repetition: int = 0,
    *,
    more: Mapping[str, str] = systems_under_test.NOTHING,
) -> Run:
    """With `more` variables for the arm. Never raises for what the arm does: a run that failed is
    void and says why."""
    blank = Run(
        arm=arm,
        scenario=stage.traffic.name,
        sessions=sessions,
        tls=stage.tls,
        repetition=repetition,
        seconds=stage.seconds,
    )
    try:
        async with (
            systems_under_test.start(arm, environment, tls=stage.tls, more=more) as started,
            running(Caller, environment.pinning.caller) as caller,
        ):
            load = Load(
                endpoint=started.endpoint,
                traffic=stage.traffic,
                sessions=sessions,
                receive_buffer=SMALL_BUFFER if stage.traffic == UNREAD else 0,
            )
            return await _Measurement(environment, stage, started, caller).take(load, blank)
    except (ProgramFailed, WorkerFailed, httpx.HTTPError) as error:
        return replace(blank, void=str(error))


class _Measurement(msgspec.Struct, frozen=True):
    """An arm that runs, agent and callers."""

    environment: Environment
    stage: Stage
    started: Started
    caller: WorkerProcess[Caller]

    async def take(self, load: Load, blank: Run) -> Run:
        stage = self.stage
        weighs = stage.traffic in (QUIET, UNREAD)
        primed = await self._prime(load) if stage.traffic == QUIET else None
        attached = await self._attach(load)
        if attached.settle.count < load.sessions:
            await self.caller.ask(Caller.leave)
            why = f"{attached.settle.count} of {load.sessions} sessions attached"
            return replace(blank, void="; ".join([why, *attached.failed]))
        start, stop = await self._speak(stage.warm_up, stage.seconds)
        await until(start)
        before = find_usage(self.started.process)
        stall_ms = await self._pass_time(stop)
        after = find_usage(self.started.process)
        await asyncio.sleep(DRAIN)
        came = await self.caller.ask(Caller.collect, start, stop)
        heard = await self.environment.agent.ask(Agent.collect, start, stop)
        await self.caller.ask(Caller.leave)
        busy = (after.cpu_ns - before.cpu_ns) / 1e9
        waited = (after.waited_ns - before.waited_ns) / 1e9 / stage.seconds
        void = find_loss(came, heard, reads=stage.traffic != UNREAD)
        if void is None and stage.timed:
            void = find_disturbance(came, heard, waited)
        weight = after.rss_bytes - (primed or before).rss_bytes
        frames = came.latency.count + heard.latency.count
        return replace(
            blank,
            void=void,
            cpu_us_per_frame=busy * 1e6 / frames if busy and frames else None,
            rss_kib_per_session=weight / 1024 / load.sessions if weighs else None,
            stall_ms=stall_ms,
            up=heard.latency,
            down=came.latency,
            lag=came.lag,
            settle=attached.settle,
            extra={
                "cpu_share": busy / stage.seconds,
                "waited_share": waited,
                "agent_lag_p99": heard.lag.p99,
                "events": came.counts["events"],
                "calls": heard.counts["calls"],
                "posts": heard.counts["posts"],
            },
        )

    async def _attach(self, load: Load) -> Attached:
        await self.environment.agent.ask(Agent.expect, load.traffic)
        return await self.caller.ask(Caller.attach, load)

    async def _speak(self, warm_up: float, seconds: float) -> tuple[int, int]:
        """Let callers and agent speak; returns at once, with the instants (ns) of what counts."""
        at = monotonic_ns() + int(SETTLING * 1e9)
        start = at + int(warm_up * 1e9)
        stop = start + int(seconds * 1e9)
        await self.environment.agent.ask(Agent.begin, at, stop)
        await self.caller.ask(Caller.begin, at, stop)
        return start, stop

    async def _prime(self, load: Load) -> Usage:
        """What the arm needs after a few sessions have come and gone."""
        await self._attach(replace(load, sessions=PRIMING))
        _, stop = await self._speak(0.0, 0.5)
        await until(stop)
        await self.caller.ask(Caller.leave)
        await asyncio.sleep(0.5)
        return find_usage(self.started.process)

    async def _pass_time(self, stop: int) -> float | None:
        """Until `stop`, with the fault of the scenario; the longest stall where it is asked for."""
        if self.stage.traffic == STOPPED_DATABASE:
            stalls = await _read_stalls(self.started)
            with self.environment.stopped_database():
                await until(stop)
            return find_longest(await _read_stalls(self.started), stalls)
        if self.stage.traffic == UNREAD:
            await self.caller.ask(Caller.stop_reading)
        await until(stop)
        return None


async def until(instant: int) -> None:
    await asyncio.sleep(max(0.0, (instant - monotonic_ns()) / 1e9))


Buckets = dict[float, float]  # upper bound in seconds to how many, as /metrics has it


async def _read_stalls(started: Started) -> Buckets:
    """The relay's own record of how late its event loop was."""
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as rest:
        answer = await rest.get(f"{started.endpoint.url}/metrics")
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "relay_loop_lag_seconds_bucket"
    }


def find_longest(after: Buckets, before: Buckets) -> float | None:
    """The upper bound (ms) of the highest bucket that grew in between; None: no such metric."""
    grown = 0.0
    longest: float | None = None
    for bound in sorted(after):
        more = after[bound] - before.get(bound, 0.0)
        if more > grown:
            longest, grown = bound * 1000, more
    return longest


def find_loss(came: Collected, heard: Collected, *, reads: bool = True) -> str | None:
    """What was lost, doubled or out of order; None: nothing. Nobody misses what nobody `reads`."""
    for session, browser in came.tallies.items():
        agent = heard.tallies.get(session)
        if agent is None:
            return f"nothing of session {session} reached the agent"
        for problem in (*browser.problems, *agent.problems):
            return f"session {session}: {problem}"
        for way, sender, taker in (("up", browser, agent), ("down", agent, browser)):
            missing = sender.sent - taker.received
            if missing and (reads or way == "up"):
                return f"{way}: {missing} of {sender.sent} frames missing"
    return None


def find_disturbance(came: Collected, heard: Collected, waited: float) -> str | None:
    """Why a run says more about this machine than about the arm; None: it does not."""
    reasons = [
        f"{name} sent late: p99 {lag.p99 / 1000:.1f} ms"
        for name, lag in (("callers", came.lag), ("the agent", heard.lag))
        if lag.p99 > MOST_LAG
    ]
    if waited > MOST_WAITED:
        reasons.append(f"others had the relay's core: it waited {waited:.0%} of the time")
    return "; ".join(reasons) or None


def describe(run: Run) -> str:
    """One line, for people who watch."""
    cpu = f"{run.cpu_us_per_frame:6.1f} µs/frame" if run.cpu_us_per_frame else " " * 15
    up, down = (f"p50 {way.p50:5d} p99 {way.p99:6d}" for way in (run.up, run.down))
    name = f"{run.arm}{' tls' if run.tls else ''}"
    end = f"  VOID {run.void}" if run.void else ""
    return f"{name:12} {run.scenario:13} {run.sessions:4d}  {cpu}  up {up}  down {down}{end}"
