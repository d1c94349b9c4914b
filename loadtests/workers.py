"""Several workers, and several relays behind HAProxy: where sessions go, and what one costs.

Load tests, by themselves: `python -m loadtests.workers`, some five minutes; a number behind it is
how many sessions. Says how many of the agents that were dialled ahead found their browsers, how
sessions are spread over the workers (the fullest, of the mean), and the processor time for a frame
with one worker and with two. Two workers have all cores, which they share with callers and agent;
so has one of the two runs with one.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from loadtests import systems_under_test
from loadtests.environment import Environment, prepare
from loadtests.load_generator import Caller, Endpoint, Load
from loadtests.mock_agent import Agent
from loadtests.processes import HOST, Cores, Pinning, choose_cores, free_port, program
from loadtests.results import Arm
from loadtests.run import run
from loadtests.scenarios import CONVERSATION, QUIET, Stage
from loadtests.worker_process import running

SESSIONS = 200
TALKING = 100  # of whom the processor time is taken
REPETITIONS = 3
START_SECONDS = 60.0  # until all workers tell
HAPROXY = Path(__file__).parents[1] / "deploy/haproxy.cfg"
LIVE = "relay_sessions_live"
AHEAD = "relay_dialled_ahead_total"


async def main(sessions: int = SESSIONS) -> None:
    async with prepare(Pinning()) as environment:
        for workers in (2, 4):
            how = {"RELAY_WORKERS": str(workers)}
            async with systems_under_test.start(Arm.OURS, environment, more=how) as started:
                url = started.endpoint.url
                await _started(url, workers)
                for at_once in (16, sessions):
                    title = f"{workers} workers, {sessions} sessions, {at_once} at once"
                    await _attach(environment, title, url, [url], sessions, at_once)
        for workers in (1, 2):
            async with _balanced(environment, workers) as (url, relays):
                title = f"2 relays of {workers} behind HAProxy, {sessions} sessions, 16 at once"
                await _attach(environment, title, url, relays, sessions, 16)
    every: Cores = frozenset(os.sched_getaffinity(0))
    alone = choose_cores(every)
    shared = Pinning(every, every, every, every)
    for repetition in range(REPETITIONS):
        for workers, pinning in ((1, alone), (1, shared), (2, shared)):
            await _weigh(workers, pinning, repetition, min(TALKING, sessions))


async def _attach(
    environment: Environment, title: str, url: str, relays: list[str], sessions: int, at_once: int
) -> None:
    before = await _count(relays, AHEAD)
    async with running(Caller, environment.pinning.caller) as caller:
        await environment.agent.ask(Agent.expect, QUIET)
        load = Load(endpoint=Endpoint(url=url), traffic=QUIET, sessions=sessions, at_once=at_once)
        attached = await caller.ask(Caller.attach, load)
        live = list((await _count(relays, LIVE)).values())
        ahead = {name: n - before.get(name, 0) for name, n in (await _count(relays, AHEAD)).items()}
        await caller.ask(Caller.leave)
    outcomes = {name: 0 for name in ("used", "failed", "expired", "cancelled", "full", "missed")}
    for name, number in ahead.items():
        outcomes[re.findall(r'outcome="(\w+)"', name)[0]] += int(number)
    fullest = max(live) * len(live) / sum(live) if sum(live) else 0.0
    print(
        f"{title}: {attached.settle.count} attached {attached.failed or ''}\n"
        f"  dialled ahead {outcomes}\n"
        f"  sessions of each process {live}, the fullest {fullest:.2f} of the mean",
        flush=True,
    )


async def _weigh(workers: int, pinning: Pinning, repetition: int, sessions: int) -> None:
    stage = Stage(traffic=CONVERSATION)
    how = {"RELAY_WORKERS": str(workers)}
    async with prepare(pinning) as environment:
        done = await run(environment, stage, Arm.OURS, sessions, repetition, more=how)
    cost = done.cpu_us_per_frame
    frames = 2e9 / CONVERSATION.step  # of a session in a second, both ways, while both speak
    told = f"{cost:.1f} µs a frame, {1e6 / cost / frames:.0f} sessions a core" if cost else ""
    where = f"{workers} workers on cores {sorted(pinning.relay)}, {sessions} sessions"
    print(f"{where}: {told} {done.void or ''}", flush=True)


@asynccontextmanager
async def _balanced(environment: Environment, workers: int) -> AsyncIterator[tuple[str, list[str]]]:
    """HAProxy with our example before two relays: where it is, and where they are."""
    async with AsyncExitStack() as stack:
        relays = []
        for number in (1, 2):
            data = str(environment.folder / f"data-{workers}-{number}")
            how = {"RELAY_WORKERS": str(workers), "RELAY_DATA_DIR": data}
            started = await stack.enter_async_context(
                systems_under_test.start(Arm.OURS, environment, more=how)
            )
            relays.append(started.endpoint.url)
            await _started(started.endpoint.url, workers)
        port = free_port()
        path = environment.folder / "balancer.cfg"
        path.write_text(HAPROXY.read_text().replace("bind :8080", f"bind {HOST}:{port}"))
        where = {f"RELAY_{n}": url.rpartition("/")[2] for n, url in enumerate(relays, start=1)}
        command = [systems_under_test.find("haproxy") or "haproxy", "-db", "-f", str(path)]
        log = environment.folder / "balancer.log"
        await stack.enter_async_context(
            program(command, port=port, log=log, cores=frozenset(), environ=os.environ | where)
        )
        yield f"http://{HOST}:{port}", relays


async def _started(url: str, workers: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while len(await _count([url], LIVE)) < workers:  # noqa: ASYNC110  # nobody says when
            await asyncio.sleep(0.1)


async def _count(relays: list[str], name: str) -> Mapping[str, float]:
    """Each series with this name, of all workers of these relays."""
    found = {}
    async with httpx.AsyncClient(trust_env=False) as http:
        for url in relays:
            text = (await http.get(f"{url}/metrics")).text
            for labels, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE):
                found[f"{url} {labels}"] = float(value)
    return found


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
