"""A whole load test: the stages of a suite one after the other, and what came of them.

Load tests. Arms take turns within every repetition, in reverse order every second time, so that
what changes on the machine meets all of them.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from loadtests import microbenchmarks
from loadtests.environment import Environment, prepare
from loadtests.processes import Pinning
from loadtests.results import Arm, Results
from loadtests.run import describe, run
from loadtests.scenarios import Stage, Suite
from loadtests.systems_under_test import find, is_missing

PACKAGES = ["picows", "uvloop", "litestar", "uvicorn", "aiofastnet", "fastapi", "websockets"]
PACKAGES += ["asyncpg", "msgspec", "httptools"]
BUSY = 0.5  # load average: something else is at work
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
    missing = {arm for stage in suite.stages for arm in stage.arms if is_missing(arm)}
    results.notes += [f"{arm} was left out: it is not installed" for arm in sorted(missing)]
    if any(stage.arms for stage in suite.stages):
        async with prepare(pinning) as environment:
            for number, stage in enumerate(suite.stages, start=1):
                tell(f"stage {number} of {len(suite.stages)}: {stage.traffic.name}")
                await _run_stage(environment, stage, missing, results, tell)
    results.seconds = time.monotonic() - began
    return results


async def _run_stage(
    environment: Environment, stage: Stage, missing: set[Arm], results: Results, tell: Tell
) -> None:
    out = set(missing)
    for sessions in stage.sessions:
        void: set[Arm] = set()
        for repetition in range(stage.repetitions):
            for arm in stage.arms if repetition % 2 == 0 else reversed(stage.arms):
                # Where frames are lost without a relay, nothing is learnt of the others.
                if arm in out or Arm.DIRECT in out:
                    continue
                for _ in range(2):  # a void run is repeated, and stays in the list
                    done = await run(environment, stage, arm, sessions, repetition)
                    results.runs.append(done)
                    tell(f"  {describe(done)}")
                    if done.void is None:
                        break
                else:
                    void.add(arm)
        out |= void


# --- where and with what -------------------------------------------------------------------------


def _find_processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _find_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    found |= {package: version(package) for package in PACKAGES}
    return found | {
        name: _ask(program, "-v") for name in (Arm.NGINX, Arm.HAPROXY) if (program := find(name))
    }


def _ask(*command: str) -> str:
    """The first line that a program says; empty when it cannot."""
    try:
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return "" if said.returncode else (said.stdout or said.stderr).partition("\n")[0][:60]
