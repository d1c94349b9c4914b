"""Runs what goes on beside the sessions, and keeps one defect from ending more than itself.

A background task is a piece of work that is done again and again. When it raises, whatever it
raises, that is counted and the work is tried again after a pause that grows; `/health/ready` names
it when that has gone on for a minute. A one-off task, such as a session or a function call, ends
alone when it raises. On the way out tasks are cancelled, and none is waited for longer than a
moment: some libraries lose a cancellation, or wait for a server that is frozen.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from relay.backoff import Backoff
from relay.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Short enough that a heartbeat is not missed for long: others take a node for dead after 20 s.
RETRY = Backoff(first=0.5, longest=5.0)
WELL_SECONDS = 30.0  # work that has no end is well again when it has run for so long
FAILING_SECONDS = 60.0
SPREAD = 0.2  # of a pause, to both sides
CANCEL_SECONDS = 2.0

Work = Callable[[], Awaitable[object]]
Say = Callable[[Exception], None]
_T = TypeVar("_T")


class Supervisor:
    """`clock` gives monotonic seconds, `jitter` 0 to 1."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._counted = (metrics or Metrics()).task_failures
        self._clock = clock
        self._jitter = jitter
        self._repeated: dict[asyncio.Task[None], _Repeated] = {}

    def __repr__(self) -> str:
        return f"<Supervisor tasks={len(self._repeated)} failing={self.failing}>"

    @property
    def is_alive(self) -> bool:
        """Whether none of the background tasks has ended: nothing that they raise may do that."""
        return not any(task.done() for task in self._repeated)

    @property
    def failing(self) -> list[str]:
        """The background tasks that have only failed for a minute, by name."""
        since = self._clock() - FAILING_SECONDS
        return sorted(one.name for one in self._repeated.values() if one.failing_since <= since)

    @asynccontextmanager
    async def repeating(
        self,
        name: str,
        work: Work,
        *,
        pause: float | Work,
        foreseen: tuple[type[Exception], ...] = (),
        say: Say = lambda _: None,
    ) -> AsyncIterator[None]:
        """Do `work` and then `pause`, again and again, while inside.

        A `pause` in seconds is that, give or take a fifth: programs that were started together, or
        got their database back at once, do not go on in step.

        What is `foreseen` is not logged with its traceback: `say` is told when it begins.
        """
        repeated = _Repeated(name, foreseen, say)
        wait = pause if callable(pause) else partial(self._rest, pause)
        task = asyncio.create_task(self._repeat(repeated, work, wait), name=name)
        self._repeated[task] = repeated
        try:
            yield
        finally:
            del self._repeated[task]
            await _cancel({task})

    @asynccontextmanager
    async def containing(self, kind: str, *, seconds: float) -> AsyncIterator[Contained]:
        """One-off tasks may be started while inside; on the way out they have `seconds` to end."""
        contained = Contained(kind, self.count)
        try:
            yield contained
            if contained.running:
                await asyncio.wait(contained.running, timeout=seconds)
        finally:
            await _cancel(contained.running)

    def count(self, task: str) -> None:
        """A task of this name or kind has failed."""
        self._counted.labels(task=task).inc()

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds * (1 + SPREAD * (2 * self._jitter() - 1)))

    async def _repeat(self, repeated: _Repeated, work: Work, pause: Work) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not task.cancelling():  # also when the work has lost it
            long = asyncio.get_running_loop().call_later(WELL_SECONDS, repeated.succeeded)
            try:
                await work()
                repeated.succeeded()
                await pause()
                continue
            except (Exception, asyncio.CancelledError) as error:
                if task.cancelling():
                    return
                # A cancellation that nobody asked for is a failure like any other.
                self.count(repeated.name)
                repeated.failed(error, self._clock())
            finally:
                long.cancel()
            await asyncio.sleep(RETRY.pause(repeated.failures, self._jitter()))


class _Repeated:
    """One background task and how it fares."""

    def __init__(self, name: str, foreseen: tuple[type[Exception], ...], say: Say) -> None:
        self.name = name
        self.failures = 0  # since it was last well
        self.failing_since = float("inf")
        self._foreseen = foreseen
        self._say = say
        self._said: set[type[BaseException]] = set()

    def failed(self, error: Exception | asyncio.CancelledError, now: float) -> None:
        self.failures += 1
        self.failing_since = min(self.failing_since, now)
        # Each kind once in an outage: the metric and /health/ready say that it goes on.
        if isinstance(error, self._foreseen):
            if not self._said & set(self._foreseen):
                self._say(error)
            self._said |= set(self._foreseen)
        elif type(error) not in self._said:
            log.error("task_failed task=%s", self.name, exc_info=error)
            self._said.add(type(error))

    def succeeded(self) -> None:
        if self.failures:
            log.warning("task_recovered task=%s failures=%d", self.name, self.failures)
        self.failures = 0
        self.failing_since = float("inf")
        self._said.clear()


class Contained:
    """Tasks that end alone: what one raises is logged, counted as `kind`, and goes no further."""

    def __init__(self, kind: str, count: Callable[[str], None]) -> None:
        self.running: set[asyncio.Task[Any]] = set()
        self._kind = kind
        self._count = count

    def start(self, work: Coroutine[Any, Any, _T], *, name: str) -> asyncio.Task[_T]:
        task = asyncio.create_task(work, name=name)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        try:
            # Asked for in any case: until then a cancelled one keeps the frames in which it was.
            error = task.exception()
        except asyncio.CancelledError:
            return
        if error is not None:
            self._count(self._kind)
            log.error("task_failed task=%s", task.get_name(), exc_info=error)


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel them; one that does not end at once is left to the end of the process."""
    waiting = set(tasks)
    for task in waiting:
        task.cancel()
    if waiting:
        _, left = await asyncio.wait(waiting, timeout=CANCEL_SECONDS)
        for task in left:
            log.warning("task_left task=%s", task.get_name())
