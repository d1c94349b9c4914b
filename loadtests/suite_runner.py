"""A whole load test: the stages of a suite one after the other, and what came of them.

Load tests. Arms take turns within every repetition, in reverse order every second time, so that
what changes on the machine meets all of them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from loadtests import faults, microbenchmarks, systems_under_test
from loadtests.budgets import ADDED_P99, added_p99
from loadtests.environment import Environment, prepare
from loadtests.processes import Pinning, ProgramFailed
from loadtests.results import Arm, Figure, Results, Run
from loadtests.run import Plan, describe, run
from loadtests.scenarios import Comparison, Ramp, Suite

PACKAGES = ["picows", "uvloop", "litestar", "uvicorn", "aiofastnet", "fastapi", "websockets"]
PACKAGES += ["aiohttp", "asyncpg", "msgspec", "httptools"]
BUSY = 0.5  # load average: something else is at work
AGAIN = 2  # more runs of a step that was void, before it counts as not held
ROOT = Path(__file__).parents[1]

Report = Callable[[str, int], None]  # what was done, and how many steps of `count_steps` that was


def count_steps(suite: Suite) -> int:
    """How many times `Report` will be called about, for a progress bar."""
    runs = sum(len(stage.arms) * stage.repetitions for stage in suite.stages)
    if suite.steps:
        runs += len(suite.steps.arms) * len(suite.steps.sessions)
    return runs + suite.faults * 2 + suite.figures * FIGURE_STEPS


FIGURE_STEPS = 5


async def bench(suite: Suite, pinning: Pinning, report: Report) -> Results:
    """Run all of it; everything that was started has ended on return."""
    began = time.monotonic()
    results = Results(
        started_at=datetime.now(UTC),
        machine=describe_machine(pinning),
        commit=find_commit(),
        versions=find_versions(),
    )
    load = results.machine["load before"]
    if isinstance(load, float) and load > BUSY:
        results.notes.append(f"the machine was busy before the first run: load average {load:.1f}")
    if suite.figures:
        await _measure_figures(suite, results, report)
    async with prepare(pinning) as environment:
        results.notes += environment.notes
        left_out = _leave_out(suite, environment, results)
        for stage in suite.stages:
            await _run_stage(environment, stage, results, left_out, report)
        if suite.steps:
            await _run_steps(environment, suite.steps, results, left_out, report)
        if suite.faults and environment.dependencies.database_url:
            await _run_faults(environment, suite, results, report)
    results.seconds = time.monotonic() - began
    return results


async def _run_stage(
    environment: Environment,
    stage: Comparison,
    results: Results,
    left_out: frozenset[Arm],
    report: Report,
) -> None:
    for repetition in range(stage.repetitions):
        for arm in stage.arms if repetition % 2 == 0 else reversed(stage.arms):
            if arm in left_out:
                report(f"{arm} left out", 1)
                continue
            plan = Plan(
                arm=arm,
                traffic=stage.traffic,
                sessions=stage.sessions,
                tls=stage.tls,
                repetition=repetition,
                seconds=stage.seconds,
                memory=stage.memory,
                timed=not stage.memory,
            )
            done = await run(environment, plan)
            if done.void is not None:  # once more; the void run stays in the list
                results.runs.append(done)
                report(describe(done), 0)
                done = await run(environment, plan)
            results.runs.append(done)
            report(describe(done), 1)


async def _run_steps(
    environment: Environment,
    steps: Ramp,
    results: Results,
    left_out: frozenset[Arm],
    report: Report,
) -> None:
    going = [arm for arm in steps.arms if arm not in left_out]
    for sessions in steps.sessions:
        direct: Run | None = None
        for arm in tuple(going):
            done = await _run_step(environment, steps, arm, sessions, results, report)
            if arm is Arm.DIRECT:
                direct = done
                if done.void is not None:  # what follows would say nothing about the others
                    return
            elif direct is not None and not _holds(done, direct):
                going.remove(arm)
        if not [arm for arm in going if arm is not Arm.DIRECT]:
            return


async def _run_step(
    environment: Environment, steps: Ramp, arm: Arm, sessions: int, results: Results, report: Report
) -> Run:
    done: Run | None = None
    for again in range(1 + AGAIN):
        plan = Plan(
            arm=arm,
            traffic=steps.traffic,
            sessions=sessions,
            repetition=again,
            warm_up=1.0,
            seconds=steps.seconds,
        )
        done = await run(environment, plan)
        results.runs.append(done)
        report(describe(done), 1 if again == 0 else 0)
        if done.void is None and again != 1:
            break
    assert done is not None
    return done


def _holds(run: Run, direct: Run) -> bool:
    if run.void is not None:
        return False
    return max(added_p99(run, direct, "up"), added_p99(run, direct, "down")) <= ADDED_P99


async def _run_faults(
    environment: Environment, suite: Suite, results: Results, report: Report
) -> None:
    runs = await faults.run_stopped_database(
        environment, sessions=suite.fault_sessions, seconds=suite.fault_seconds
    )
    results.runs += runs
    for done in runs:
        report(describe(done), 0)
        if (stall := done.extra.get("stall_ms")) is not None:
            results.figures[Figure.STALL_MS] = stall
    report(faults.STOPPED_DATABASE, 1)
    results.figures |= await faults.weigh_unread(environment)
    report("browsers that never read", 1)


async def _measure_figures(suite: Suite, results: Results, report: Report) -> None:
    sizes = microbenchmarks.QUICK if suite.quick else microbenchmarks.Sizes()
    told = 0

    def progress(what: str) -> None:
        nonlocal told
        told += 1
        report(what, 1 if told <= FIGURE_STEPS else 0)

    try:
        results.figures |= await microbenchmarks.measure(sizes, progress)
    except ProgramFailed as error:
        results.notes.append(f"figures were not measured: {error}")


def _leave_out(suite: Suite, environment: Environment, results: Results) -> frozenset[Arm]:
    wanted = {arm for stage in suite.stages for arm in stage.arms}
    if suite.steps:
        wanted |= set(suite.steps.arms)
    reasons = {
        arm: systems_under_test.missing(arm, environment.dependencies) for arm in sorted(wanted)
    }
    left_out = {arm: reason for arm, reason in reasons.items() if reason}
    results.notes += [f"{arm} was left out: {reason}" for arm, reason in left_out.items()]
    return frozenset(left_out)


# --- where and with what -------------------------------------------------------------------------


def describe_machine(pinning: Pinning) -> dict[str, str | int | float]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "processor": _find_processor(),
        "cores": psutil.cpu_count() or 0,
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "cores of each part": pinning.describe(),
        "load before": round(load, 2),
    }


def _find_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def find_commit() -> str:
    """The commit that is measured, with "+" when files differ from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def find_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    found |= dict(_find_packages())
    for name, command in (("nginx", ["-v"]), ("haproxy", ["-v"])):
        if program := systems_under_test.find(name):
            said = subprocess.run([program, *command], capture_output=True, text=True)
            found[name] = (said.stdout or said.stderr).splitlines()[0][:60]
    return found


def _find_packages() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
