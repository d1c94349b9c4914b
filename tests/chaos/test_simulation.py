"""Two relays on a virtual clock (tests/simulation): many seeds, others in each run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.run import search

SHORT, LONG = 200, 20_000


@pytest.mark.timeout(900)
def test_many_simulated_runs_keep_all_promises(seed, is_long, say):
    count = LONG if is_long else SHORT
    first = seed * LONG
    counts = Counter()

    found = search(range(first, first + count), Path("build"), counts=counts)

    say(
        f"simulation: {count} runs from seed {first}, {counts['takeover']} takeovers, "
        f"{counts['lost']} agents lost, {counts['submit']} requests to the Orchestrator"
    )
    assert not found, "\n".join(found)
    assert counts["takeover"]
    assert counts["lost"]
