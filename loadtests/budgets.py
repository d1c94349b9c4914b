"""What the relay may cost: the budgets as data, held against the results of one load test.

Load tests. A ratio is made within a repetition, from runs of the same scenario, load and moment;
the value shown is the median over the repetitions and the spread its least and greatest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Literal

import msgspec

from loadtests.percentiles import Latency
from loadtests.results import Arm, Figure, Results, Run, Scenario

SESSIONS = 100  # the load at which arms are compared, or the nearest that was run
MANY_SESSIONS = 500  # the load at which memory is measured, likewise
ADDED_P99 = 5_000  # microseconds that a relay may add before its core counts as full

Way = Literal["up", "down"]
WAYS: tuple[Way, ...] = ("up", "down")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A value and its spread; without a value, `where` says why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    where: str = ""


class Budget(msgspec.Struct, frozen=True):
    """A limit on one figure. `must` and `aim` are the most that it may be, or the least."""

    name: str
    title: str
    unit: Literal["x", "KiB", "ms", "/s"]
    must: float
    aim: float | None
    measure: Callable[[Results], Measured]
    at_least: bool = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A budget held against results. `holds` and `reaches_aim` are None where nothing is known."""

    name: str
    title: str
    unit: str
    must: float
    aim: float | None
    at_least: bool
    measured: Measured
    holds: bool | None
    reaches_aim: bool | None


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions an arm carries with `ADDED_P99`; `more`: it was not brought to its end."""

    sessions: float
    more: bool


def evaluate(results: Results) -> list[Verdict]:
    """Every budget, in the order of the table."""
    return [judge(budget, budget.measure(results)) for budget in BUDGETS]


def judge(budget: Budget, measured: Measured) -> Verdict:
    value = measured.value

    def keeps(limit: float | None) -> bool | None:
        if value is None or limit is None:
            return None
        return value >= limit if budget.at_least else value <= limit

    return Verdict(
        name=budget.name,
        title=budget.title,
        unit=budget.unit,
        must=budget.must,
        aim=budget.aim,
        at_least=budget.at_least,
        measured=measured,
        holds=keeps(budget.must),
        reaches_aim=keeps(budget.aim),
    )


def conclude(verdicts: Sequence[Verdict]) -> str:
    """One line: how many budgets hold, which are broken, which were not measured."""
    known = [verdict for verdict in verdicts if verdict.holds is not None]
    broken = [verdict.name for verdict in known if not verdict.holds]
    unknown = [verdict.name for verdict in verdicts if verdict.holds is None]
    if not known:
        return "no budget was measured"
    if not broken and not unknown:
        line = f"all {len(known)} budgets hold"
    else:
        line = f"{len(known) - len(broken)} of {len(verdicts)} budgets hold"
    if broken:
        line += f"; broken: {', '.join(broken)}"
    if unknown:
        line += f"; not measured: {', '.join(unknown)}"
    return line


# --- runs that may be compared -------------------------------------------------------------------


class Rounds(msgspec.Struct, frozen=True, kw_only=True):
    """The repetitions of one scenario and load in which all the arms asked for have a valid run."""

    scenario: str
    sessions: int
    rounds: list[dict[str, Run]]

    def __str__(self) -> str:
        count = len(self.rounds)
        repetitions = "1 repetition" if count == 1 else f"{count} repetitions"
        return f"{self.scenario}, {self.sessions} sessions, {repetitions}"


def find_rounds(
    results: Results, arms: Iterable[Arm], *, tls: bool = False, sessions: int = SESSIONS
) -> Rounds | None:
    """The rounds to compare `arms` by: conversation before echo, then the load nearest."""
    wanted = set(arms)
    found: dict[tuple[str, int], dict[int, dict[str, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in results.valid(tls=tls):
        if run.arm in wanted and run.scenario in _COMPARABLE:
            found[run.scenario, run.sessions][run.repetition][run.arm] = run
    complete = [
        Rounds(scenario=scenario, sessions=load, rounds=whole)
        for (scenario, load), rounds in found.items()
        if (whole := [r for _, r in sorted(rounds.items()) if wanted <= set(r)])
    ]
    return min(
        complete,
        key=lambda c: (_COMPARABLE.index(c.scenario), _distance(c.sessions, sessions)),
        default=None,
    )


_COMPARABLE: tuple[str, ...] = (Scenario.CONVERSATION, Scenario.ECHO)


def added_p99(run: Run, direct: Run, way: Way) -> int:
    """Microseconds that an arm adds to the way without it, at the 99th percentile of both."""
    return _latency(run, way).p99 - _latency(direct, way).p99


def _latency(run: Run, way: Way) -> Latency:
    return run.up if way == "up" else run.down


def _distance(sessions: int, wanted: int) -> float:
    return abs(math.log(max(sessions, 1) / wanted))


def _spread(values: Sequence[float], where: str) -> Measured:
    return Measured(value=median(values), low=min(values), high=max(values), where=where)


# --- the measures --------------------------------------------------------------------------------


def _cpu_against(other: Arm, *, tls: bool = False) -> Callable[[Results], Measured]:
    def measure(results: Results) -> Measured:
        rounds = find_rounds(results, (Arm.OURS, other), tls=tls)
        if rounds is None:
            return Measured(where=f"no round with valid runs of {other} and ours")
        ratios = [
            ours / theirs
            for round_ in rounds.rounds
            if (ours := round_[Arm.OURS].cpu_us_per_frame)
            and (theirs := round_[other].cpu_us_per_frame)
        ]
        if not ratios:
            return Measured(where="no run has the CPU time of its relay")
        return _spread(ratios, str(rounds))

    return measure


def _latency_against_nginx(results: Results) -> Measured:
    rounds = find_rounds(results, (Arm.DIRECT, Arm.NGINX, Arm.OURS))
    if rounds is None:
        return Measured(where="no round with valid runs of direct, nginx and ours")
    worst: Measured | None = None
    for way in WAYS:
        ours, nginx = (
            [added_p99(r[arm], r[Arm.DIRECT], way) for r in rounds.rounds]
            for arm in (Arm.OURS, Arm.NGINX)
        )
        if median(nginx) <= 0:
            return Measured(where=f"nginx adds nothing that can be measured ({way}), {rounds}")
        # Differences of percentiles are small and noisy: the ratio is made of their medians.
        ratio = median(ours) / median(nginx)
        each = [o / n for o, n in zip(ours, nginx, strict=True) if n > 0]
        if worst is None or worst.value is None or ratio > worst.value:
            worst = Measured(value=ratio, low=min(each), high=max(each), where=f"{way}, {rounds}")
    return worst or Measured()


def find_capacity(results: Results, arm: Arm) -> Capacity | None:
    """The sessions that `arm` carries, from the steps of one scenario; None without two steps.

    Between the last step that holds and the first that does not, the added p99 is taken to grow
    evenly. The steps end where the direct arm has no valid run: what follows says nothing of `arm`.
    """
    best: tuple[int, Capacity] | None = None
    for scenario in _COMPARABLE:
        direct = _steps(results.valid(arm=Arm.DIRECT, scenario=scenario, tls=False))
        steps = _steps(
            run
            for run in results.runs
            if run.arm == arm and run.scenario == scenario and not run.tls
        )
        shared = sorted(set(steps) & set(direct))
        if len(shared) >= 2 and (best is None or len(shared) > best[0]):
            climbed = _climb([(n, _added_at(steps[n], direct[n])) for n in shared])
            best = (len(shared), climbed)
    return best[1] if best else None


def _steps(runs: Iterable[Run]) -> dict[int, list[Run]]:
    steps: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        steps[run.sessions].append(run)
    return steps


def _added_at(runs: Sequence[Run], direct: Sequence[Run]) -> float | None:
    """The median of what the valid repetitions add, the worse way; None: most were void."""
    floors = {run.repetition: run for run in direct}
    added = [
        max(added_p99(run, floors.get(run.repetition, direct[0]), way) for way in WAYS)
        for run in runs
        if run.void is None
    ]
    return median(added) if len(added) * 2 > len(runs) else None


def _climb(steps: Sequence[tuple[int, float | None]]) -> Capacity:
    held, held_added = 0, 0.0
    for sessions, added in steps:
        if added is None:
            return Capacity(sessions=held, more=False)
        if added > ADDED_P99:
            part = (ADDED_P99 - held_added) / (added - held_added)
            return Capacity(sessions=held + part * (sessions - held), more=False)
        held, held_added = sessions, max(added, 0.0)
    return Capacity(sessions=held, more=True)


def _capacity_against_nginx(results: Results) -> Measured:
    nginx, ours = (find_capacity(results, arm) for arm in (Arm.NGINX, Arm.OURS))
    if nginx is None or ours is None:
        return Measured(where="expected two steps with valid runs of direct, nginx and ours")
    if not nginx.sessions:
        return Measured(where="nginx does not carry the first step")
    where = f"ours {_at_least(ours)}, nginx {_at_least(nginx)}"
    return Measured(value=ours.sessions / nginx.sessions, where=where)


def _at_least(capacity: Capacity) -> str:
    return f"{'at least ' if capacity.more else ''}{capacity.sessions:.0f}"


def _session_memory(results: Results) -> Measured:
    runs = [r for r in results.valid(arm=Arm.OURS) if r.rss_kib_per_session is not None]
    if not runs:
        return Measured(where="not measured")
    load = min((run.sessions for run in runs), key=lambda n: _distance(n, MANY_SESSIONS))
    values = [r.rss_kib_per_session for r in runs if r.sessions == load]
    return _spread([v for v in values if v is not None], f"{load} sessions")


def _figure(figure: Figure) -> Callable[[Results], Measured]:
    def measure(results: Results) -> Measured:
        value = results.figures.get(figure)
        return Measured(value=value, where="" if value is not None else "not measured")

    return measure


def _ready_against_direct(results: Results) -> Measured:
    ours = results.figures.get(Figure.READY_MS)
    direct = results.figures.get(Figure.READY_DIRECT_MS)
    if ours is None or direct is None:
        return Measured(where="not measured")
    return Measured(value=ours - direct, where=f"ours {ours:.1f} ms, direct {direct:.1f} ms")


def _history_page(results: Results) -> Measured:
    measured = _figure(Figure.HISTORY_P99_MS)(results)
    messages = results.figures.get(Figure.HISTORY_MESSAGES)
    if measured.value is None or messages is None:
        return measured
    return Measured(value=measured.value, where=f"{messages:,.0f} messages")


# fmt: off
BUDGETS: tuple[Budget, ...] = (
    Budget("cpu", "CPU per relayed frame, against nginx",
           "x", 1.4, 1.25, _cpu_against(Arm.NGINX)),
    Budget("cpu-tls", "CPU per relayed frame, against nginx, TLS to the agent",
           "x", 1.5, 1.3, _cpu_against(Arm.NGINX, tls=True)),
    Budget("cpu-fastapi", "CPU per relayed frame, against the FastAPI relay",
           "x", 0.5, 0.4, _cpu_against(Arm.FASTAPI)),
    Budget("latency", "Added one-way latency p99 at 100 sessions, against nginx",
           "x", 1.5, 1.1, _latency_against_nginx),
    Budget("sessions", "Sessions on one core with added p99 of at most 5 ms, against nginx",
           "x", 0.7, 0.85, _capacity_against_nginx, at_least=True),
    Budget("memory", "Memory of an attached session",
           "KiB", 80, 50, _session_memory),
    Budget("memory-unread", "Memory of a session whose browser never reads, over the normal",
           "KiB", 1024, None, _figure(Figure.UNREAD_SESSION_KIB)),
    Budget("ready",
           "Wait for SettingsApplied over a direct connection's, agent handshake of 150 ms",
           "ms", 10, 0, _ready_against_direct),
    Budget("stored", "Messages stored, sustained",
           "/s", 5_000, 20_000, _figure(Figure.MESSAGES_PER_SECOND), at_least=True),
    Budget("history", "History page of 50 out of 1,000,000 messages, p99",
           "ms", 10, 3, _history_page),
    Budget("stall", "Longest event-loop stall with the database stopped",
           "ms", 10, 3, _figure(Figure.STALL_MS)),
)
# fmt: on
