"""The stamp at the head of every audio frame: which frame it is and when it was due.

Load tests. Both ends run on one machine, so CLOCK_MONOTONIC is one clock for all of them and what
is measured is the way of a frame in one direction, not a round trip.
"""

from __future__ import annotations

import struct

MAGIC = 0x7654_6C76
UP = 1  # browser to agent
DOWN = 2

# magic, direction, who (session or line), sequence from 0, due in ns of CLOCK_MONOTONIC
STAMP = struct.Struct("<IIIIq")
BYTES = STAMP.size


def make_frame(size: int) -> bytearray:
    """A frame of `size` bytes with room for a stamp; raises ValueError when it has none."""
    if size < BYTES:
        raise ValueError(f"expected frames of at least {BYTES} bytes, got {size}")
    # Not zeros: something on the way might compress.
    return bytearray((index * 193 + 11) & 0xFF for index in range(size))
