"""What live sessions cost the database: how they begin, a minute of them, how they end.

Load tests. The real relay, callers and agent, with the events of real turns at their pace and next
to no audio, which no database sees: so that many sessions fit on one machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic_ns

import msgspec

from loadtests import systems_under_test
from loadtests.database_load import PARAMETERS, DatabaseLoad, describe, observing
from loadtests.environment import Environment, prepare
from loadtests.load_generator import Caller, Load
from loadtests.mock_agent import Agent
from loadtests.processes import Pinning, ProgramFailed, find_usage
from loadtests.results import Arm
from loadtests.run import find_loss, until
from loadtests.scenarios import EVENTS
from loadtests.worker_process import running

WARM_UP = 8.0  # seconds at most: a turn
SETTLING = 0.5
REST = 3.0  # for what is gathered before it is stored, and for a heartbeat
END_SECONDS = 60.0  # the longest that the ends of all sessions may take to be stored


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Of `sessions` at once. `alone` is the relay before anybody comes, `live` some time of all
    sessions; `cores` is what the relay takes then, `kib` what it weighs more for each session.
    `message_bytes` is what each of the stored `messages` takes, its indexes included."""

    sessions: int
    alone: DatabaseLoad
    begun: DatabaseLoad
    live: DatabaseLoad
    ended: DatabaseLoad
    cores: float
    kib: float
    messages: int
    message_bytes: float


async def measure(
    sessions: int, seconds: float, pinning: Pinning, tell: Callable[[str], None]
) -> Costs:
    """Everything that was started has ended on return.

    Raises EmbeddedError, MigrationError, ProgramFailed, WorkerFailed; ProgramFailed also when
    sessions or frames are missing.
    """
    async with prepare(pinning, parameters=PARAMETERS) as environment:
        costs = await _measure(environment, sessions, seconds, tell)
    for line in show(costs):
        tell(line)
    return costs


async def _measure(
    environment: Environment, sessions: int, seconds: float, tell: Callable[[str], None]
) -> Costs:
    async with (
        systems_under_test.start(Arm.OURS, environment) as started,
        running(Caller, environment.pinning.caller) as caller,
        observing(environment.database_url, environment.database_pid) as observer,
    ):
        marks = [await observer.mark()]

        async def mark() -> DatabaseLoad:
            marks.append(await observer.mark())
            return await observer.between(*marks[-2:])

        await asyncio.sleep(3 * REST)
        alone = await mark()
        empty = find_usage(started.process)
        tell(f"attaching {sessions} sessions")
        await environment.agent.ask(Agent.expect, EVENTS)
        load = Load(endpoint=started.endpoint, traffic=EVENTS, sessions=sessions)
        attached = await caller.ask(Caller.attach, load)
        if attached.settle.count < sessions:
            raise ProgramFailed("; ".join([f"{attached.settle.count} attached", *attached.failed]))
        await asyncio.sleep(REST)
        begun = await mark()
        tell(f"{seconds:g} s of {sessions} sessions")
        at = monotonic_ns() + int(SETTLING * 1e9)
        start = at + int(min(WARM_UP, seconds) * 1e9)
        stop = start + int(seconds * 1e9)
        await environment.agent.ask(Agent.begin, at, stop)
        await caller.ask(Caller.begin, at, stop)
        await until(start)
        await mark()
        before = find_usage(started.process)
        await until(stop)
        live, after = await mark(), find_usage(started.process)
        await asyncio.sleep(REST)
        await mark()
        came = await caller.ask(Caller.collect, start, stop)
        heard = await environment.agent.ask(Agent.collect, start, stop)
        if loss := find_loss(came, heard):
            raise ProgramFailed(loss)
        await caller.ask(Caller.leave)
        async with asyncio.timeout(END_SECONDS):
            # The relay does it: there is no event to wait for.
            while await observer.count("voice.sessions WHERE state <> 'ended'"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        messages = await observer.count("voice.messages")
        return Costs(
            sessions=sessions,
            alone=alone,
            begun=begun,
            live=live,
            ended=await mark(),
            cores=(after.cpu_ns - before.cpu_ns) / 1e9 / live.seconds,
            kib=(after.rss_bytes - empty.rss_bytes) / 1024 / sessions,
            messages=messages,
            message_bytes=await observer.size("voice.messages") / max(1, messages),
        )


def show(costs: Costs) -> list[str]:
    """Lines for people."""
    n = costs.sessions
    return [
        f"the relay alone, {costs.alone.seconds:.0f} s",
        *describe(costs.alone, per=costs.alone.seconds, unit="a second"),
        f"{n} sessions begin, in {costs.begun.seconds:.0f} s",
        *describe(costs.begun, per=n, unit="a session"),
        f"{n} sessions live: the relay takes {costs.cores:.2f} cores, {costs.kib:.0f} KiB a session"
        f" in all; {costs.messages} messages are stored, of {costs.message_bytes:.0f} B",
        *describe(costs.live, per=n * costs.live.seconds / 60, unit="a session and minute"),
        f"{n} sessions end, in {costs.ended.seconds:.0f} s",
        *describe(costs.ended, per=n, unit="a session"),
    ]
