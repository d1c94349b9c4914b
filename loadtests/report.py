"""What a load test found: the tables in a terminal, JSON for machines.

Load tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

from loadtests import budgets
from loadtests.budgets import Verdict
from loadtests.percentiles import merge
from loadtests.results import Arm, Results, Run

TIMES = "\N{MULTIPLICATION SIGN}"
AT_MOST, AT_LEAST = "\N{LESS-THAN OR EQUAL TO}", "\N{GREATER-THAN OR EQUAL TO}"
NONE = "\N{EN DASH}"


def group(of: Results) -> dict[str, dict[str, list[Run]]]:
    """By title and arm the valid runs of the same scenario, load and kind of connection.

    They stand in the order in which the scenarios first ran, and the arms in their own.
    """
    scenarios = list(dict.fromkeys(run.scenario for run in of.runs))
    arms = list(Arm)

    def place(run: Run) -> tuple[int, bool, int, int]:
        return scenarios.index(run.scenario), run.tls, run.sessions, arms.index(Arm(run.arm))

    groups: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(of.valid(), key=place):
        groups.setdefault(_title(run), {}).setdefault(run.arm, []).append(run)
    return groups


def _title(run: Run) -> str:
    sessions = "1 session" if run.sessions == 1 else f"{run.sessions} sessions"
    return f"{run.scenario}, {sessions}{', TLS to the agent' if run.tls else ''}"


# --- numbers as people read them -----------------------------------------------------------------


def show(value: float | None, unit: str) -> str:
    """A figure of a budget with its unit; a dash for what is not known."""
    if value is None:
        return NONE
    return f"{_show_number(value, unit)} {TIMES if unit == 'x' else unit}"


def _show_number(value: float, unit: str) -> str:
    by_size = 2 if abs(value) < 1 else 1 if abs(value) < 100 else 0
    return f"{value:,.{ {'x': 2, '/s': 0, 'KiB': 0}.get(unit, by_size) }f}"


def show_time(microseconds: float) -> str:
    """At most three digits and the unit that suits."""
    if microseconds < 1_000:
        return f"{microseconds:.0f} µs"
    if microseconds < 1_000_000:
        return f"{microseconds / 1_000:.3g} ms"
    return f"{microseconds / 1_000_000:.2f} s"


def _show_limit(limit: float | None, verdict: Verdict) -> str:
    if limit is None:
        return ""
    bound = AT_LEAST if verdict.at_least else AT_MOST
    return f"{bound} {limit:,g} {TIMES if verdict.unit == 'x' else verdict.unit}"


def _show_spread(verdict: Verdict) -> str:
    """Nothing when there was one value."""
    low, high = verdict.measured.low, verdict.measured.high
    if low is None or high is None or low == high:
        return ""
    return f"{_show_number(low, verdict.unit)} to {_show_number(high, verdict.unit)}"


# --- the terminal --------------------------------------------------------------------------------


def text(of: Results) -> str:
    """The whole report for a terminal, at most 100 columns."""
    verdicts = budgets.evaluate(of)
    parts = [_text_of_budgets(verdicts)]
    parts += [f"{title}\n{_text_of_arms(arms)}" for title, arms in group(of).items()]
    if void := [run for run in of.runs if run.void is not None]:
        lines = [
            f"  {run.arm}, {_title(run)}, repetition {run.repetition}: {run.void}" for run in void
        ]
        parts.append("\n".join(["void runs:", *lines]))
    parts += [f"note: {note}" for note in of.notes]
    parts.append(budgets.conclude(verdicts))
    return "\n\n".join(parts) + "\n"


def _text_of_budgets(verdicts: Sequence[Verdict]) -> str:
    table = [("budget", "must", "aim", "measured", "spread", "")]
    table += [
        (
            verdict.name,
            _show_limit(verdict.must, verdict),
            _show_limit(verdict.aim, verdict),
            show(verdict.measured.value, verdict.unit),
            _show_spread(verdict),
            verdict.standing,
        )
        for verdict in verdicts
    ]
    return _columns(table, right={1, 2, 3})


def _text_of_arms(arms: Mapping[str, Sequence[Run]]) -> str:
    """Medians over the runs of each arm, percentiles of all their values."""
    head = ("  arm", "runs", "CPU/frame", "up p50", "p99", "p99.9", "down p50", "p99", "p99.9")
    table: list[Sequence[str]] = [head]
    for arm, runs in arms.items():
        cpu = [run.cpu_us_per_frame for run in runs if run.cpu_us_per_frame is not None]
        ways = [merge(run.up for run in runs), merge(run.down for run in runs)]
        shown = [
            show_time(value) if latency.count else NONE
            for latency in ways
            for value in (latency.p50, latency.p99, latency.p999)
        ]
        table.append([f"  {arm}", str(len(runs)), f"{median(cpu):.1f} µs" if cpu else NONE, *shown])
    return _columns(table, right=set(range(1, 9)))


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


def save(of: Results, path: Path) -> None:
    """Results and verdicts as JSON, for machines."""
    verdicts = budgets.evaluate(of)
    whole = {
        "verdicts": verdicts,
        "conclusion": budgets.conclude(verdicts),
        **msgspec.structs.asdict(of),
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1))
