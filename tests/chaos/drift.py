"""Whether a figure that was sampled for a while is flat. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

WARM_UP = 0.3  # of the samples: caches fill, the allocator takes what it will keep


class Drift(msgspec.Struct, frozen=True):
    """`grown` is the fitted growth over the judged time, in the unit of the figure."""

    name: str
    first: float  # medians of the first and the last tenth of the judged samples
    last: float
    least: float
    most: float
    grown: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        return self.grown <= self.allowed


def judge(name: str, samples: Sequence[float], *, share: float, at_least: float) -> Drift:
    """Samples at equal intervals. Growth of `share` of the median, or of `at_least`, is allowed.

    The slope is the median of the slopes between samples that are half of the judged time apart:
    single peaks do not matter. Raises `ValueError` for fewer than ten samples.
    """
    if len(samples) < 10:
        raise ValueError(f"expected at least 10 samples, got {len(samples)}")
    judged = list(samples)[int(len(samples) * WARM_UP) :]
    half = len(judged) // 2
    slopes = [
        (later - earlier) / half for earlier, later in zip(judged, judged[half:], strict=False)
    ]
    tenth = max(len(judged) // 10, 1)
    return Drift(
        name=name,
        first=median(judged[:tenth]),
        last=median(judged[-tenth:]),
        least=min(judged),
        most=max(judged),
        grown=median(slopes) * (len(judged) - 1),
        allowed=max(share * abs(median(judged)), at_least),
    )
