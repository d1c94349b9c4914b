"""What a load test consists of: which arms under which load, how often and for how long.

Load tests. `QUICK` answers every budget in a few minutes; `FULL` is what docs/performance.md shows.
"""

from __future__ import annotations

import msgspec

from loadtests import traffic
from loadtests.results import Arm
from loadtests.traffic import Traffic

EVERY = tuple(Arm)
CLOSE = (Arm.DIRECT, Arm.NGINX, Arm.OURS)


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Arms that take turns under one load, `repetitions` times."""

    traffic: Traffic
    arms: tuple[Arm, ...]
    sessions: int = 100
    tls: bool = False
    repetitions: int = 3
    seconds: float = 8.0  # about one turn of a conversation
    memory: bool = False


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """More and more sessions, until an arm no longer holds."""

    traffic: Traffic
    arms: tuple[Arm, ...]
    sessions: tuple[int, ...]
    seconds: float = 5.0


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """All of a load test. `figures` are the measurements of figures.py and faults.py."""

    stages: tuple[Stage, ...] = ()
    steps: Steps | None = None
    faults: bool = False
    fault_sessions: int = 50
    fault_seconds: float = 8.0
    figures: bool = False
    quick: bool = False


_MEMORY = Stage(
    traffic=traffic.QUIET, arms=(Arm.OURS,), sessions=500, repetitions=1, seconds=4.0, memory=True
)

QUICK = Suite(
    stages=(
        Stage(traffic=traffic.CONVERSATION, arms=(*CLOSE, Arm.PICOWS, Arm.FASTAPI)),
        Stage(traffic=traffic.CONVERSATION, arms=(Arm.NGINX, Arm.OURS), tls=True, repetitions=2),
        _MEMORY,
    ),
    steps=Steps(traffic=traffic.ECHO, arms=CLOSE, sessions=(100, 200, 300, 400), seconds=4.0),
    faults=True,
    figures=True,
    quick=True,
)

FULL = Suite(
    stages=(
        Stage(traffic=traffic.CONVERSATION, arms=EVERY, repetitions=5, seconds=16.0),
        Stage(traffic=traffic.CONVERSATION, arms=EVERY, repetitions=5, seconds=16.0, tls=True),
        Stage(traffic=traffic.ECHO, arms=EVERY, repetitions=3),
        Stage(traffic=traffic.PACED, arms=CLOSE),
        Stage(traffic=traffic.SMALL, arms=CLOSE, sessions=50),
        Stage(traffic=traffic.MIDDLE, arms=CLOSE),
        Stage(traffic=traffic.LARGE, arms=CLOSE),
        msgspec.structs.replace(_MEMORY, repetitions=3, arms=(Arm.NGINX, Arm.FASTAPI, Arm.OURS)),
    ),
    steps=Steps(
        traffic=traffic.ECHO,
        arms=(*CLOSE, Arm.FASTAPI),
        sessions=(1, 10, 50, 100, 150, 200, 250, 300, 350, 400, 450, 500),
    ),
    faults=True,
    figures=True,
)

PARTS = ("stages", "steps", "faults", "figures")


def choose(suite: Suite, parts: frozenset[str], arms: frozenset[Arm]) -> Suite:
    """The suite without what was not asked for; an empty set asks for everything."""
    chosen = suite
    if parts:
        chosen = msgspec.structs.replace(
            chosen,
            stages=suite.stages if "stages" in parts else (),
            steps=suite.steps if "steps" in parts else None,
            faults=suite.faults and "faults" in parts,
            figures=suite.figures and "figures" in parts,
        )
    if not arms:
        return chosen
    stages = tuple(_only(stage, arms) for stage in chosen.stages)
    steps = chosen.steps
    if steps is not None:
        steps = msgspec.structs.replace(steps, arms=_kept(steps.arms, arms))
    return msgspec.structs.replace(chosen, stages=stages, steps=steps)


def _only(stage: Stage, arms: frozenset[Arm]) -> Stage:
    return msgspec.structs.replace(stage, arms=_kept(stage.arms, arms))


def _kept(all_arms: tuple[Arm, ...], arms: frozenset[Arm]) -> tuple[Arm, ...]:
    return tuple(arm for arm in all_arms if arm in arms)
