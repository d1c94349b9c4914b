"""What the relay may cost: the budgets as data, held against the results of one load test.

Load tests. Arms are compared in the conversation with `SESSIONS` sessions. A ratio is made within
a repetition; the value shown is the median over the repetitions, and the spread is where the median
of very many would be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from enum import StrEnum
from math import comb
from statistics import median
from typing import Literal

import msgspec

from loadtests.results import Arm, Results, Run
from loadtests.scenarios import (
    CLOSE,
    CONVERSATION,
    ECHO,
    QUIET,
    STOPPED_DATABASE,
    UNREAD,
    Stage,
    Traffic,
)

SESSIONS = 100
ADDED_P99 = 5_000  # microseconds that a relay may add before its core counts as full
SURE = 0.9  # the probability with which the true median lies within the spread


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
    unit: Literal["x", "KiB", "µs", "ms", "s", "/s", "%"]
    must: float
    aim: float | None
    at_least: bool = False

    def keeps(self, limit: float, value: float) -> bool:
        return value >= limit if self.at_least else value <= limit


class Standing(StrEnum):
    """What is known of a budget. It is not decided where the spread of what was measured is wider
    than the distance to the limit."""

    AIM = "holds, aim reached"
    HOLDS = "holds"
    BROKEN = "broken"
    NOT_DECIDED = "not decided"
    NOT_MEASURED = "not measured"


class Verdict(Budget, frozen=True, kw_only=True):
    """A budget held against results."""

    measured: Measured
    standing: Standing


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions an arm carries with `ADDED_P99`; `more`: it was not brought to its end."""

    sessions: float
    more: bool

    def __str__(self) -> str:
        return f"{'at least ' if self.more else ''}{self.sessions:.0f}"


def evaluate(results: Results) -> list[Verdict]:
    """Every budget, in the order of the table."""
    measures = [(budget, measure.find(results)) for budget, measure in BUDGETS.items()]
    return [
        Verdict(
            **msgspec.structs.asdict(budget),
            measured=measured,
            standing=_judge(budget, measured),
        )
        for budget, measured in measures
    ]


def _judge(budget: Budget, measured: Measured) -> Standing:
    value, low, high = measured.value, measured.low, measured.high
    if value is None:
        return Standing.NOT_MEASURED
    if low is not None and high is not None and high - low > abs(value - budget.must):
        return Standing.NOT_DECIDED
    if not budget.keeps(budget.must, value):
        return Standing.BROKEN
    reached = budget.aim is not None and budget.keeps(budget.aim, value)
    return Standing.AIM if reached else Standing.HOLDS


def conclude(verdicts: Sequence[Verdict]) -> str:
    """One line: which budgets hold, which are broken, which are not decided or not measured."""
    names: dict[Standing, list[str]] = defaultdict(list)
    for verdict in verdicts:
        names[verdict.standing].append(verdict.name)
    holding = names[Standing.AIM] + names[Standing.HOLDS]
    line = f"{len(holding)} of {len(verdicts)} budgets hold"
    parts = [f"{line}: {', '.join(holding)}" if holding else line]
    for standing in (Standing.BROKEN, Standing.NOT_DECIDED, Standing.NOT_MEASURED):
        if names[standing]:
            parts.append(f"{standing}: {', '.join(names[standing])}")
    return "; ".join(parts)


def find_arms_to_repeat(stage: Stage, results: Results) -> tuple[Arm, ...]:
    """Those of a stage of which more runs may decide a budget that is not decided."""
    wanted = {
        arm
        for budget, measure in BUDGETS.items()
        if (measure.traffic, measure.tls) == (stage.traffic, stage.tls)
        and _judge(budget, measure.find(results)) is Standing.NOT_DECIDED
        for arm in measure.arms
    }
    return tuple(arm for arm in stage.arms if arm in wanted)


# --- the measures --------------------------------------------------------------------------------


class Measure(msgspec.Struct, frozen=True):
    """How a figure is found in results; where there are runs behind it, which ones."""

    find: Callable[[Results], Measured]
    traffic: Traffic | None = None
    arms: tuple[Arm, ...] = ()
    tls: bool = False


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
    low, high = find_median_interval(values)
    return Measured(value=median(values), low=low, high=high, where=where)


