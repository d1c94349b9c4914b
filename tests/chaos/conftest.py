"""How long the chaos tests go on, by which seed, and what is printed at the end.

`make test` runs a few rounds of each family; `CHAOS=long` (`make chaos`) all of them. `CHAOS_SEED`
repeats a run: everything that is chosen at random comes from it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from tests.chaos.postgres import own_server
from tests.chaos.tally import Figure, table
from tests.conftest import LONG

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 32))
REPORT = Path("build") / "chaos.json"


@pytest.fixture
def seed():
    return SEED


@pytest.fixture
def chance(request, seed):
    """The source of everything random in a test: depends on the seed and on nothing else."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def is_long():
    return LONG


@pytest.fixture
def publish(request, seed):
    """`publish(family, rounds, verdict, ...)` prints a figure and keeps it; then judges it."""

    def publish_figure(family, rounds, verdict, recovered=(), note=""):
        figure = Figure(
            family=family,
            seed=seed,
            rounds=rounds,
            verdict=verdict,
            recovered=[round(seconds, 3) for seconds in recovered],
            note=note,
        )
        print(figure.line)
        # The way that reports take, so that it also comes from another process (pytest-xdist).
        request.node.user_properties.append(("chaos", msgspec.json.encode(figure).decode()))
        assert verdict.is_right, figure.line
        assert verdict.told > 0, figure.line

    return publish_figure


@pytest.fixture
def say(request):
    """`say(line)` is shown at the end of the run."""

    def say_line(line):
        print(line)
        request.node.user_properties.append(("chaos line", line))

    return say_line


def pytest_terminal_summary(terminalreporter):
    found = [
        each
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for each in report.user_properties
    ]
    figures = [msgspec.json.decode(text, type=Figure) for name, text in found if name == "chaos"]
    lines = [text for name, text in found if name == "chaos line"]
    if not figures + lines:
        return
    terminalreporter.section("chaos")
    for line in [*(table(figures) if figures else ()), *lines]:
        terminalreporter.write_line(line)
    if LONG and figures:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
        terminalreporter.write_line(f"as JSON: {REPORT}")


@pytest.fixture(scope="session")
def own_postgres():
    with own_server() as server:
        yield server
