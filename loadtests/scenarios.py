"""What is said during a run, and what a load test consists of: which arms, how often, how long.

Load tests. `SUITE` answers every budget; docs/performance.md shows what it found.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec
from msgspec.structs import replace

from loadtests.conversation_script import FRAME_BYTES
from loadtests.results import Arm

MS = 1_000_000  # in ns


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Every browser sends `frame_bytes` each `step` ns; `agent_bytes` are the agent's, if others.

    The agent sends every frame back at once ("echo"), sends as many on a schedule of its own
    ("paced") or plays turns ("conversation"), of whose audio one frame in `thinned` is sent.
    """

    name: str
    agent: Literal["echo", "paced", "conversation"]
    frame_bytes: int = 640
    agent_bytes: int = 0
    step: int = 20 * MS
    thinned: int = 1


# Frames only, the same both ways.
ECHO = Traffic(name="echo", agent="echo")
# Real turns: speech in bursts, events, function calls, storing.
CONVERSATION = Traffic(name="conversation", agent="conversation", agent_bytes=FRAME_BYTES)
# The same events at the same pace and next to no audio: for what events alone cost, of many.
EVENTS = replace(CONVERSATION, name="events", step=1000 * MS, thinned=10)
# Attached and nearly quiet: what a session costs in memory.
QUIET = Traffic(name="quiet", agent="paced", step=500 * MS)
STOPPED_DATABASE = replace(CONVERSATION, name="fault: stopped database")
# More than any speech: what piles up in front of a browser that does not read.
UNREAD = Traffic(name="fault: browsers that never read", agent="paced", agent_bytes=8192)


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Arms that take turns under one load, `repetitions` times; then the next load.

    An arm whose run is void has no part in the loads after it. The first `warm_up` seconds do not
    count. A run that is not `timed` counts on a busy machine too: only lost frames void it.
    """

    part: str = "stages"
    traffic: Traffic
    arms: tuple[Arm, ...] = (Arm.OURS,)
    sessions: tuple[int, ...] = (100,)
    tls: bool = False
    repetitions: int = 3
    warm_up: float = 2.0
    seconds: float = 8.0  # about one turn of a conversation
    timed: bool = True


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much microbenchmarks.py measures; the defaults are what the budgets speak of."""

    stored: int = 60_000
    history: int = 1_000_000
    pages: int = 1_000
    waits: int = 30
    storm: int = 1_000  # browsers that attach at once
    lines: int = 20_000
    calls: int = 800
    handshake: float = 0.15  # what the agent takes for it
    taps: int = 20  # in a browser, of each arm and network


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """All of a load test. Stages with a budget that is not decided go on, up to `longest` seconds
    from the beginning."""

    stages: tuple[Stage, ...]
    figures: Sizes | None
    longest: float = 15 * 60.0


CLOSE = (Arm.DIRECT, Arm.NGINX, Arm.OURS)
FAULT = Stage(part="faults", traffic=STOPPED_DATABASE, sessions=(50,), repetitions=1, timed=False)

SUITE = Suite(
    stages=(
        Stage(traffic=CONVERSATION, arms=(*CLOSE, Arm.FASTAPI, Arm.NODE)),
        Stage(traffic=CONVERSATION, arms=(Arm.NGINX, Arm.OURS), tls=True),
        Stage(traffic=QUIET, sessions=(500,), repetitions=1, seconds=4.0, timed=False),
        Stage(
            part="steps",
            traffic=ECHO,
            arms=CLOSE,
            sessions=(100, 200, 300, 400),
            repetitions=1,
            warm_up=1.0,
            seconds=4.0,
        ),
        FAULT,
        # As long as what the kernel keeps for them is full too.
        replace(FAULT, traffic=UNREAD, sessions=(10,), seconds=15.0),
    ),
    figures=Sizes(),
)

PARTS = ("stages", "steps", "faults", "figures")


def choose(suite: Suite, parts: Collection[str]) -> Suite:
    """The suite without the parts that were not asked for; nothing asks for everything."""
    stages = tuple(stage for stage in suite.stages if not parts or stage.part in parts)
    figures = suite.figures if not parts or "figures" in parts else None
    return replace(suite, stages=stages, figures=figures)