def find_median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values between which the median of all possible ones lies, with a probability of
    `SURE`, whatever their distribution; fewer than five values are not enough for it, and it is
    then the least and the greatest."""
    ordered, count = sorted(values), len(values)
    outside, below = 0, 0.0  # how many values are left out at each end, with what probability
    while 2 * (below := below + comb(count, outside) / 2**count) <= 1 - SURE:
        outside += 1
    place = max(outside - 1, 0)
    return ordered[place], ordered[count - 1 - place]


def _cpu_against(other: Arm, *, tls: bool = False) -> Measure:
    def measure(results: Results) -> Measured:
        rounds = find_rounds(results, Arm.OURS, other, tls=tls)
        cpu = [(ours.cpu_us_per_frame, theirs.cpu_us_per_frame) for ours, theirs in rounds]
        ratios = [ours / theirs for ours, theirs in cpu if ours and theirs]
        return _spread(ratios, f"repetitions: {len(rounds)}")

    return Measure(measure, CONVERSATION, (Arm.OURS, other), tls)


def _compare_latency(results: Results) -> Measured:
    rounds = find_rounds(results, *CLOSE)
    found = []
    for way in ("up", "down"):
        nginx = [added_p99(run, direct)[way] for direct, run, _ in rounds]
        ours = [added_p99(run, direct)[way] for direct, _, run in rounds]
        if not rounds or median(nginx) <= 0:
            return Measured(where=f"nginx adds nothing that can be measured ({way})")
        # Differences of percentiles are small and noisy: the ratio is made of their medians.
        ratio = median(ours) / median(nginx)
        each = [o / n for o, n in zip(ours, nginx, strict=True) if n > 0]
        low, high = find_median_interval(each)
        found.append((ratio, low, high, f"{way}, repetitions: {len(rounds)}"))
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


def _compare_capacity(results: Results) -> Measured:
    nginx, ours = (find_capacity(results, arm) for arm in (Arm.NGINX, Arm.OURS))
    if nginx is None or ours is None or not nginx.sessions:
        return Measured(where=f"not enough steps: ours {ours}, nginx {nginx}")
    return Measured(value=ours.sessions / nginx.sessions, where=f"ours {ours}, nginx {nginx}")


def _of_runs(traffic: Traffic, field: str) -> Measure:
    """What the runs of our relay with this traffic say."""

    def measure(results: Results) -> Measured:
        values = [getattr(run, field) for run in results.valid(arm=Arm.OURS, scenario=traffic.name)]
        return _spread([value for value in values if value is not None], traffic.name)

    return Measure(measure, traffic, (Arm.OURS,))


def _figure(figure: str, less: str | None = None, where: str = "") -> Measure:
    """One figure, or what it is over another; `where` may name figures."""

    def measure(results: Results) -> Measured:
        figures = results.figures
        if figure not in figures:
            return Measured(where="not measured")
        value = figures[figure] - (figures[less] if less else 0)
        return Measured(value=value, where=where.format(**figures))

    return Measure(measure)


# fmt: off
BUDGETS: dict[Budget, Measure] = {
    Budget("cpu", "CPU per relayed frame, against nginx", "x", 1.6, 1.45):
        _cpu_against(Arm.NGINX),
    Budget("cpu-tls", "CPU per relayed frame, against nginx, TLS to the agent", "x", 1.5, 1.3):
        _cpu_against(Arm.NGINX, tls=True),
    Budget("cpu-fastapi", "CPU per relayed frame, against the FastAPI relay", "x", 0.48, 0.42):
        _cpu_against(Arm.FASTAPI),
    Budget("latency", "Added one-way latency p99 at 100 sessions, against nginx", "x", 1.5, 1.1):
        Measure(_compare_latency, CONVERSATION, CLOSE),
    Budget("sessions", "Sessions on one core with added p99 of at most 5 ms, against nginx",
           "x", 0.7, 0.85, at_least=True):
        Measure(_compare_capacity),
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
    Budget("line", "A ConversationText, from the agent's bytes to the browser's send queue",
           "µs", 18, None):
        _figure("line_us"),
    Budget("call", "Processor time of a function call's request", "ms", 0.6, None):
        _figure("call_ms"),
    Budget("storm", "Until 1,000 browsers that come at once are attached", "s", 10, None):
        _figure("storm_seconds"),
    Budget("stall", "Longest event-loop stall with the database stopped", "ms", 10, 3):
        _of_runs(STOPPED_DATABASE, "stall_ms"),
}
# fmt: on
