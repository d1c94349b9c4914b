"""The report of a load test as one HTML page that needs no script and no network.

Load tests, pure but for its style sheet, which lies next to it and goes into the page.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Sequence
from html import escape

from loadtests import budgets, latency_chart, report
from loadtests.budgets import Verdict
from loadtests.report import Group, show_time
from loadtests.results import Arm, Results, Run, Scenario

READING = """<section><h2>How to read this</h2>
<p>Callers send on a fixed schedule and never wait for answers. Every frame carries the time at
which it was meant to be sent, and latency is counted from there, so a relay that falls behind is
charged for all that it delays. Each way is measured by itself. Percentiles of several runs come
from all their values together.</p>
<p>A run in which a frame was lost, doubled or reordered, or in which the generator itself was late,
is void and counts for nothing. The arms took turns within each repetition.</p>
<p>All of it ran on one machine over its loopback: no network, no internet, no other load. Ratios
between arms carry over to other machines fairly well; absolute times do not. The agent is a
stand-in, so nothing here says how fast an answer of the real service is.</p></section>"""


def html(of: Results) -> str:
    """The whole page."""
    verdicts = budgets.evaluate(of)
    style = importlib.resources.files("loadtests").joinpath("html_report.css").read_text("utf-8")
    body = [
        *_head(of, verdicts),
        *_budgets(verdicts),
        *(part for one in report.group(of) for part in _group(one)),
        READING,
        *_machine(of),
        *_runs(of),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Load test {of.started_at:%Y-%m-%d}</title>\n<style>\n{style}</style>\n"
        f"<main>\n{chr(10).join(body)}\n</main>\n</html>\n"
    )


def _head(of: Results, verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield f"<header><h1>{escape(budgets.conclude(verdicts).capitalize())}</h1>"
    void = sum(run.void is not None for run in of.runs)
    took = f"{of.started_at:%Y-%m-%d %H:%M %Z}, {of.seconds / 60:.0f} min"
    facts = [took, f"commit {of.commit[:12]}", f"{len(of.runs) - void} valid runs, {void} void"]
    yield f"<p>{escape(' · '.join(facts))}</p>"
    yield f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in of.notes)}</ul></header>"


def _budgets(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "<section><h2>Budgets</h2>"
    rows = [
        ("Figure", "Must", "Aim", "Measured", "Spread", ""),
        *((f"{v.title} ({v.measured.where})", *report.cells(v)) for v in verdicts),
    ]
    yield _table(rows, ["broken" if v.holds is False else "" for v in verdicts])
    yield "</section>"


def _group(one: Group) -> Iterator[str]:
    """Open where arms are compared by the budgets; the other loads can be opened."""
    compared = one.scenario == Scenario.CONVERSATION and one.sessions == budgets.SESSIONS
    yield f"<details{' open' if compared else ''}><summary>{escape(one.title)}</summary>"
    yield '<div class="charts">'
    for title, lines in (
        ("Browser to agent", {row.arm: row.up for row in one.rows}),
        ("Agent to browser", {row.arm: row.down for row in one.rows}),
    ):
        yield latency_chart.draw(lines, f"{title}, one-way latency: {one.title}")
    yield "</div>"
    yield _table(report.rows(one), ["ours" if row.arm == Arm.OURS else "" for row in one.rows])
    yield "</details>"


def _machine(of: Results) -> Iterator[str]:
    yield "<section><h2>Machine, versions and single figures</h2><dl>"
    for name, value in (of.machine | of.versions | of.figures).items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>"
    yield "</dl></section>"


def _runs(of: Results) -> Iterator[str]:
    yield "<section><h2>Runs</h2>"
    head = ("Run", "CPU/frame", "Up p99", "Down p99", "Lag p99", "")
    rows = [head, *(_run(run) for run in of.runs)]
    yield _table(rows, ["void" if run.void else "" for run in of.runs])
    yield "</section>"


def _run(run: Run) -> tuple[str, ...]:
    extra = ", ".join(f"{k} {_plain(v)}" for k, v in run.extra.items() if v is not None)
    return (
        report.name(run),
        report.show_cpu(run.cpu_us_per_frame),
        *(show_time(latency.p99) for latency in (run.up, run.down, run.lag)),
        run.void or extra,
    )


def _table(rows: Sequence[Sequence[str]], classes: Sequence[str]) -> str:
    """The first row is the head; `classes` are those of the others."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "\n".join(
        f'<tr class="{kind}">{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>'
        for row, kind in zip(rows[1:], classes, strict=True)
    )
    return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>'


def _plain(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
