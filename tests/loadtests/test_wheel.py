"""The schedules of all sessions on one timer."""

import asyncio
from time import monotonic_ns

import pytest

from loadtests.wheel import MOST_AT_ONCE, Wheel

STEP = 1_000_000


@pytest.fixture
async def wheel():
    made = Wheel()
    yield made
    made.close()


async def test_what_is_due_is_called_in_order_with_the_time_it_was_due(wheel):
    called = []
    done = asyncio.Event()
    now = monotonic_ns()

    def last(due: int) -> int:
        called.append(("last", due))
        done.set()
        return 0

    wheel.add(now + 3 * STEP, last)
    wheel.add(now + STEP, lambda due: called.append(("first", due)) or 0)
    async with asyncio.timeout(5):
        await done.wait()
    assert called == [("first", now + STEP), ("last", now + 3 * STEP)]


async def test_a_schedule_is_kept_however_late_it_is_called(wheel):
    times = []
    done = asyncio.Event()
    start = monotonic_ns() - 100 * STEP  # long past

    def fire(due: int) -> int:
        times.append(due)
        if len(times) == 2 * MOST_AT_ONCE:
            done.set()
            return 0
        return due + STEP

    wheel.add(start, fire)
    async with asyncio.timeout(5):
        await done.wait()
    assert times == [start + n * STEP for n in range(2 * MOST_AT_ONCE)]


async def test_what_was_cleared_is_not_called(wheel):
    done = asyncio.Event()
    called = []
    wheel.add(monotonic_ns() + STEP, lambda due: called.append(due) or 0)
    wheel.clear()
    wheel.add(monotonic_ns() + 2 * STEP, lambda due: done.set() or 0)
    async with asyncio.timeout(5):
        await done.wait()
    assert called == []
