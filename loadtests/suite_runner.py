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

Report = Callable[[str, int], None]  # what was done, and how many steps of `count_steps` that was


def count_steps(suite: Suite) -> int:
    """How many times `Report` will be called about, for a progress bar."""
    runs = sum(len(stage.arms) * len(stage.sessions) * stage.repetitions for stage in suite.stages)
    return runs + (microbenchmarks.STEPS if suite.figures else 0)


async def bench(suite: Suite, pinning: Pinning, report: Report) -> Results:
    """Run all of it; everything that was started has ended on return.

    Raises EmbeddedError, MigrationError or ProgramFailed.
    """
    began = time.monotonic()
    load = os.getloadavg()[0]
    results = Results(
        started_at=datetime.now(UTC),
        machine=describe_machine(pinning, load),
        commit=find_commit(),
        versions=find_versions(),
    )
    if load > BUSY:
        results.notes.append(f"the machine was busy before the first run: load average {load:.1f}")
    if suite.figures:
        async with prepare(Pinning()) as environment:
            results.figures = await microbenchmarks.measure(
                environment, suite.figures, lambda what: report(what, 1)
            )
    missing = {arm for stage in suite.stages for arm in stage.arms if is_missing(arm)}
    results.notes += [f"{arm} was left out: it is not installed" for arm in sorted(missing)]
    if any(stage.arms for stage in suite.stages):
        async with prepare(pinning) as environment:
            for stage in suite.stages:
                await _run_stage(environment, stage, missing, results, report)
    results.seconds = time.monotonic() - began
    return results


async def _run_stage(
    environment: Environment, stage: Stage, missing: set[Arm], results: Results, report: Report
) -> None:
    out = set(missing)
    for sessions in stage.sessions:
        void: set[Arm] = set()
        for repetition in range(stage.repetitions):
            for arm in stage.arms if repetition % 2 == 0 else reversed(stage.arms):
                # Where frames are lost without a relay, nothing is learnt of the others.
                if arm in out or Arm.DIRECT in out:
                    report(f"{arm} left out", 1)
                    continue
                done = await run(environment, stage, arm, sessions, repetition)
                if done.void is not None:  # once more; the void run stays in the list
                    results.runs.append(done)
                    report(describe(done), 0)
                    done = await run(environment, stage, arm, sessions, repetition)
                if done.void is not None:
                    void.add(arm)
                results.runs.append(done)
                report(describe(done), 1)
        out |= void


# --- where and with what -------------------------------------------------------------------------


def describe_machine(pinning: Pinning, load: float) -> dict[str, str | int | float]:
    return {
        "processor": _find_processor(),
        "cores": psutil.cpu_count() or 0,
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "cores of each part": str(pinning),
        "load before": round(load, 2),
    }


def _find_processor() -> str:
    described = Path("/proc/cpuinfo")  # of Linux
    found = described.exists() and re.search(r"model name\s*: (.*)", described.read_text())
    return found[1] if found else platform.machine()


def find_commit() -> str:
    """The commit that is measured, with "+" when files differ from it; empty without git."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def find_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    found |= {package: version(package) for package in PACKAGES}
    for name in (Arm.NGINX, Arm.HAPROXY):
        if program := find(name):
            said = subprocess.run([program, "-v"], capture_output=True, text=True)
            found[name] = (said.stdout or said.stderr).splitlines()[0][:60]
    return found
