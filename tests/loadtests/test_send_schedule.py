"""The schedules of all sessions on one timer."""

import asyncio
from time import monotonic_ns

import pytest

from loadtests.send_schedule import MOST_AT_ONCE, SendSchedule

STEP = 1_000_000


@pytest.fixture
async def schedule():
    made = SendSchedule()
    yield made
    made.close()


async def test_what_is_due_is_called_in_order_with_the_time_it_was_due(schedule):
    called = []
    done = asyncio.Event()
    now = monotonic_ns()

    def last(due: int) -> int:
        called.append(("last", due))
        done.set()
        return 0

    schedule.add(now + 3 * STEP, last)
    schedule.add(now + STEP, lambda due: called.append(("first", due)) or 0)
    async with asyncio.timeout(5):
        await done.wait()
    assert called == [("first", now + STEP), ("last", now + 3 * STEP)]


async def test_a_schedule_is_kept_however_late_it_is_called(schedule):
    times = []
    done = asyncio.Event()
    start = monotonic_ns() - 100 * STEP  # long past

    def fire(due: int) -> int:
        times.append(due)
        if len(times) == 2 * MOST_AT_ONCE:
            done.set()
            return 0
        return due + STEP

    schedule.add(start, fire)
    async with asyncio.timeout(5):
        await done.wait()
    assert times == [start + n * STEP for n in range(2 * MOST_AT_ONCE)]


async def test_what_was_cleared_is_not_called(schedule):
    done = asyncio.Event()
    called = []
    schedule.add(monotonic_ns() + STEP, lambda due: called.append(due) or 0)
    schedule.clear()
    schedule.add(monotonic_ns() + 2 * STEP, lambda due: done.set() or 0)
    async with asyncio.timeout(5):
        await done.wait()
    assert called == []
