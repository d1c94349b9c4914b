"""One end of a session, the browser's or the agent's: stamped frames out, frames in checked.

Load tests. Both ends run on one machine, so CLOCK_MONOTONIC is one clock for all of them and what
is measured is the way of a frame in one direction, not a round trip.
"""

from __future__ import annotations

import gc
import struct
from collections import Counter
from time import monotonic_ns

import msgspec
from picows import WSListener, WSMsgType, WSTransport

from loadtests.percentiles import Latency, Samples, summarize_due
from loadtests.scenarios import ECHO, Traffic
from loadtests.send_schedule import SendSchedule

BINARY, TEXT, CLOSE = WSMsgType.BINARY, WSMsgType.TEXT, WSMsgType.CLOSE

# The way, the number of the sender, its frames from 0, when it was due in ns of CLOCK_MONOTONIC.
STAMP = struct.Struct("<IIIq")
UP, DOWN = 0x7654_6C01, 0x7654_6C02  # browser to agent, agent to browser


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What one end has seen; `problems` are frames that were lost, doubled or out of order."""

    sent: int
    received: int
    problems: list[str]


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a process measured: the way of the frames that came, how late its own were sent.

    `tallies` are by the number of the browser; `counts` are further figures of the run.
    """

    latency: Latency
    lag: Latency
    tallies: dict[int, Tally]
    counts: Counter[str]


class SessionEnds:
    """The ends of all sessions of a process: one traffic, one schedule, what they measure."""

    def __init__(self) -> None:
        self.schedule = SendSchedule()
        self.expect_traffic(ECHO)

    def expect_traffic(self, traffic: Traffic) -> None:
        """Forget what was."""
        self.traffic = traffic
        self.until = 0
        self.sessions: list[SessionEnd] = []
        self.counts: Counter[str] = Counter()
        self.delays: Samples = []
        self.lag: Samples = []
        self.schedule.clear()
        gc.collect()

    async def begin(self, at: int, until: int) -> None:
        """Speak from one instant to another, evenly shifted; returns at once."""
        self.until = until
        for place, end in enumerate(self.sessions):
            end.begin(at + place * self.spread() // len(self.sessions))

    def spread(self) -> int:
        """ns from when the first begins to when the last does."""
        return self.traffic.step

    async def collect(self, start: int, stop: int) -> Collected:
        """While sessions are open, of what was due from `start` to before `stop`."""
        return Collected(
            latency=summarize_due(self.delays, start, stop),
            lag=summarize_due(self.lag, start, stop),
            tallies={end.session: end.tally() for end in self.sessions if end.session >= 0},
            counts=self.counts,
        )


class SessionEnd(WSListener):
    """One of them. `peer` is the number of the other end; it is -1 until the first frame."""

    def __init__(self, ends: SessionEnds, way: int, number: int, size: int) -> None:
        self.ends = ends
        self.number = number
        self.peer = -1
        self.sent = 0
        self.received = 0
        self.problems: list[str] = []
        self.transport: WSTransport | None = None
        self._way = way
        # Not zeros: something on the way might compress.
        self._frame = bytearray((index * 193 + 11) & 0xFF for index in range(size))

    @property
    def session(self) -> int:
        """The number of the browser."""
        return self.number if self._way == UP else self.peer

    def begin(self, at: int) -> None:
        """Speak from `at` on."""
        self.ends.schedule.add(at, self.fire)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transport = None

    def fire(self, due: int) -> int:
        """Send one frame; returns when the next is due."""
        ends = self.ends
        if self.transport is None:
            return 0
        now = monotonic_ns()
        self.send_frame(self.transport, due)
        ends.lag.append((due, now - due))
        again = due + ends.traffic.step
        return again if again < ends.until else 0

    def send_frame(self, transport: WSTransport, due: int) -> None:
        STAMP.pack_into(self._frame, 0, self._way, self.number, self.sent, due)
        self.sent += 1
        transport.send(BINARY, self._frame)

    def take(self, frame: memoryview) -> None:
        now = monotonic_ns()
        way, peer, sequence, due = STAMP.unpack_from(frame)
        if sequence != self.received or peer != self.peer:
            if not way:
                return  # the relay's silence, while nobody spoke
            self._check(way, peer, sequence)
        self.received = sequence + 1
        self.ends.delays.append((due, now - due))

    def _check(self, way: int, peer: int, sequence: int) -> None:
        is_first = self.peer == -1 and sequence == 0
        if not is_first or way == self._way or way not in (UP, DOWN):
            expected = f"expected frame {self.received} of {self.peer}"
            self.problems.append(f"{expected}, got frame {sequence} of {peer}")
        self.peer = peer

    def tally(self) -> Tally:
        """While sessions are open: one without a connection was lost."""
        lost = [] if self.transport else ["the connection was lost"]
        return Tally(sent=self.sent, received=self.received, problems=[*self.problems[:5], *lost])
