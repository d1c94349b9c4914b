"""The stamp at the head of every audio frame: which frame it is and when it was due.

Load tests. Both ends run on one machine, so CLOCK_MONOTONIC is one clock for all of them and what
is measured is the way of a frame in one direction, not a round trip.
"""

from __future__ import annotations

import struct

from loadtests.percentiles import Samples

MAGIC = 0x7654_6C76
UP = 1  # browser to agent
DOWN = 2

# magic, direction, who (session or line), sequence from 0, due in ns of CLOCK_MONOTONIC
STAMP = struct.Struct("<IIIIq")
BYTES = STAMP.size
NAMES = {UP: "up", DOWN: "down"}

_pack = STAMP.pack_into
_unpack = STAMP.unpack_from


def make_frame(size: int) -> bytearray:
    """A frame of `size` bytes with room for a stamp; raises ValueError when it has none."""
    if size < BYTES:
        raise ValueError(f"expected frames of at least {BYTES} bytes, got {size}")
    # Not zeros: something on the way might compress.
    return bytearray((index * 193 + 11) & 0xFF for index in range(size))


class Outgoing:
    """The frames that one end sends; every one has the next number."""

    def __init__(self, way: int, number: int, size: int) -> None:
        self.way = way
        self.number = number
        self.sent = 0
        self._buffer = make_frame(size)

    def next(self, due: int) -> bytearray:
        """The same buffer each time: send it before asking again."""
        _pack(self._buffer, 0, MAGIC, self.way, self.number, self.sent, due)
        self.sent += 1
        return self._buffer


class Incoming:
    """The frames that one end gets, each into `samples`; what is lost or doubled is a problem.

    `peer` is the number of the other end; it is -1 until the first frame.
    """

    def __init__(self, way: int, samples: Samples) -> None:
        self.peer = -1
        self.received = 0
        self.problems: list[str] = []
        self._way = way
        self._samples = samples

    def take(self, frame: memoryview, now: int) -> None:
        magic, way, peer, sequence, due = _unpack(frame)
        if sequence != self.received or peer != self.peer:
            self._find_problem(magic, way, peer, sequence)
        self.received = sequence + 1
        self._samples.due.append(due)
        self._samples.delay.append(now - due)

    def _find_problem(self, magic: int, way: int, peer: int, sequence: int) -> None:
        name = NAMES[self._way]
        if magic != MAGIC or way != self._way:
            self.problems.append(f"{name}: a frame without a stamp")
        elif self.peer == -1:
            self.peer = peer
            if sequence:
                self.problems.append(f"{name}: {peer} begins with frame {sequence}")
        elif peer != self.peer and sequence == 0:
            self.problems.append(f"{name}: begun again by {peer} after {self.peer}")
            self.peer = peer
        elif peer != self.peer:
            self.problems.append(f"{name}: a frame of {peer} among those of {self.peer}")
        elif sequence > self.received:
            self.problems.append(f"{name}: frames {self.received} to {sequence - 1} did not come")
        else:
            self.problems.append(f"{name}: frame {sequence} came again or late")
