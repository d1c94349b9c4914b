"""What a load test leaves behind: the runs and the single figures, as structs.

Load tests. The engine fills `Results`; budgets and report read it; a JSON file keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

import msgspec

from loadtests.percentiles import Latency


class Arm(StrEnum):
    """What stands between browsers and agent."""

    DIRECT = "direct"  # nothing: the floor
    NGINX = "nginx"
    FASTAPI = "fastapi"
    NODE = "node"  # with its library ws
    OURS = "ours"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One arm under one load for some seconds. `void` says why its figures do not count.

    `up` is browser to agent and `down` agent to browser, each one-way against the intended send
    time; `lag` is how late the generator itself sent; `settle` is from opening the WebSocket to
    SettingsApplied. CPU time is of the relay process(es) only, so the direct arm has none. The
    memory of a session is known where the scenario is about it; it is what one needs that does not
    read over one that does where nobody reads.
    """

    arm: str
    scenario: str
    sessions: int
    tls: bool = False
    repetition: int = 0
    void: str | None = None
    seconds: float = 0.0
    cpu_us_per_frame: float | None = None
    rss_kib_per_session: float | None = None
    stall_ms: float | None = None  # longest event-loop stall with the database stopped
    up: Latency = Latency()
    down: Latency = Latency()
    lag: Latency = Latency()
    settle: Latency = Latency()
    extra: dict[str, float] = {}


class Results(msgspec.Struct, kw_only=True):
    """One load test. `machine` and `versions` are shown as they are, key by key."""

    started_at: datetime
    machine: dict[str, str | int | float] = {}
    commit: str = ""
    versions: dict[str, str] = {}
    seconds: float = 0.0  # how long all of it took
    notes: list[str] = []  # what a reader must know: arms left out, a machine that was busy
    runs: list[Run] = []
    figures: dict[str, float] = {}  # what microbenchmarks.py measured

    def valid(self, **fields: object) -> Iterator[Run]:
        """The runs that count, narrowed by what is given."""
        for run in self.runs:
            if run.void is None and all(getattr(run, key) == fields[key] for key in fields):
                yield run
