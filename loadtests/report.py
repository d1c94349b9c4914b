"""What a load test found: the tables in a terminal, JSON for machines.

Load tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from loadtests import budgets, percentiles
from loadtests.budgets import Verdict
from loadtests.percentiles import Latency
from loadtests.results import Arm, Results, Run

TIMES = "\N{MULTIPLICATION SIGN}"
AT_MOST, AT_LEAST = "\N{LESS-THAN OR EQUAL TO}", "\N{GREATER-THAN OR EQUAL TO}"
MINUS, EN_DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
NONE = EN_DASH

ORDER = [str(arm) for arm in Arm]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One arm in one group: medians over its valid runs, percentiles of all their values."""

    arm: str
    repetitions: int
    cpu_us_per_frame: float | None
    up: Latency
    down: Latency


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that may be shown in one table: the same scenario, load and kind of connection."""

    scenario: str
    sessions: int
    tls: bool
    rows: list[Row]

    @property
    def title(self) -> str:
        sessions = "1 session" if self.sessions == 1 else f"{self.sessions} sessions"
        return f"{self.scenario}, {sessions}{', TLS to the agent' if self.tls else ''}"


def group(of: Results) -> list[Group]:
    """The valid runs, in the order in which the scenarios first ran."""
    found: dict[tuple[str, int, bool], dict[str, list[Run]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in of.valid():
        found[run.scenario, run.sessions, run.tls][run.arm].append(run)
    scenarios = list(dict.fromkeys(run.scenario for run in of.runs))
    keys = sorted(found, key=lambda key: (scenarios.index(key[0]), key[2], key[1]))
    return [
        Group(
            scenario=key[0],
            sessions=key[1],
            tls=key[2],
            rows=[_row(arm, found[key][arm]) for arm in sorted(found[key], key=_place)],
        )
        for key in keys
    ]


def _place(arm: str) -> tuple[int, str]:
    return (ORDER.index(arm) if arm in ORDER else len(ORDER), arm)


def _row(arm: str, runs: list[Run]) -> Row:
    cpu = [run.cpu_us_per_frame for run in runs if run.cpu_us_per_frame is not None]
    return Row(
        arm=arm,
        repetitions=len(runs),
        cpu_us_per_frame=median(cpu) if cpu else None,
        up=percentiles.merge(run.up for run in runs),
        down=percentiles.merge(run.down for run in runs),
    )


# --- numbers as people read them -----------------------------------------------------------------


def show(value: float | None, unit: str) -> str:
    """A figure of a budget with its unit; a dash for what is not known."""
    if value is None:
        return NONE
    if unit == "x":
        return f"{value:.2f} {TIMES}"
    if unit == "/s":
        return f"{value:,.0f} /s"
    if unit == "KiB":
        return f"{_signed(value, 0)} KiB"
    return f"{_signed(value, 1 if abs(value) < 100 else 0)} {unit}"


def show_limit(limit: float | None, verdict: Verdict) -> str:
    if limit is None:
        return ""
    shown = f"{limit:g} {TIMES}" if verdict.unit == "x" else f"{limit:,.0f} {verdict.unit}"
    return f"{AT_LEAST if verdict.at_least else AT_MOST} {shown}"


def show_spread(verdict: Verdict) -> str:
    """Least to greatest of the repetitions; nothing when there was one."""
    low, high = verdict.measured.low, verdict.measured.high
    if low is None or high is None or low == high:
        return ""
    digits = 2 if verdict.unit == "x" else 0
    return f"{_signed(low, digits)} to {_signed(high, digits)}"


def show_time(microseconds: float) -> str:
    """Three digits and the unit that suits."""
    if microseconds < 1_000:
        return f"{microseconds:.0f} µs"
    if microseconds < 1_000_000:
        ms = microseconds / 1_000
        return f"{ms:.{2 if ms < 10 else 1 if ms < 100 else 0}f} ms"
    return f"{microseconds / 1_000_000:.2f} s"


def show_verdict(verdict: Verdict) -> str:
    if verdict.holds is None:
        return "not measured"
    if not verdict.holds:
        return "broken"
    return "holds, aim reached" if verdict.reaches_aim else "holds"


def show_cpu(microseconds: float | None) -> str:
    return NONE if microseconds is None else f"{microseconds:.1f} µs"


def _signed(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", MINUS)


# --- the terminal --------------------------------------------------------------------------------


def text(of: Results) -> str:
    """The whole report for a terminal, at most 100 columns."""
    verdicts = budgets.evaluate(of)
    parts = [_text_of_budgets(verdicts)]
    parts += [_text_of_group(one) for one in group(of)]
    if void := [run for run in of.runs if run.void is not None]:
        parts.append("\n".join(["void runs:", *(f"  {name(run)}: {run.void}" for run in void)]))
    parts += [f"note: {note}" for note in of.notes]
    parts.append(budgets.conclude(verdicts))
    return "\n\n".join(parts) + "\n"


def _text_of_budgets(verdicts: Sequence[Verdict]) -> str:
    head = ("budget", "must", "aim", "measured", "spread", "")
    return _columns([head, *((v.name, *cells(v)) for v in verdicts)], right={1, 2, 3})


def cells(verdict: Verdict) -> tuple[str, ...]:
    """The row of a budget after its name."""
    return (
        show_limit(verdict.must, verdict),
        show_limit(verdict.aim, verdict),
        show(verdict.measured.value, verdict.unit),
        show_spread(verdict),
        show_verdict(verdict),
    )


def _text_of_group(one: Group) -> str:
    return f"{one.title}\n" + _columns(rows(one), right=set(range(1, 9)))


def rows(one: Group) -> list[tuple[str, ...]]:
    """The table of a group; its head comes first."""
    head = ("  arm", "runs", "CPU/frame", "up p50", "p99", "p99.9", "down p50", "p99", "p99.9")
    table: list[tuple[str, ...]] = [head]
    for row in one.rows:
        shown = [
            show_time(value) if latency.count else NONE
            for latency in (row.up, row.down)
            for value in (latency.p50, latency.p99, latency.p999)
        ]
        table.append((f"  {row.arm}", str(row.repetitions), show_cpu(row.cpu_us_per_frame), *shown))
    return table


def _columns(rows: Sequence[Sequence[str]], *, right: set[int]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def name(run: Run) -> str:
    tls = " TLS" if run.tls else ""
    return f"{run.arm}{tls}, {run.scenario}, {run.sessions} sessions, repetition {run.repetition}"


def save(of: Results, path: Path) -> None:
    """Results and verdicts as JSON, for machines."""
    verdicts = budgets.evaluate(of)
    told = {"verdicts": verdicts, "conclusion": budgets.conclude(verdicts)}
    whole = {**told, **msgspec.to_builtins(of)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1))
