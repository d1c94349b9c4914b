"""A whole load test: the stages of a suite one after the other, and what came of them.

Load tests. Arms take turns within every repetition, in reverse order every second time, so that
what changes on the machine meets all of them. What decides a budget that is not decided is run
again, as long as there is time.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil
from msgspec.structs import replace

from loadtests import budgets, microbenchmarks
from loadtests.environment import Environment, prepare
from loadtests.processes import Pinning
from loadtests.results import Arm, Results
from loadtests.run import describe, run
from loadtests.scenarios import Stage, Suite
from loadtests.systems_under_test import find, find_obstacle

PACKAGES = ["picows", "uvloop", "litestar", "uvicorn", "aiofastnet", "fastapi", "websockets"]
PACKAGES += ["asyncpg", "msgspec", "httptools"]
BUSY = 0.5  # load average: something else is at work
BESIDES = 6.0  # seconds of a run in which nothing is measured: start, attach, stop
ROOT = Path(__file__).parents[1]

Tell = Callable[[str], None]  # a line for people who watch


async def bench(suite: Suite, pinning: Pinning, tell: Tell) -> Results:
    """Run all of it; everything that was started has ended on return.

    Raises EmbeddedError, MigrationError or ProgramFailed.
    """
    began = time.monotonic()
    load = os.getloadavg()[0]
    results = Results(
        started_at=datetime.now(UTC),
        machine={
            "processor": _find_processor(),
            "cores": psutil.cpu_count() or 0,
            "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
            "cores of each part": str(pinning),
            "load before": round(load, 2),
        },
        # The commit that is measured, with "+" when files differ from it; empty without git.
        commit=_ask("git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"),
        versions=_find_versions(),
    )
    if load > BUSY:
        results.notes.append(f"the machine was busy before the first run: load average {load:.1f}")
    if suite.figures:
        async with prepare(Pinning()) as environment:
            results.figures = await microbenchmarks.measure(environment, suite.figures, tell)
    if suite.stages:
        async with prepare(pinning) as environment:
            arms = dict.fromkeys(arm for stage in suite.stages for arm in stage.arms)
            found = {arm: find_obstacle(arm, environment.folder) for arm in arms}
            missing = {arm: why for arm, why in found.items() if why is not None}
            results.notes += [f"{arm} was left out: {why}" for arm, why in missing.items()]
            results.versions |= _find_version_of_ws(environment.folder)
            stages = Stages(environment, results, tell, frozenset(missing))
            for number, stage in enumerate(suite.stages, start=1):
                tell(f"stage {number} of {len(suite.stages)}: {stage.traffic.name}")
                await stages.run(stage)
            await stages.decide(suite.stages, began + suite.longest)
    results.seconds = time.monotonic() - began
    return results


class Stages(msgspec.Struct, frozen=True):
    """Runs stages; what they find goes into the results."""

    environment: Environment
    results: Results
    tell: Tell
    missing: frozenset[Arm]

    async def run(self, stage: Stage, first: int = 0) -> None:
        """All repetitions, numbered from `first`."""
        out: set[Arm] = set(self.missing)
        for sessions in stage.sessions:
            void: set[Arm] = set()
            for repetition in range(first, first + stage.repetitions):
                for arm in stage.arms if repetition % 2 == 0 else reversed(stage.arms):
                    # Where frames are lost without a relay, nothing is learnt of the others.
                    if arm in out or Arm.DIRECT in out:
                        continue
                    for _ in range(2):  # a void run is repeated, and stays in the list
                        done = await run(self.environment, stage, arm, sessions, repetition)
                        self.results.runs.append(done)
                        self.tell(f"  {describe(done)}")
                        if done.void is None:
                            break
                    else:
                        void.add(arm)
            out |= void

    async def decide(self, stages: Sequence[Stage], until: float) -> None:
        """One more repetition of what may decide a budget, and one more, as long as it is over
        before `until`, a second of the monotonic clock."""
        while again := [
            replace(stage, arms=arms, repetitions=1)
            for stage in stages
            if (arms := budgets.find_arms_to_repeat(stage, self.results))
        ]:
            for stage in again:
                runs = len(stage.arms) * len(stage.sessions)
                takes = runs * (stage.warm_up + stage.seconds + BESIDES)
                if time.monotonic() + takes > until:
                    return
                self.tell(f"not decided yet: {stage.traffic.name}")
                await self.run(stage, 1 + max(run.repetition for run in self.results.runs))


# --- where and with what -------------------------------------------------------------------------


def _find_processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _find_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    found |= {package: version(package) for package in PACKAGES}
    return found | {
        name: _ask(program, "-v") for name in ("nginx", "node") if (program := find(name))
    }


def _find_version_of_ws(folder: Path) -> dict[str, str]:
    package = folder / "node_modules" / "ws" / "package.json"
    return {"ws": json.loads(package.read_text())["version"]} if package.exists() else {}


def _ask(*command: str) -> str:
    """The first line that a program says; empty when it cannot."""
    try:
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return "" if said.returncode else (said.stdout or said.stderr).partition("\n")[0][:60]
