"""One plan is played to its end, or many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.simulation import plan as plans
from tests.simulation.minimise import minimise
from tests.simulation.plan import Plan, Recorded
from tests.simulation.promises import Broken
from tests.simulation.world import World

MOST_SAVED = 5


def run(
    plan: Plan, say: Callable[[str], None] | None = None, counts: Counter[str] | None = None
) -> Broken | None:
    """The promise that it broke; None: it kept them all. An exception is a broken promise, too.
    `counts` is of what happened."""
    world = World(plan, say)
    try:
        world.run()
    except Broken as broken:
        return broken
    except Exception as error:
        if say is not None:
            raise
        return Broken("no defect", f"{type(error).__name__}: {error}")
    finally:
        if counts is not None:
            counts.update(world.moments)
            counts.update(fault.kind for _, fault in world.happened)
    return None


def search(
    seeds: Iterable[int], folder: Path, *, rule: str = "", counts: Counter[str] | None = None
) -> list[str]:
    """A line for each seed that breaks a promise; the first ones are made small and put into files.

    `rule` is one that is broken already.
    """
    found: list[str] = []
    for seed in seeds:
        broken = run(plans.draw(seed), counts=counts)
        if broken is None:
            continue
        line = f"seed {seed}: {broken}"
        if len(found) < MOST_SAVED:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"simulation-{seed}.json"
            plans.save(minimise(Recorded(plan=plans.draw(seed), rule=rule), broken, run), path)
            line += f"; step by step: python -m tests.simulation --file {path}"
        found.append(line)
    return found
