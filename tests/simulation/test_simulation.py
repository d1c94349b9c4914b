"""The promises hold whatever breaks, and who breaks a rule is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation import plan
from tests.simulation.__main__ import main
from tests.simulation.broken_rules import RULES, broken
from tests.simulation.minimise import minimise
from tests.simulation.plan import Recorded
from tests.simulation.run import run, search

SEEDS = 500
# Runs that found something once: tests/simulation/found/, one file each.
FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))
# Seeds that are looked at before a broken rule counts as not found.
MOST_SEEDS = 2_000
MOST_FAULTS = 4  # that are left of them, of up to eight


def test_some_hundred_runs_keep_all_promises(tmp_path):
    assert search(range(SEEDS), tmp_path) == []


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_once_is_not_found_again(path):
    assert run(plan.load(path).plan) is None


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_is_broken_on_purpose_is_found_out_and_shown_in_a_few_steps(rule):
    with broken(rule):
        seeds = (seed for seed in range(MOST_SEEDS) if run(plan.draw(seed)))
        seed = next(seeds)
        whole = Recorded(plan=plan.draw(seed), rule=rule)
        small = minimise(whole, run(whole.plan), run)

    assert run(small.plan) is None, "with the rule nothing is wrong"
    assert len(small.plan.faults) <= MOST_FAULTS
    assert len(small.plan.lines) <= len(whole.plan.lines)


def test_a_seed_is_the_same_run_each_time():
    said = [[], []]
    for lines in said:
        assert run(plan.draw(12), lines.append) is None

    assert len(said[0]) > 50
    assert said[0] == said[1]


def test_a_failure_is_a_file_that_plays_it_step_by_step(tmp_path, capsys):
    rule = "a lost agent is never dialled again"

    assert main(["--seeds", "20", "--rule", rule, "--save", str(tmp_path)]) == 1
    (path, *_) = sorted(tmp_path.glob("*.json"))
    capsys.readouterr()

    assert main(["--file", str(path)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert any("FAULT" in line for line in shown)
    assert shown[-1].startswith("BROKEN no session is silent")
