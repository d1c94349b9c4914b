"""What a load test tells, as one HTML page that needs no script and no network.

Load tests, pure but for its style sheet, which lies next to it and goes into the page.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Sequence
from html import escape

from loadtests import budgets, curves, report
from loadtests.budgets import WAYS, Verdict, Way
from loadtests.report import EN_DASH, Group, Row, show_time
from loadtests.results import Arm, Latency, Results, Run, Scenario

WAY_TITLES: dict[Way, str] = {"up": "Browser to agent", "down": "Agent to browser"}
OVER = 1.25  # a gauge shows this much of its limit


def html(of: Results) -> str:
    """The whole page."""
    verdicts = budgets.evaluate(of)
    groups = report.group(of)
    style = importlib.resources.files("loadtests").joinpath("page.css").read_text("utf-8")
    body = [
        *_head(of, verdicts),
        *_budget_section(verdicts),
        *_group_sections(groups),
        *_capacity_section(of),
        *_reading_section(),
        *_machine_section(of),
        *_run_section(of),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Load test {of.started_at:%Y-%m-%d}</title>\n<style>\n{style}</style>\n"
        f"<main>\n{chr(10).join(body)}\n</main>\n</html>\n"
    )


def _head(of: Results, verdicts: Sequence[Verdict]) -> Iterator[str]:
    first, *rest = budgets.conclude(verdicts).split("; ")
    yield "<header>"
    yield '<p class="eyebrow">Voice relay, load test</p>'
    yield f"<h1>{escape(first.capitalize())}</h1>"
    if rest:
        yield f"<p>{escape('; '.join(rest).capitalize())}.</p>"
    valid = sum(run.void is None for run in of.runs)
    void = len(of.runs) - valid
    facts = [report.describe_start(of)]
    if of.commit:
        facts.append(f"commit {of.commit[:12]}")
    facts.append(f"{_count(valid, 'valid run')}, {void} void")
    yield f'<p class="lead">{escape(" · ".join(facts))}</p>'
    yield "</header>"
    if of.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in of.notes)
        yield f'<ul class="notes">{notes}</ul>'


# --- budgets -------------------------------------------------------------------------------------


def _budget_section(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "<section><h2>Budgets</h2>"
    yield '<table class="budgets"><thead><tr><th>Figure</th><th class="number">Measured</th>'
    yield '<th class="number">Must</th><th class="number">Aim</th><th></th><th></th></tr></thead>'
    yield "<tbody>"
    for verdict in verdicts:
        yield from _budget_row(verdict)
    yield "</tbody></table></section>"


def _budget_row(verdict: Verdict) -> Iterator[str]:
    kind = "unknown"
    if verdict.holds is not None:
        kind = "broken" if not verdict.holds else "aim" if verdict.reaches_aim else "holds"
    states = {"unknown": "not measured", "broken": "broken", "aim": "aim reached", "holds": "holds"}
    detail = verdict.measured.where
    if spread := report.show_spread(verdict):
        detail += f" ({spread})"
    yield f'<tr class="{kind}"><td class="title">{escape(verdict.title)}'
    if verdict.measured.value is not None or detail != "not measured":
        yield f'<span class="where">{escape(detail)}</span>'
    yield "</td>"
    yield f'<td class="number value">{report.show(verdict.measured.value, verdict.unit)}</td>'
    for label, limit in (("must", verdict.must), ("aim", verdict.aim)):
        shown = escape(report.show_limit(limit, verdict))
        yield f'<td class="number limit-cell" data-label="{label}">{shown}</td>'
    yield f'<td class="gauge">{_gauge(verdict)}</td>'
    yield f'<td class="state"><span>{states[kind]}</span></td></tr>'


def _gauge(verdict: Verdict) -> str:
    """The value as a bar and the limit as a mark across it."""
    value = verdict.measured.value
    if value is None:
        return ""
    # A minimum may be passed by far: its scale ends at the value, that of a maximum at the limit.
    end = max(value, verdict.must) * 1.05 if verdict.at_least else verdict.must * OVER
    width = 100 * min(max(value / end, 0.0), 1.0)
    mark = 100 * verdict.must / end
    return f'<div><i style="width:{width:.1f}%"></i><b style="left:{mark:.1f}%"></b></div>'


# --- groups of runs ------------------------------------------------------------------------------


def _group_sections(groups: Sequence[Group]) -> Iterator[str]:
    open_ = _choose_open(groups)
    for one in open_:
        yield f"<section><h2>{escape(_sentence(one.title))}</h2>"
        yield from _group_body(one)
        yield "</section>"
    if others := [one for one in groups if one not in open_]:
        yield "<section><h2>Other loads</h2>"
        yield '<p class="soft">Other frame sizes, other numbers of sessions, and faults.</p>'
        for one in others:
            arms = ", ".join(row.arm for row in one.rows)
            yield f"<details><summary>{escape(_sentence(one.title))} "
            yield f'<span class="soft">{escape(arms)}</span></summary>'
            yield from _group_body(one)
            yield "</details>"
        yield "</section>"


def _choose_open(groups: Sequence[Group]) -> list[Group]:
    """Of conversation and echo, plain and with TLS, the load that arms are compared at."""
    chosen = []
    for scenario in (Scenario.CONVERSATION, Scenario.ECHO):
        for tls in (False, True):
            same = [g for g in groups if g.scenario == scenario and g.tls == tls]
            if same:
                arms = max(len(g.rows) for g in same)
                most = [g for g in same if len(g.rows) == arms]
                chosen.append(min(most, key=lambda g: abs(g.sessions - budgets.SESSIONS)))
    return chosen


def _group_body(one: Group) -> Iterator[str]:
    yield '<div class="charts">'
    if any(row.cpu_us_per_frame for row in one.rows):
        yield from _bars(
            "CPU time of the relay per relayed frame",
            [(row, row.cpu_us_per_frame, _cpu_label(row)) for row in one.rows],
        )
    if any(row.rss_kib_per_session for row in one.rows):
        yield from _bars(
            "Memory of the relay per session",
            [(row, row.rss_kib_per_session, _rss_label(row)) for row in one.rows],
        )
    for way in WAYS:
        title = f"{WAY_TITLES[way]}, one-way latency"
        drawn = curves.draw([_curve(row, way) for row in one.rows], f"{title}: {one.title}")
        if drawn:
            yield f'<div class="card"><h3>{title}</h3>{drawn}</div>'
    yield "</div>"
    yield from _percentile_table(one)


def _bars(title: str, bars: Sequence[tuple[Row, float | None, str]]) -> Iterator[str]:
    longest = max(value or 0.0 for _, value, _ in bars)
    yield f'<div class="card"><h3>{title}</h3><div class="bars">'
    for row, value, label in bars:
        if value is None:
            continue
        yield _bar(row.arm, value / longest if longest > 0 else 0.0, label)
    yield "</div></div>"


def _bar(arm: str, part: float, label: str) -> str:
    mine = " mine" if arm == Arm.OURS else ""
    style = f"display:block;width:{100 * max(part, 0.0):.1f}%"
    return (
        f'<span class="{mine.strip()}">{escape(arm)}</span>'
        f'<span><span class="bar{mine}" style="{style}"></span></span>'
        f'<span class="figure{mine}">{label}</span>'
    )


def _cpu_label(row: Row) -> str:
    if row.cpu_us_per_frame is None:
        return ""
    label = f"{row.cpu_us_per_frame:.1f} µs"
    if row.cpu_low is not None and row.cpu_high is not None and row.cpu_low != row.cpu_high:
        label += f" <small>{row.cpu_low:.1f}{EN_DASH}{row.cpu_high:.1f}</small>"
    return label


def _rss_label(row: Row) -> str:
    value = row.rss_kib_per_session
    return "" if value is None else f"{value:.0f} KiB"


def _curve(row: Row, way: Way) -> curves.Curve:
    ways = [run.up if way == "up" else run.down for run in row.runs]
    return curves.Curve(name=row.arm, latency=row.up if way == "up" else row.down, repetitions=ways)


# Title, and whether a narrow page leaves it out.
COLUMNS = (
    ("Frames", True),
    ("p50", False),
    ("p90", True),
    ("p99", False),
    ("p99 of each run", True),
    ("p99.9", False),
    ("max", False),
)


def _percentile_table(one: Group) -> Iterator[str]:
    yield '<div class="scroll"><table class="figures"><thead><tr><th>Arm</th><th>Way</th>'
    for name, more in COLUMNS:
        yield f'<th class="number{" more" if more else ""}">{name}</th>'
    yield "</tr></thead><tbody>"
    for row in one.rows:
        if row.up.count:
            yield _percentile_row(row, "up", row.up, row.up_p99_low, row.up_p99_high)
        if row.down.count:
            yield _percentile_row(row, "down", row.down, row.down_p99_low, row.down_p99_high)
    yield "</tbody></table></div>"


def _percentile_row(row: Row, way: Way, latency: Latency, low: int, high: int) -> str:
    cells = (
        f"{latency.count:,}",
        show_time(latency.p50),
        show_time(latency.p90),
        show_time(latency.p99),
        "" if low == high else f"{show_time(low)} {EN_DASH} {show_time(high)}",
        show_time(latency.p999),
        show_time(latency.max),
    )
    numbers = "".join(
        f'<td class="number{" more" if more else ""}">{cell}</td>'
        for cell, (_, more) in zip(cells, COLUMNS, strict=True)
    )
    mine = ' class="ours"' if row.arm == Arm.OURS else ""
    return f"<tr{mine}><td>{escape(row.arm)}</td><td>{way}</td>{numbers}</tr>"


# --- sessions on one core ------------------------------------------------------------------------


def _capacity_section(of: Results) -> Iterator[str]:
    found = {arm: budgets.find_capacity(of, arm) for arm in Arm if arm != Arm.DIRECT}
    known = [(arm, capacity) for arm, capacity in found.items() if capacity is not None]
    if not known:
        return
    longest = max(capacity.sessions for _, capacity in known) or 1.0
    yield "<section><h2>Sessions on one core</h2>"
    yield '<p class="soft">How many a relay carries before it adds more than 5 ms at the 99th '
    yield "percentile. Between two steps the growth is taken to be even.</p>"
    yield '<div class="charts"><div class="card"><div class="bars">'
    for arm, capacity in known:
        more = "at least " if capacity.more else ""
        yield _bar(arm, capacity.sessions / longest, f"{more}{capacity.sessions:.0f}")
    yield "</div></div></div></section>"


# --- what a reader needs besides -----------------------------------------------------------------


def _reading_section() -> Iterator[str]:
    yield """<section><h2>How to read this</h2>
