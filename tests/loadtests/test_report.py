from __future__ import annotations

import random
from datetime import UTC, datetime

import msgspec
import pytest

from loadtests import budgets, percentiles, report
from loadtests.percentiles import summarize_values
from loadtests.report import show, show_time
from loadtests.results import Arm, Results, Run

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def latency(typical, seed):
    values = random.Random(seed)
    return summarize_values(typical * values.lognormvariate(0, 0.4) for _ in range(500))


def run(arm, repetition, *, sessions=100, cpu=None, void=None, scenario="conversation", **more):
    typical = {Arm.DIRECT: 90, Arm.NGINX: 130, Arm.OURS: 150}[arm]
    return Run(
        arm=arm,
        scenario=scenario,
        sessions=sessions,
        repetition=repetition,
        cpu_us_per_frame=cpu,
        up=latency(typical, repetition),
        down=latency(typical * 2, repetition),
        void=void,
        **more,
    )


@pytest.fixture
def whole():
    """Two repetitions of three arms, one of them void, a step, a frame size, some figures."""
    return Results(
        started_at=AT,
        seconds=600,
        machine={"processor": "a <fast> one", "cores": 2},
        commit="0123456789abcdef",
        versions={"python": "3.11"},
        notes=["nginx was left out"],
        runs=[
            run(Arm.DIRECT, 0),
            run(Arm.NGINX, 0, cpu=20.0),
            run(Arm.OURS, 0, cpu=26.0, rss_kib_per_session=44.0),
            run(Arm.DIRECT, 1),
            run(Arm.NGINX, 1, cpu=20.0, void="2 frames of session 7 were lost & found"),
            run(Arm.OURS, 1, cpu=28.0, rss_kib_per_session=46.0),
            run(Arm.DIRECT, 0, sessions=200),
            run(Arm.NGINX, 0, sessions=200, cpu=19.0),
            run(Arm.OURS, 0, sessions=200, cpu=24.0),
            run(Arm.OURS, 0, scenario="quiet"),
        ],
        figures={"messages_per_second": 1_800.0},
    )


def empty():
    return Results(started_at=AT)


@pytest.mark.parametrize(
    ("microseconds", "shown"),
    [(87, "87 µs"), (1_234, "1.23 ms"), (12_345, "12.3 ms"), (123_456, "123 ms"), (2e6, "2.00 s")],
)
def test_a_time_has_three_digits_and_the_unit_that_suits(microseconds, shown):
    assert show_time(microseconds) == shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "ms", report.NONE),
        (1.256, "x", f"1.26 {report.TIMES}"),
        (18_250.4, "/s", "18,250 /s"),
        (43.6, "KiB", "44 KiB"),
        (-5.72, "ms", "-5.7 ms"),
        (0.482, "ms", "0.48 ms"),
        (152.4, "ms", "152 ms"),
    ],
)
def test_a_figure_has_the_unit_of_its_budget(value, unit, shown):
    assert show(value, unit) == shown


def test_runs_are_grouped_by_scenario_and_load_and_arms_stand_in_one_order(whole):
    groups = report.group(whole)

    assert [(title, list(arms)) for title, arms in groups.items()] == [
        ("conversation, 100 sessions", ["direct", "nginx", "ours"]),
        ("conversation, 200 sessions", ["direct", "nginx", "ours"]),
        ("quiet, 100 sessions", ["ours"]),
    ]


def test_a_row_has_the_median_of_the_processor_time_and_the_percentiles_of_all_values(whole):
    runs = list(whole.valid(arm=Arm.OURS, scenario="conversation", sessions=100))
    up = percentiles.merge(run.up for run in runs)

    ours = next(line.split() for line in report.text(whole).splitlines() if "  ours" in line)

    assert ours[:4] == ["ours", "2", "27.0", "µs"]
    assert " ".join(ours[4:8]) == f"{show_time(up.p50)} {show_time(up.p99)}"


def test_the_text_tells_budgets_groups_void_runs_and_ends_with_the_verdict(whole):
    text = report.text(whole)

    assert "conversation, 100 sessions\n" in text
    assert "nginx, conversation, 100 sessions, repetition 1: 2 frames of session 7" in text
    assert "note: nginx was left out" in text
    assert text.endswith(f"\n\n{budgets.conclude(budgets.evaluate(whole))}\n")
    tables = [line for line in text.splitlines() if not line.startswith(("  nginx, ", "2 of"))]
    assert max(map(len, tables[:-1])) <= 100


def test_the_json_has_the_verdicts_and_can_be_read_as_results(whole, tmp_path):
    report.save(whole, tmp_path / "results.json")

    written = (tmp_path / "results.json").read_bytes()
    told = msgspec.json.decode(written)
    assert {v["name"]: v["standing"] for v in told["verdicts"]}["stored"] == "broken"
    assert told["conclusion"] == budgets.conclude(budgets.evaluate(whole))
    assert msgspec.json.decode(written, type=Results) == whole


def test_results_without_runs_can_be_told_too():
    assert report.text(empty()).startswith("budget ")
