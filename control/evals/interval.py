"""How sure a pass rate is. Pure."""

from __future__ import annotations

from math import sqrt

Z = 1.959964  # 95 %


def wilson(passed: int, count: int) -> tuple[float, float]:
    """The 95 % interval of Wilson's score: right for few attempts and for rates of 0 and 1, where
    the plain formula says that one attempt makes sure. Nothing known: (0, 1)."""
    if not count:
        return 0.0, 1.0
    rate = passed / count
    centre = rate + Z * Z / (2 * count)
    spread = Z * sqrt(rate * (1 - rate) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
