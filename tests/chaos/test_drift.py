"""The judge of the soak: a leak is found, a plateau and single peaks are not one."""

from __future__ import annotations

import random

import pytest

from tests.chaos.drift import judge

ALLOWED = {"share": 0.03, "at_least": 2.0}


def noise(count, height=1.0):
    chance = random.Random(1)
    return [chance.uniform(-height, height) for _ in range(count)]


def test_a_slow_leak_under_noise_is_found():
    samples = [100 + 0.05 * number + n for number, n in enumerate(noise(240))]

    drift = judge("rss", samples, **ALLOWED)

    assert not drift.is_flat
    assert drift.grown == pytest.approx(0.05 * 168, rel=0.15)


@pytest.mark.parametrize(
    "samples",
    [
        [100 + n for n in noise(240)],
        [100 - 60 * 0.9**number + n for number, n in enumerate(noise(240))],
        [100 + (50 if number % 20 == 0 else 0) for number in range(240)],
        [100 - 0.05 * number for number in range(240)],
    ],
    ids=["flat", "filling caches", "peaks", "falling"],
)
def test_what_does_not_grow_is_flat(samples):
    assert judge("rss", samples, **ALLOWED).is_flat


def test_too_few_samples_are_not_judged():
    with pytest.raises(ValueError, match="at least 10"):
        judge("rss", [1.0] * 9, **ALLOWED)
