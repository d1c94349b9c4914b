"""What is said during a run, and what a load test consists of: which arms, how often, how long.

Load tests. `QUICK` answers every budget in a few minutes; `FULL` is what docs/performance.md shows.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from loadtests.results import Arm, Scenario

Agent = Literal["echo", "paced", "conversation"]


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Every browser sends `frame_bytes` each `frame_ms`.

    The agent sends every frame back at once ("echo"), sends as many on a schedule of its own
    ("paced") or plays turns ("conversation").
    """

    name: str
    agent: Agent
    frame_bytes: int = 640
    frame_ms: float = 20.0

    @property
    def step(self) -> int:
        """From one frame of a browser to its next, ns."""
        return int(self.frame_ms * 1_000_000)


ECHO = Traffic(name=Scenario.ECHO, agent="echo")
PACED = Traffic(name="paced", agent="paced")
CONVERSATION = Traffic(name=Scenario.CONVERSATION, agent="conversation")
# What clients of Deepgram really send: from 256 B every 8 ms (an audio worklet) to 8 KiB.
SMALL = Traffic(name="frames-256B-8ms", agent="echo", frame_bytes=256, frame_ms=8.0)
MIDDLE = Traffic(name="frames-3200B-100ms", agent="echo", frame_bytes=3200, frame_ms=100.0)
LARGE = Traffic(name="frames-8KiB-90ms", agent="echo", frame_bytes=8192, frame_ms=90.0)
# Attached and nearly quiet: what a session costs in memory.
QUIET = Traffic(name="quiet", agent="paced", frame_ms=500.0)
# More than any speech: what piles up in front of a browser that does not read.
FLOOD = Traffic(name="flood", agent="paced", frame_bytes=8192)


EVERY = tuple(Arm)
CLOSE = (Arm.DIRECT, Arm.NGINX, Arm.OURS)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Arms that take turns under one load, `repetitions` times."""

    traffic: Traffic
    arms: tuple[Arm, ...]
    sessions: int = 100
    tls: bool = False
    repetitions: int = 3
    seconds: float = 8.0  # about one turn of a conversation
    memory: bool = False


class Ramp(msgspec.Struct, frozen=True, kw_only=True):
    """More and more sessions, until an arm no longer holds."""

    traffic: Traffic
    arms: tuple[Arm, ...]
    sessions: tuple[int, ...]
    seconds: float = 5.0


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """All of a load test. `figures` are those of microbenchmarks.py."""

    stages: tuple[Comparison, ...] = ()
    steps: Ramp | None = None
    faults: bool = False
    fault_sessions: int = 50
    fault_seconds: float = 8.0
    figures: bool = False
    quick: bool = False


_MEMORY = Comparison(
    traffic=QUIET, arms=(Arm.OURS,), sessions=500, repetitions=1, seconds=4.0, memory=True
)

QUICK = Suite(
    stages=(
        Comparison(traffic=CONVERSATION, arms=(*CLOSE, Arm.PICOWS, Arm.FASTAPI)),
        Comparison(traffic=CONVERSATION, arms=(Arm.NGINX, Arm.OURS), tls=True, repetitions=2),
        _MEMORY,
    ),
    steps=Ramp(traffic=ECHO, arms=CLOSE, sessions=(100, 200, 300, 400), seconds=4.0),
    faults=True,
    figures=True,
    quick=True,
)

FULL = Suite(
    stages=(
        Comparison(traffic=CONVERSATION, arms=EVERY, repetitions=5, seconds=16.0),
        Comparison(traffic=CONVERSATION, arms=EVERY, repetitions=5, seconds=16.0, tls=True),
        Comparison(traffic=ECHO, arms=EVERY, repetitions=3),
        Comparison(traffic=PACED, arms=CLOSE),
        Comparison(traffic=SMALL, arms=CLOSE, sessions=50),
        Comparison(traffic=MIDDLE, arms=CLOSE),
        Comparison(traffic=LARGE, arms=CLOSE),
        msgspec.structs.replace(_MEMORY, repetitions=3, arms=(Arm.NGINX, Arm.FASTAPI, Arm.OURS)),
    ),
    steps=Ramp(
        traffic=ECHO,
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


def _only(stage: Comparison, arms: frozenset[Arm]) -> Comparison:
    return msgspec.structs.replace(stage, arms=_kept(stage.arms, arms))


def _kept(all_arms: tuple[Arm, ...], arms: frozenset[Arm]) -> tuple[Arm, ...]:
    return tuple(arm for arm in all_arms if arm in arms)
