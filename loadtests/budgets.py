"""What the relay may cost: the budgets as data, held against the results of one load test.

Load tests. Arms are compared in the conversation with `SESSIONS` sessions. A ratio is made within
a repetition; the value shown is the median over the repetitions and the spread its least and
greatest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Literal

import msgspec

from loadtests.results import Arm, Results, Run
from loadtests.scenarios import CONVERSATION, ECHO, QUIET, STOPPED_DATABASE, UNREAD, Traffic

SESSIONS = 100
ADDED_P99 = 5_000  # microseconds that a relay may add before its core counts as full


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
    at_least: bool = False

    def keeps(self, limit: float | None, value: float | None) -> bool | None:
        if value is None or limit is None:
            return None
        return value >= limit if self.at_least else value <= limit


class Verdict(Budget, frozen=True, kw_only=True):
    """A budget held against results. `holds` and `reaches_aim` are None where nothing is known."""

    measured: Measured
    holds: bool | None
    reaches_aim: bool | None


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions an arm carries with `ADDED_P99`; `more`: it was not brought to its end."""

    sessions: float
    more: bool

    def __str__(self) -> str:
        return f"{'at least ' if self.more else ''}{self.sessions:.0f}"


def evaluate(results: Results) -> list[Verdict]:
    """Every budget, in the order of the table."""
    measures = [(budget, measure(results)) for budget, measure in BUDGETS.items()]
    return [
        Verdict(
            **msgspec.structs.asdict(budget),
            measured=measured,
            holds=budget.keeps(budget.must, measured.value),
            reaches_aim=budget.keeps(budget.aim, measured.value),
        )
        for budget, measured in measures
    ]


def conclude(verdicts: Sequence[Verdict]) -> str:
    """One line: how many budgets hold, which are broken, which were not measured."""
    holding = [verdict.name for verdict in verdicts if verdict.holds]
    broken = [verdict.name for verdict in verdicts if verdict.holds is False]
    unknown = [verdict.name for verdict in verdicts if verdict.holds is None]
    line = f"{len(holding)} of {len(verdicts)} budgets hold"
    if broken:
        line += f"; broken: {', '.join(broken)}"
    if unknown:
        line += f"; not measured: {', '.join(unknown)}"
    return line


# --- the measures --------------------------------------------------------------------------------

Measure = Callable[[Results], Measured]


def find_rounds(results: Results, *arms: Arm, tls: bool = False) -> list[tuple[Run, ...]]:
    """The runs to compare `arms` by: of each repetition in which all of them have a valid one."""
    rounds: dict[int, dict[str, Run]] = defaultdict(dict)
    for run in results.valid(scenario=CONVERSATION.name, sessions=SESSIONS, tls=tls):
        rounds[run.repetition][run.arm] = run
    return [tuple(of[arm] for arm in arms) for of in rounds.values() if of.keys() >= set(arms)]


def added_p99(run: Run, direct: Run) -> dict[str, int]:
    """Microseconds that an arm adds to each way without it, at the 99th percentile of both."""
    return {"up": run.up.p99 - direct.up.p99, "down": run.down.p99 - direct.down.p99}


def _spread(values: Sequence[float], where: str) -> Measured:
    if not values:
        return Measured(where=f"no valid runs: {where}")
    return Measured(value=median(values), low=min(values), high=max(values), where=where)


def _cpu_against(other: Arm, *, tls: bool = False) -> Measure:
    def measure(results: Results) -> Measured:
        rounds = find_rounds(results, Arm.OURS, other, tls=tls)
        cpu = [(ours.cpu_us_per_frame, theirs.cpu_us_per_frame) for ours, theirs in rounds]
        ratios = [ours / theirs for ours, theirs in cpu if ours and theirs]
        return _spread(ratios, f"repetitions: {len(rounds)}")

    return measure


def _latency_against_nginx(results: Results) -> Measured:
    rounds = find_rounds(results, Arm.DIRECT, Arm.NGINX, Arm.OURS)
    found = []
    for way in ("up", "down"):
        nginx = [added_p99(run, direct)[way] for direct, run, _ in rounds]
        ours = [added_p99(run, direct)[way] for direct, _, run in rounds]
        if not rounds or median(nginx) <= 0:
            return Measured(where=f"nginx adds nothing that can be measured ({way})")
        # Differences of percentiles are small and noisy: the ratio is made of their medians.
        ratio = median(ours) / median(nginx)
        each = [o / n for o, n in zip(ours, nginx, strict=True) if n > 0]
        found.append((ratio, min(each), max(each), f"{way}, repetitions: {len(rounds)}"))
    ratio, low, high, where = max(found)  # the worse way
    return Measured(value=ratio, low=low, high=high, where=where)


