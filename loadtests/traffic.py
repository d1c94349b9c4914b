"""What is said during a run: how browsers and agent send.

Load tests. Names that the budgets read are in `results.Scenario`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from loadtests.results import Scenario

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

ALL = {t.name: t for t in (ECHO, PACED, CONVERSATION, SMALL, MIDDLE, LARGE, QUIET, FLOOD)}
