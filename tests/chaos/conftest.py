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

from tests.chaos.tally import Figure, table

LONG = os.environ.get("CHAOS") == "long"
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 32))
REPORT = Path("build") / "chaos.json"
figures = pytest.StashKey[list[Figure]]()


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
        request.config.stash.setdefault(figures, []).append(figure)
        assert verdict.is_right, figure.line
        assert verdict.told > 0, figure.line

    return publish_figure


def pytest_terminal_summary(terminalreporter, config):
    collected = config.stash.get(figures, [])
    if not collected:
        return
    terminalreporter.section("chaos")
    for line in table(collected):
        terminalreporter.write_line(line)
    if LONG:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_bytes(msgspec.json.format(msgspec.json.encode(collected)))
        terminalreporter.write_line(f"as JSON: {REPORT}")
