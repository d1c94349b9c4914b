"""A child process with one object in it, whose methods the parent calls over a pipe.

Load tests: agent and callers are processes of their own, so that what they cost is not what the
relay costs and one garbage collector is not everybody's.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Set
from contextlib import asynccontextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar, TypeVarTuple

import uvloop

from loadtests.processes import pinned

ANSWER_SECONDS = 90.0
URGENT = -10  # a nice value
SPAWN = multiprocessing.get_context("spawn")

Worker = TypeVar("Worker")
Arguments = TypeVarTuple("Arguments")
Answer = TypeVar("Answer")


class WorkerFailed(Exception):
    """The child ended, did not answer or raised; the text says which."""


class WorkerProcess(Generic[Worker]):
    """The parent's side. One question at a time."""

    def __init__(self, name: str, pipe: Connection) -> None:
        self._name = name
        self._pipe = pipe

    async def ask(
        self,
        method: Callable[[Worker, *Arguments], Coroutine[Any, Any, Answer]],
        *arguments: *Arguments,
    ) -> Answer:
        """Call a method of the child's object. Raises `WorkerFailed`."""
        try:
            self._pipe.send((method, arguments))
            if not await asyncio.to_thread(self._pipe.poll, ANSWER_SECONDS):
                raise WorkerFailed(f"{self._name} gave no answer within {ANSWER_SECONDS:.0f} s")
            answer: Answer | WorkerFailed = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerFailed(f"{self._name} has ended") from None
        if isinstance(answer, WorkerFailed):
            raise answer
        return answer


@asynccontextmanager
async def running(kind: type[Worker], cores: Set[int]) -> AsyncIterator[WorkerProcess[Worker]]:
    """A process on `cores` with a `kind()` in its event loop; it is gone on return."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_run, args=(kind, theirs), daemon=True)
    with pinned(cores):
        process.start()
    theirs.close()
    try:
        yield WorkerProcess(kind.__name__, ours)
    finally:
        process.kill()  # it keeps nothing
        await asyncio.to_thread(process.join)
        ours.close()


def _run(kind: type[object], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    with suppress(PermissionError):  # only root may; on a quiet machine it makes no difference
        # What measures should wait for nothing but what it measures.
        os.setpriority(os.PRIO_PROCESS, 0, URGENT)
    gc.disable()  # it runs where nothing is measured
    uvloop.run(_obey(kind, pipe))


async def _obey(kind: type[object], pipe: Connection) -> None:
    worker = kind()
    while True:
        method, arguments = await asyncio.to_thread(pipe.recv)
        try:
            answer = await method(worker, *arguments)
        except Exception as error:
            answer = WorkerFailed(f"{kind.__name__}: {type(error).__name__}: {error}")
        pipe.send(answer)
