"""`python -m tests.simulation`: many seeds, or one of them step by step."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.simulation import broken_rules, plan
from tests.simulation.plan import Recorded
from tests.simulation.run import run, search


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one step by step")
    parser.add_argument("--file", type=Path, help="play this file step by step")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--save", type=Path, default=Path("build"), help="for failures (build)")
    parser.add_argument("--rule", choices=["", *broken_rules.RULES], default="", help="break it")
    chosen = parser.parse_args(arguments)
    if chosen.file:
        return _play(plan.load(chosen.file))
    if chosen.seed is not None:
        return _play(Recorded(plan=plan.draw(chosen.seed), rule=chosen.rule))
    return _search(chosen)


def _play(recorded: Recorded) -> int:
    with broken_rules.broken(recorded.rule):
        broken = run(recorded.plan, print)
    print(f"BROKEN {broken}" if broken else "all promises kept")
    return bool(broken)


def _search(chosen: argparse.Namespace) -> int:
    began = time.process_time()
    counts = Counter[str]()
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    with broken_rules.broken(chosen.rule):
        found = search(seeds, chosen.save, rule=chosen.rule, counts=counts)
    seconds = time.process_time() - began
    for line in found:
        print(line)
    print(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    print(
        f"{chosen.seeds} seeds, {len(found)} failures, {seconds:.1f} s of processor time,"
        f" {60 * chosen.seeds / seconds:.0f} seeds a minute"
    )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