def find_capacity(results: Results, arm: Arm) -> Capacity | None:
    """The sessions that `arm` carries, from the steps of the echo; None without two steps.

    Between the last step that holds and the first that does not, the added p99 is taken to grow
    evenly. A step does not hold where all runs are void. The steps end where the direct arm has no
    valid run: what follows says nothing of `arm`.
    """
    direct = {run.sessions: run for run in results.valid(arm=Arm.DIRECT, scenario=ECHO.name)}
    echoes = [run for run in results.runs if (run.arm, run.scenario) == (arm, ECHO.name)]
    steps = sorted({run.sessions for run in echoes} & set(direct))
    if len(steps) < 2:
        return None
    held, held_added = 0, 0.0
    for sessions in steps:
        runs = [run for run in echoes if run.sessions == sessions and run.void is None]
        if not runs:
            return Capacity(sessions=held, more=False)
        added = median(max(added_p99(run, direct[sessions]).values()) for run in runs)
        if added > ADDED_P99:
            part = (ADDED_P99 - held_added) / (added - held_added)
            return Capacity(sessions=held + part * (sessions - held), more=False)
        held, held_added = sessions, max(added, 0.0)
    return Capacity(sessions=held, more=True)


def _capacity_against_nginx(results: Results) -> Measured:
    nginx, ours = (find_capacity(results, arm) for arm in (Arm.NGINX, Arm.OURS))
    if nginx is None or ours is None or not nginx.sessions:
        return Measured(where=f"not enough steps: ours {ours}, nginx {nginx}")
    return Measured(value=ours.sessions / nginx.sessions, where=f"ours {ours}, nginx {nginx}")


def _of_runs(traffic: Traffic, field: str) -> Measure:
    """What the runs of our relay with this traffic say."""

    def measure(results: Results) -> Measured:
        values = [getattr(run, field) for run in results.valid(arm=Arm.OURS, scenario=traffic.name)]
        return _spread([value for value in values if value is not None], traffic.name)

    return measure


def _figure(figure: str, less: str | None = None, where: str = "") -> Measure:
    """One figure, or what it is over another; `where` may name figures."""

    def measure(results: Results) -> Measured:
        figures = results.figures
        if figure not in figures:
            return Measured(where="not measured")
        value = figures[figure] - (figures[less] if less else 0)
        return Measured(value=value, where=where.format(**figures))

    return measure


# fmt: off
BUDGETS: dict[Budget, Measure] = {
    Budget("cpu", "CPU per relayed frame, against nginx", "x", 1.4, 1.25):
        _cpu_against(Arm.NGINX),
    Budget("cpu-tls", "CPU per relayed frame, against nginx, TLS to the agent", "x", 1.5, 1.3):
        _cpu_against(Arm.NGINX, tls=True),
    Budget("cpu-fastapi", "CPU per relayed frame, against the FastAPI relay", "x", 0.5, 0.4):
        _cpu_against(Arm.FASTAPI),
    Budget("latency", "Added one-way latency p99 at 100 sessions, against nginx", "x", 1.5, 1.1):
        _latency_against_nginx,
    Budget("sessions", "Sessions on one core with added p99 of at most 5 ms, against nginx",
           "x", 0.7, 0.85, at_least=True):
        _capacity_against_nginx,
    Budget("memory", "Memory of an attached session", "KiB", 80, 50):
        _of_runs(QUIET, "rss_kib_per_session"),
    Budget("memory-unread", "Memory of a session whose browser never reads, over the normal",
           "KiB", 1024, None):
        _of_runs(UNREAD, "rss_kib_per_session"),
    Budget("ready",
           "Wait for SettingsApplied over a direct connection's, agent handshake of 150 ms",
           "ms", 10, 0):
        _figure("ready_ms", "ready_direct_ms",
                "ours {ready_ms:.1f} ms, direct {ready_direct_ms:.1f} ms"),
    Budget("greeting", "Tap to the agent's first sound in a browser, over a direct connection's: "
           "the worst of median and p95 with 0, 30 and 100 ms of network", "ms", 0, None):
        _figure("greeting_over_direct_ms"),
    Budget("stored", "Messages stored, sustained", "/s", 5_000, 20_000, at_least=True):
        _figure("messages_per_second"),
    Budget("history", "History page of 50 out of 1,000,000 messages, p99", "ms", 10, 3):
        _figure("history_p99_ms", where="{history_messages:,.0f} messages"),
    Budget("stall", "Longest event-loop stall with the database stopped", "ms", 10, 3):
        _of_runs(STOPPED_DATABASE, "stall_ms"),
}
# fmt: on
