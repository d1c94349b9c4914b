"""Percentile curves as SVG: latency up, percentile to the right, each nine as wide as the last.

Load tests, pure. Colours and fonts are those of the page that a drawing stands in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from loadtests.percentiles import Latency
from loadtests.results import Arm

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 74, 14, 38  # room for the labels
STEPS_PER_NINE = 20
LABEL_HEIGHT = 15
NINES = ("0", "90", "99", "99.9", "99.99", "99.999", "99.9999")

# Arms that are not ours are told apart by their dashes and the names at their ends.
DASHES: dict[str, str] = {
    Arm.NGINX: "7 3",
    Arm.HAPROXY: "2 3",
    Arm.FASTAPI: "10 3 2 3",
    Arm.AIOHTTP: "4 2 1 2",
    Arm.PICOWS: "1 3",
}


Point = tuple[float, float]  # nines, microseconds


def draw(latencies: Mapping[str, Latency], title: str) -> str:
    """An SVG element with a curve for each arm; nothing when none of them has values."""
    lines = {arm: list(sample(latency)) for arm, latency in latencies.items() if latency.histogram}
    if not lines:
        return ""
    scale = _Scale([point for line in lines.values() for point in line])
    labels = _spread_labels([(arm, scale.y(line[-1][1])) for arm, line in lines.items()])
    body = [*_draw_axes(scale)]
    # Ours last: it lies on top.
    for arm in sorted(lines, key=lambda arm: arm == Arm.OURS):
        body += _draw_curve(arm, lines[arm], scale, labels[arm])
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def sample(latency: Latency) -> Iterator[Point]:
    """Points of a curve, up to the percentile of the one value in `count` that is the worst."""
    if not latency.count:
        return
    last = math.log10(latency.count)
    # Not from 0: the one fastest value would stretch the picture.
    nines = [i / STEPS_PER_NINE for i in range(1, math.ceil(last * STEPS_PER_NINE))] + [last]
    percentiles = [100 * (1 - 10**-n) for n in nines]
    values = latency.decode().get_percentile_to_value_dict(percentiles)
    for n, percentile in zip(nines, percentiles, strict=True):
        yield n, float(max(values[percentile], 1))


class _Scale:
    """Where a point lies: both axes are logarithmic."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.nines = max(1.0, max(nines for nines, _ in points))
        values = [value for _, value in points]
        self.low = 10 ** (math.log10(min(values)) - 0.08)
        self.high = max(10 ** (math.log10(max(values)) + 0.08), self.low * 10)

    def x(self, nines: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(nines / self.nines, 1.0)

    def y(self, microseconds: float) -> float:
        span = math.log(self.high / self.low)
        part = math.log(min(max(microseconds, self.low), self.high) / self.low) / span
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part

    def ticks(self) -> Iterator[float]:
        """1, 2, 5, 10 … µs; fewer when that would be many."""
        many = math.log10(self.high / self.low) > 2
        for power in range(8):
            for digit in (1, 3) if many else (1, 2, 5):
                if self.low <= digit * 10**power <= self.high:
                    yield digit * 10**power


def _draw_axes(scale: _Scale) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in scale.ticks():
        y = scale.y(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _label("tick", LEFT - 7, y + 4, "end", f"{tick / 1000:g} ms")
    for nines, label in enumerate(NINES):
        if nines > scale.nines + 0.01:
            break
        x = scale.x(nines)
        if nines:
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        yield _label("tick", x, bottom + 16, "middle", f"{label} %")
    yield f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    words = "of the frames are this fast or faster"
    yield _label("unit", (LEFT + right) / 2, HEIGHT - 5, "middle", words)


def _label(kind: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _draw_curve(arm: str, line: Sequence[Point], scale: _Scale, label: float) -> Iterator[str]:
    yield f'<g class="arm{" ours" if arm == Arm.OURS else ""}">'
    points = " ".join(f"{scale.x(n):.1f},{scale.y(v):.1f}" for n, v in line)
    yield f'<polyline class="curve" stroke-dasharray="{DASHES.get(arm, "")}" points="{points}"/>'
    x, y = scale.x(line[-1][0]), scale.y(line[-1][1])
    edge = WIDTH - RIGHT + 14
    yield f'<path class="leader" d="M{x + 2:.1f} {y:.1f} L{edge - 3} {label:.1f}"/>'
    yield f'<text class="name" x="{edge}" y="{label + 4:.1f}">{escape(arm)}</text></g>'


def _spread_labels(wanted: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Heights near the wanted ones where no label lies on another."""
    placed: list[tuple[str, float]] = []
    for name, y in sorted(wanted, key=lambda each: each[1]):
        above = placed[-1][1] if placed else -math.inf
        placed.append((name, max(y, above + LABEL_HEIGHT)))
    bottom = float(HEIGHT - BOTTOM)
    for i in reversed(range(len(placed))):
        name, y = placed[i]
        placed[i] = name, min(y, bottom)
        bottom = placed[i][1] - LABEL_HEIGHT
    return dict(placed)
