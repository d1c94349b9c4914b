"""Background tasks and one-off tasks: what raises is contained, counted, told and tried again."""

from __future__ import annotations

import asyncio
import logging
import weakref

import pytest

from relay.supervisor import FAILING_SECONDS, Supervisor
from relay.telemetry.metrics import Metrics


class Trouble(Exception):
    """Known to who does the work."""


@pytest.fixture
def clock():
    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def supervisor(metrics, clock):
    return Supervisor(metrics, clock=clock, jitter=lambda: 0.0)  # the shortest pauses


class Work:
    """Raises what it was told to, one after another; then it is well."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.well = asyncio.Event()
        self.rounds = 0

    async def __call__(self):
        self.rounds += 1
        if self.errors:
            raise self.errors.pop(0)
        self.well.set()


async def no_end():
    await asyncio.Event().wait()


def failures(metrics, task):
    value = metrics.registry.get_sample_value("relay_task_failures_total", {"task": task})
    return value or 0


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("x"),
        RecursionError(),
        ExceptionGroup("several", [ValueError()]),
        asyncio.CancelledError(),
        TimeoutError(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_the_work_raises_it_is_tried_again(supervisor, metrics, caplog, error):
    work = Work(error, error)

    async with asyncio.timeout(5), supervisor.repeating("work", work, pause=no_end):
        await work.well.wait()
        assert supervisor.is_alive

    assert failures(metrics, "work") == 2
    assert caplog.text.count("task_failed task=work") == 1  # of a kind, in an outage
    assert caplog.text.count("task_recovered task=work failures=2") == 1


async def test_what_the_pause_raises_is_a_failure_as_well(supervisor, metrics):
    work, pauses = Work(), Work(RuntimeError(), RuntimeError())

    async def pause():
        await pauses()
        await no_end()

    async with asyncio.timeout(5), supervisor.repeating("work", work, pause=pause):
        await pauses.well.wait()

    assert failures(metrics, "work") == 2
    assert work.rounds == 3


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 8.0), (0.5, 10.0), (1.0, 12.0)])
async def test_a_pause_in_seconds_is_not_the_same_everywhere(monkeypatch, jitter, expected):
    paused, told = [], asyncio.Event()
    work = Work()

    async def sleep(seconds):
        paused.append(seconds)
        told.set()
        await no_end()

    with monkeypatch.context() as patched:
        patched.setattr("relay.supervisor.asyncio.sleep", sleep)
        supervisor = Supervisor(jitter=lambda: jitter)
        async with asyncio.timeout(5), supervisor.repeating("work", work, pause=10.0):
            await told.wait()

    assert paused == [pytest.approx(expected)]


async def test_what_is_foreseen_is_told_once_in_an_outage_and_has_no_traceback(
    supervisor, metrics, caplog
):
    told = []
    work = Work(Trouble(1), Trouble(2))

    repeating = supervisor.repeating(
        "work", work, pause=no_end, foreseen=(Trouble,), say=told.append
    )
    async with asyncio.timeout(5), repeating:
        await work.well.wait()

    assert [error.args for error in told] == [(1,)]
    assert failures(metrics, "work") == 2
    assert "task_failed" not in caplog.text


async def test_a_task_that_only_fails_is_named_after_a_minute_and_until_it_is_well(
    supervisor, clock
):
    again = asyncio.Event()
    work = Work(RuntimeError(), RuntimeError())

    async def pause():
        await again.wait()

    async with asyncio.timeout(5), supervisor.repeating("work", work, pause=pause):
        while work.rounds < 1:  # noqa: ASYNC110 (turns of the loop)
            await asyncio.sleep(0)
        assert supervisor.failing == []
        clock.now += FAILING_SECONDS
        assert supervisor.failing == ["work"]

        await work.well.wait()
        await asyncio.sleep(0)
        assert supervisor.failing == []


async def test_when_a_task_has_ended_it_is_not_alive(supervisor):
    async def exit_thread():
        raise BaseExceptionGroup("worse", [GeneratorExit()])

    async with asyncio.timeout(5), supervisor.repeating("well", Work(), pause=no_end):
        assert supervisor.is_alive
        async with supervisor.repeating("worse", exit_thread, pause=no_end):
            while supervisor.is_alive:  # noqa: ASYNC110 (turns of the loop)
                await asyncio.sleep(0)


async def test_work_that_loses_its_cancellation_ends_all_the_same(supervisor):
    started = asyncio.Event()

    async def work():
        started.set()
        try:
            await no_end()
        except asyncio.CancelledError:
            raise RuntimeError("the driver says something else") from None

    async with asyncio.timeout(5):
        async with supervisor.repeating("work", work, pause=no_end):
            await started.wait()


async def test_work_that_cannot_be_cancelled_is_not_waited_for(supervisor, caplog, monkeypatch):
    monkeypatch.setattr("relay.supervisor.CANCEL_SECONDS", 0.01)
    started, released = asyncio.Event(), asyncio.Event()

    async def stubborn():
        started.set()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                pass

    async with asyncio.timeout(5):
        async with supervisor.repeating("stubborn", stubborn, pause=no_end):
            await started.wait()
        assert "task_left task=stubborn" in caplog.text
        released.set()
        await asyncio.sleep(0)


async def test_a_one_off_task_that_raises_ends_alone(supervisor, metrics, caplog):
    go_on = asyncio.Event()

    async def broken():
        raise RuntimeError("x")

    async def fine():
        await go_on.wait()
        return "done"

    async with asyncio.timeout(5), supervisor.containing("call", seconds=5.0) as tasks:
        other = tasks.start(fine(), name="call 2")
        tasks.start(broken(), name="call 1")
        while not failures(metrics, "call"):  # noqa: ASYNC110 (turns of the loop)
            await asyncio.sleep(0)
        go_on.set()

    assert other.result() == "done"
    assert "task_failed task=call 1" in caplog.text


async def test_one_off_tasks_get_their_time_and_are_cancelled_then(supervisor):
    async with asyncio.timeout(5):
        async with supervisor.containing("call", seconds=0.01) as tasks:
            late = tasks.start(no_end(), name="late")
        assert late.cancelled()


async def test_a_cancelled_one_off_task_leaves_nothing_to_the_garbage_collector(
    supervisor, no_collector
):
    class Kept:
        pass

    async def no_end():
        task = asyncio.current_task()  # as a lock of anyio has it: a frame that knows its task
        kept = Kept()
        seen.append(weakref.ref(kept))
        await asyncio.Event().wait()
        return task

    seen = []
    async with supervisor.containing("call", seconds=60.0) as tasks:
        task = tasks.start(no_end(), name="call 1")
        await asyncio.sleep(0)  # it begins
        task.cancel()
        del task
    assert seen[0]() is None


async def test_one_off_tasks_are_cancelled_at_once_when_their_owner_breaks(supervisor):
    late = []

    async def owner():
        async with supervisor.containing("call", seconds=60.0) as tasks:
            late.append(tasks.start(no_end(), name="late"))
            raise KeyError

    async with asyncio.timeout(5):
        with pytest.raises(KeyError):
            await owner()

    assert late[0].cancelled()


@pytest.fixture(autouse=True)
def hear_all(caplog):
    caplog.set_level(logging.DEBUG)
