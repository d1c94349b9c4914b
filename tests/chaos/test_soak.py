"""People come, talk, break off, come back and go, for a long time: nothing of the relay may grow.

`make soak` takes 20 minutes (SOAK=minutes). `make test` only has it run: too short to judge a
slope, but what an idle relay has afterwards is what it had before.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from control.db.pool import connected
from relay.sandbox.script import Script, Turn
from tests.chaos.browser import API, FRAME
from tests.chaos.drift import judge
from tests.chaos.link import Mood
from tests.chaos.stage import GOAL, staged, until

MINUTES = float(os.environ.get("SOAK") or 0)
SECONDS = MINUTES * 60 or 5.0
PEOPLE = 10
EVERY = 5.0 if MINUTES else 0.25
REPORT = Path("build") / "soak.json"
pytestmark = pytest.mark.timeout(SECONDS + 300)

SCRIPT = Script(
    turns=(
        Turn(when="text", say=("All right.", "What else is there to do?"), seconds=1.0),
        Turn(when="text", calls=(GOAL,), say=("It is written down.", "What else?"), seconds=1.0),
        Turn(when="text", say=("This will be a long story.", "Or not."), seconds=4.0, barge_in=0.1),
    ),
    loop=True,
)


class Soak:
    """A relay, those who talk to it, and what is seen of it meanwhile."""

    def __init__(self, stage, relay, chance):
        self.stage = stage
        self.relay = relay
        self.chance = chance
        self.browsers = []
        self.until = time.monotonic() + SECONDS
        self.samples = []
        self.agents = {}  # all that there were
        self.counts = {"cut": 0, "vanished": 0, "hung up": 0, "agents dropped": 0}

    @property
    def is_over(self):
        return time.monotonic() >= self.until

    async def person(self, number):
        """One after another; each stays for some turns."""
        while not self.is_over:
            name = f"p{number}.{len(self.browsers)}"
            browser = self.stage.browser(random.Random(f"{self.chance.random()}"), name)
            self.browsers.append(browser)
            async with browser.at_work():
                for _ in range(self.chance.randint(1, 6)):
                    await browser.turn()
                    await self.whim(browser)

    async def whim(self, browser):
        match self.chance.randrange(8):
            case 0 | 1:
                self.counts["cut"] += 1
                browser.cut()  # and it comes back
            case 2:
                self.counts["hung up"] += 1
                await self.stage.http.delete(f"{self.relay.url}{API}/session/{browser.session_id}")
            case 3 | 4:
                for _ in range(50):
                    await browser.send(FRAME)
                    await asyncio.sleep(0.02)  # as microphones do
            case _:
                await asyncio.sleep(self.chance.uniform(0.0, 1.0))  # people think

    async def trouble(self):
        """Agents drop; the Orchestrator is away for a moment."""
        while not self.is_over:
            await asyncio.sleep(self.chance.uniform(0.5, 3.0))
            self.counts["agents dropped"] += 1
            self.stage.agent_link.cut_one(self.chance)
            if self.chance.random() < 0.1:
                self.stage.planner_link.mood = Mood.REFUSING
                await asyncio.sleep(self.chance.uniform(0.5, 2.0))
                self.stage.planner_link.mood = Mood.WELL

    async def vanish(self):
        """Some are cut for good: their session waits for the grace time and ends by itself."""
        while not self.is_over:
            await asyncio.sleep(self.chance.uniform(1.0, 4.0))
            browser = self.stage.browser(self.chance, f"vanished {self.counts['vanished']}")
            self.browsers.append(browser)
            self.counts["vanished"] += 1
            async with browser.at_work():
                await browser.turn_at_last(30)
                browser.vanish()

    async def watch(self, database_url):
        process = psutil.Process(self.relay.process.pid)
        async with connected(database_url) as connection:
            while not self.is_over:
                self.samples.append(await self.look(process, connection))
                await asyncio.sleep(EVERY)

    async def look(self, process, connection):
        self.agents |= {agent.request_id: agent for agent in self.stage.sandbox.sessions}
        connections = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return {
            "rss": process.memory_info().rss / 2**20,
            "fds": process.num_fds(),
            "tasks": await self.relay.metric(self.stage.http, "relay_tasks"),
            "connections": connections,
            "sessions": await self.relay.metric(self.stage.http, "relay_sessions_live"),
        }


async def test_memory_tasks_files_and_connections_stay_flat(
    database_url, empty_database_url, tmp_path, chance, seed, say
):
    async with staged(
        tmp_path, database_url, planner_url=empty_database_url, script=SCRIPT
    ) as stage:
        relay = stage.relay(RELAY_GRACE_SECONDS="2")
        await relay.start()
        soak = Soak(stage, relay, chance)
        idle = await rest(soak, database_url)
        async with asyncio.TaskGroup() as tasks:
            for number in range(PEOPLE):
                tasks.create_task(soak.person(number), name=f"person {number}")
            tasks.create_task(soak.trouble(), name="trouble")
            tasks.create_task(soak.vanish(), name="vanish")
            tasks.create_task(soak.watch(database_url), name="watch")
        after = await rest(soak, database_url)
        verdict = await stage.settle(soak.browsers, 120)
        await stage.stop_relays()  # the meter is read once more
    agent_seconds = await reconcile(soak, database_url)
    drifts = judge_all(soak.samples) if MINUTES else []
    sessions = sum(browser.sessions for browser in soak.browsers)
    returns = sum(browser.returns for browser in soak.browsers)
    report = {
        "seed": seed,
        "minutes": round(SECONDS / 60, 2),
        "sessions": sessions,
        "returns": returns,
        **soak.counts,
        "verdict": verdict,
        "idle": idle,
        "after": after,
        "drifts": drifts,
        "agent_seconds": agent_seconds,
    }
    for line in lines_of(report):
        say(line)
    if MINUTES:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_bytes(
            msgspec.json.format(msgspec.json.encode(report | {"samples": soak.samples}))
        )
    assert verdict.is_right, verdict
    ours, counted = agent_seconds
    # An agent is open for milliseconds longer at one end, and those of the short form do not live
    # for long.
    assert abs(ours - counted) <= counted * (0.01 if MINUTES else 0.05), agent_seconds
    assert soak.samples
    assert sessions > PEOPLE
    assert returns > 0
    assert after["tasks"] <= idle["tasks"] + 1
    # The database's pool and that of the Orchestrator keep up to 10 connections each for a while.
    assert after["fds"] <= idle["fds"] + 25
    assert after["connections"] <= 11  # the pool, and the one that listens
    if MINUTES:
        assert [drift for drift in drifts if not drift.is_flat] == []


def judge_all(samples):
    return [
        judge("rss", [sample["rss"] for sample in samples], share=0.03, at_least=2.0),
        *(
            judge(name, [sample[name] for sample in samples], share=0.05, at_least=2.0)
            for name in ("fds", "tasks", "connections")
        ),
    ]


async def rest(soak, database_url):
    """What the relay has when nobody is there."""

    async def nobody():
        return await soak.relay.metric(soak.stage.http, "relay_sessions_live") == 0

    await until(nobody, 30)
    async with connected(database_url) as connection:
        return await soak.look(psutil.Process(soak.relay.process.pid), connection)


async def reconcile(soak, database_url):
    """For how long agents were connected: as the relay has it, and by their own clock."""
    async with connected(database_url) as connection:
        ours = await connection.fetchval("SELECT sum(seconds) FROM voice.usage")
    return round(ours, 3), round(sum(agent.seconds for agent in soak.agents.values()), 3)


def lines_of(report):
    yield (
        f"soak: seed={report['seed']} minutes={report['minutes']}"
        f" sessions={report['sessions']} returns={report['returns']}"
        f" agents_dropped={report['agents dropped']} verdict={report['verdict']}"
    )
    ours, counted = report["agent_seconds"]
    yield f"soak: agent seconds {ours} as the relay has it, {counted} as agents have it"
    for drift in report["drifts"]:
        yield (
            f"soak: {drift.name} {drift.first:g} -> {drift.last:g}"
            f" (from {drift.least:g} to {drift.most:g})"
            f" grown={drift.grown:+.2f} allowed={drift.allowed:.2f}"
            f" idle {report['idle'][drift.name]:g} -> {report['after'][drift.name]:g}"
        )
