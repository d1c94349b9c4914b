"""`voice-relay eval` as a program: real speech through a real relay."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.control.test_cli import VOICE_RELAY, run

EVALS = Path(__file__).parents[3] / "evals"


def evaluate(*names, arguments=(), seconds=170):
    files = [str(EVALS / f"{name}.yaml") for name in names]
    return subprocess.run(
        [VOICE_RELAY, "eval", *files, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@pytest.mark.long
@pytest.mark.speech
@pytest.mark.timeout(360)
def test_a_prompt_that_forgets_deadlines_is_found_and_the_scenario_named(tmp_path):
    names = ("goal_one_sentence", "task_one_sentence", "unknown_task")
    last = ["--last", tmp_path / "last.json"]
    reports = ["--junit", tmp_path / "junit.xml", "--html", tmp_path / "page.html"]

    broken = evaluate(*names, arguments=["--forget-deadlines", *last, *reports])
    well = evaluate(*names, arguments=last)

    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert "2 passed, 1 failed (goal_one_sentence)" in broken.stdout
    assert "GOAL.deadline: expected a text like" in broken.stdout
    assert "it hears  I want to learn Spanish" in broken.stdout
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert [case.get("name") for case in suite if case.find("failure") is not None] == [
        "goal_one_sentence"
    ]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<iframe ") == 1  # the timeline of what failed, and of nothing else
    assert "I want to learn Spanish" in page.partition("<iframe ")[2]
    assert well.returncode == 0, well.stdout + well.stderr
    assert "3 passed, 0 failed" in well.stdout
    assert "goal_one_sentence: passes again, 0 of 1 → 1 of 1" in well.stdout
    assert "agent minutes" in well.stdout


def test_mistakes_of_a_scenario_are_told_before_anything_is_started(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("about: x\nlines: []\nexpect: {intents: [{intent: GAOL}]}\n")

    done = run("eval", str(path))

    assert done.returncode == 2
    assert "one.yaml: $.lines: expected a list with at least one item" in done.stderr
    assert "1 mistake" in done.stderr


def test_deepgram_is_not_evaluated_without_a_key():
    done = run("eval", str(EVALS / "refusal.yaml"), "--agent", "deepgram")

    assert done.returncode == 2
    assert "expected DEEPGRAM_API_KEY" in done.stderr