<p>Callers send on a fixed schedule and never wait for answers. Every frame carries the time at
which it was meant to be sent, and latency is counted from there, so a relay that falls behind is
charged for all that it delays. Each way is measured alone. Percentiles of several runs come from
all their values together; the band around our curve is the spread of its repetitions.</p>
<p>A run in which a frame was lost, doubled or reordered, or in which the generator itself was late,
is void and counts for nothing. The arms took turns within each repetition.</p>
<p>All of it ran on one machine over its loopback: no network, no internet, no other load. Ratios
between arms carry over to other machines fairly well; absolute times do not. The agent is a
stand-in, so nothing here says how fast an answer of the real service is.</p></section>"""


def _machine_section(of: Results) -> Iterator[str]:
    if not of.machine and not of.versions:
        return
    yield '<section><h2>Machine and versions</h2><div class="pair">'
    for pairs in (of.machine, of.versions):
        cells = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in pairs.items())
        yield f"<dl>{cells}</dl>"
    yield "</div></section>"


def _run_section(of: Results) -> Iterator[str]:
    void = [run for run in of.runs if run.void is not None]
    yield "<section><h2>Runs</h2>"
    if void:
        yield f'<p class="soft">{_count(len(void), "run")} of {len(of.runs)} void:</p>'
        yield from _run_table(void)
    elif of.runs:
        yield '<p class="soft">None was void.</p>'
    if valid := [run for run in of.runs if run.void is None]:
        yield f"<details><summary>{_count(len(valid), 'valid run')}</summary>"
        yield from _run_table(valid)
        yield "</details>"
    if of.figures:
        yield "<details><summary>Single figures</summary><dl>"
        for name, value in of.figures.items():
            yield f"<dt><code>{escape(name)}</code></dt><dd>{value:,.2f}</dd>"
        yield "</dl></details>"
    yield "</section>"


def _run_table(runs: Sequence[Run]) -> Iterator[str]:
    yield '<div class="scroll"><table class="figures"><thead><tr><th>Arm</th><th>Scenario</th>'
    for name in ("Sessions", "Rep.", "Frames", "CPU/frame", "Up p99", "Down p99", "Lag p99"):
        yield f'<th class="number">{name}</th>'
    yield "<th></th></tr></thead><tbody>"
    for run in runs:
        cpu = "" if run.cpu_us_per_frame is None else f"{run.cpu_us_per_frame:.1f} µs"
        times = [
            show_time(latency.p99) if latency.count else ""
            for latency in (run.up, run.down, run.lag)
        ]
        frames = f"{run.frames_up + run.frames_down:,}"
        numbers = [str(run.sessions), str(run.repetition), frames, cpu, *times]
        cells = "".join(f'<td class="number">{cell}</td>' for cell in numbers)
        said = run.void or ", ".join(
            f"{k} {_plain(v)}" for k, v in run.extra.items() if v is not None
        )
        scenario = run.scenario + (" (TLS)" if run.tls else "")
        yield f"<tr{' class=void' if run.void else ''}><td>{escape(run.arm)}</td>"
        yield f'<td>{escape(scenario)}</td>{cells}<td class="reason">{escape(said)}</td></tr>'
    yield "</tbody></table></div>"


def _plain(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
