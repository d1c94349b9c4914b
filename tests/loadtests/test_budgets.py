from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from loadtests import budgets
from loadtests.budgets import BUDGETS, Capacity, conclude, evaluate, find_capacity
from loadtests.percentiles import Latency
from loadtests.results import Arm, Results, Run
from loadtests.scenarios import STOPPED_DATABASE, UNREAD

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def run(arm, *, p99=100, down=None, cpu=None, sessions=100, scenario="conversation", **more):
    return Run(
        arm=arm,
        scenario=scenario,
        sessions=sessions,
        cpu_us_per_frame=cpu,
        up=Latency(count=1_000, p99=p99),
        down=Latency(count=1_000, p99=p99 if down is None else down),
        **more,
    )


def results(*runs, **figures):
    return Results(started_at=AT, runs=list(runs), figures=figures)


def verdict(name, of):
    return next(verdict for verdict in evaluate(of) if verdict.name == name)


def test_every_budget_of_the_issue_is_there_with_an_aim_that_is_no_easier_than_the_must():
    assert len(BUDGETS) == len({budget.name for budget in BUDGETS}) == 12
    for budget in BUDGETS:
        if budget.aim is not None:
            assert (budget.aim >= budget.must) if budget.at_least else (budget.aim <= budget.must)


def test_without_results_nothing_is_known_and_nothing_holds():
    verdicts = evaluate(results())

    assert {v.holds for v in verdicts} == {None}
    assert {v.reaches_aim for v in verdicts} == {None}
    assert all(v.measured.where for v in verdicts)
    assert conclude(verdicts).startswith("0 of 12 budgets hold; not measured: cpu,")


def test_a_ratio_is_the_median_of_the_ratios_within_each_repetition():
    # The machine was twice as slow in repetition 1: that is no difference between the arms.
    runs = [
        run(arm, cpu=cpu * slow, repetition=repetition)
        for repetition, slow, ours in ((0, 1, 26), (1, 2, 24), (2, 1, 25))
        for arm, cpu in ((Arm.NGINX, 20), (Arm.OURS, ours))
    ]

    found = verdict("cpu", results(*runs))

    assert found.measured.value == pytest.approx(1.25)
    assert (found.measured.low, found.measured.high) == (pytest.approx(1.2), pytest.approx(1.3))
    assert found.measured.where == "repetitions: 3"
    assert found.holds
    assert found.reaches_aim


def test_a_void_run_takes_its_round_out_of_the_comparison():
    runs = [
        run(Arm.NGINX, cpu=20, repetition=0),
        run(Arm.OURS, cpu=90, repetition=0, void="a frame was lost"),
        run(Arm.NGINX, cpu=20, repetition=1),
        run(Arm.OURS, cpu=27, repetition=1),
    ]

    found = verdict("cpu", results(*runs))

    assert found.measured.value == pytest.approx(1.35)
    assert found.measured.where == "repetitions: 1"
    assert found.holds
    assert not found.reaches_aim


def test_plain_and_tls_runs_are_not_compared_with_each_other():
    of = results(run(Arm.NGINX, cpu=20), run(Arm.OURS, cpu=90, tls=True))

    assert verdict("cpu", of).holds is None
    assert verdict("cpu-tls", of).holds is None


def test_arms_are_compared_in_the_conversation_with_a_hundred_sessions():
    runs = [
        run(arm, cpu=cpu, scenario=scenario, sessions=sessions)
        for scenario, sessions, ours in (
            ("echo", 100, 60),
            ("conversation", 10, 50),
            ("conversation", 100, 24),
            ("frames-256B-8ms", 100, 70),
        )
        for arm, cpu in ((Arm.NGINX, 20), (Arm.OURS, ours))
    ]

    found = verdict("cpu", results(*runs))

    assert found.measured.value == pytest.approx(1.2)


def test_added_latency_is_over_the_direct_arm_and_the_worse_way_counts():
    of = results(
        run(Arm.DIRECT, p99=100, down=200),
        run(Arm.NGINX, p99=200, down=300),
        run(Arm.OURS, p99=210, down=360),
    )

    found = verdict("latency", of)

    assert found.measured.value == pytest.approx(1.6)
    assert found.measured.where.startswith("down")
    assert found.holds is False


def test_nothing_is_said_of_latency_where_nginx_adds_nothing():
    of = results(run(Arm.DIRECT, p99=100), run(Arm.NGINX, p99=90), run(Arm.OURS, p99=150))

    found = verdict("latency", of)

    assert found.holds is None
    assert "nginx adds nothing" in found.measured.where


def steps(arm, **p99):
    """`steps("ours", n10=100)`: a run with 10 sessions and a p99 of 100 µs; None is void."""
    return [
        run(
            arm,
            scenario="echo",
            sessions=int(name[1:]),
            p99=value or 0,
            void=None if value else "frames lost",
        )
        for name, value in p99.items()
    ]


def test_capacity_lies_between_the_last_step_that_holds_and_the_first_that_does_not():
    of = results(*steps("direct", n100=100, n200=100), *steps("ours", n100=1_100, n200=9_100))

    assert find_capacity(of, Arm.OURS) == Capacity(sessions=150.0, more=False)


def test_a_void_step_ends_the_capacity_at_the_step_before():
    of = results(*steps("direct", n100=100, n200=100), *steps("ours", n100=1_000, n200=None))

    assert find_capacity(of, Arm.OURS) == Capacity(sessions=100, more=False)


def test_capacity_is_open_where_the_direct_arm_ends_first():
    of = results(
        *steps("direct", n100=100, n200=100, n400=None),
        *steps("ours", n100=1_000, n200=2_000, n400=None),
        *steps("nginx", n100=1_000, n200=2_000, n400=3_000),
    )

    found = verdict("sessions", of)

    assert find_capacity(of, Arm.OURS) == Capacity(sessions=200, more=True)
    assert found.measured.value == 1.0
    assert found.measured.where == "ours at least 200, nginx at least 200"
    assert find_capacity(of, Arm.HAPROXY) is None


def test_an_arm_that_fails_the_first_step_carries_nobody():
    of = results(
        *steps("direct", n100=100, n200=100),
        *steps("ours", n100=1_000, n200=2_000),
        *steps("nginx", n100=None, n200=None),
    )

    assert find_capacity(of, Arm.NGINX) == Capacity(sessions=0, more=False)
    assert verdict("sessions", of).holds is None


def test_memory_is_the_median_of_the_runs_that_have_it():
    runs = [run(Arm.OURS, scenario="quiet", rss_kib_per_session=kib) for kib in (45.0, 47.0)]
    runs.append(run(Arm.OURS, scenario="quiet"))

    assert verdict("memory", results(*runs)).measured.value == 46.0
    assert verdict("memory", results()).measured.value is None


@pytest.mark.parametrize(
    ("name", "scenario", "field", "good", "bad"),
    [
        ("memory-unread", UNREAD.name, "rss_kib_per_session", 1024, 1025),
        ("stall", STOPPED_DATABASE.name, "stall_ms", 10, 10.1),
    ],
)
def test_what_a_fault_costs_comes_from_its_run(name, scenario, field, good, bad):
    for value, holds in ((good, True), (bad, False)):
        of = results(run(Arm.OURS, scenario=scenario, **{field: value}))
        assert verdict(name, of).holds is holds


@pytest.mark.parametrize(
    ("ours", "holds", "reaches_aim"),
    [(150.0, True, True), (165.0, True, False), (175.0, False, False)],
)
def test_the_wait_is_held_against_a_direct_connection(ours, holds, reaches_aim):
    found = verdict("ready", results(ready_ms=ours, ready_direct_ms=160.0))

    assert (found.holds, found.reaches_aim) == (holds, reaches_aim)


@pytest.mark.parametrize(
    ("name", "figure", "good", "bad"),
    [
        ("stored", "messages_per_second", 5_000, 4_999),
        ("history", "history_p99_ms", 10, 10.1),
    ],
)
def test_a_single_figure_holds_up_to_its_limit(name, figure, good, bad):
    assert verdict(name, results(**{figure: good, "history_messages": 9})).holds is True
    assert verdict(name, results(**{figure: bad, "history_messages": 9})).holds is False


def test_the_conclusion_is_one_line_that_names_what_is_broken_and_what_is_unknown():
    of = results(messages_per_second=4_000.0, history_p99_ms=1.0, history_messages=9)

    line = conclude(evaluate(of))

    assert line.startswith("1 of 12 budgets hold; broken: stored; not measured: cpu, cpu-tls,")
    assert "\n" not in line
    whole = [msgspec.structs.replace(v, holds=True) for v in evaluate(of)]
    assert conclude(whole) == "12 of 12 budgets hold"


def test_the_capacity_limit_is_the_one_that_the_budget_names():
    title = next(budget.title for budget in BUDGETS if budget.name == "sessions")

    assert f"{budgets.ADDED_P99 / 1000:g} ms" in title
