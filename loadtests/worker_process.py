"""A child process that is told what to do, one JSON object a line, and answers each with one.

Load tests: agent and callers are processes of their own, so that what they cost is not what the
relay costs and one garbage collector is not everybody's.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Set
from pathlib import Path
from typing import Any

from loadtests.processes import last_words, pinned

LINE_LIMIT = 64 << 20  # a run's histograms, and the counts of every session
URGENT = -10  # a nice value

Message = dict[str, Any]


class WorkerFailed(Exception):
    """The child ended or did not answer; the text has its last words."""


class WorkerProcess:
    """The parent's side. One question at a time."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._name = name
        self._log = log
        self._process = process

    @classmethod
    async def start(cls, module: str, cores: Set[int], log: Path) -> WorkerProcess:
        """Run `python -m module` on `cores`; what it writes to stderr goes into `log`."""
        with pinned(cores), log.open("a") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                limit=LINE_LIMIT,
            )
        return cls(module, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, message: Message, *, seconds: float = 30.0) -> Message:
        """Raises `WorkerFailed` when there is no answer within `seconds`."""
        self.tell(message)
        return await self.answer(seconds=seconds)

    def tell(self, message: Message) -> None:
        """What is answered later, by `answer`."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps(message).encode() + b"\n")

    async def answer(self, *, seconds: float = 30.0) -> Message:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await stdout.readline()
        except TimeoutError:
            raise WorkerFailed(f"{self._name} gave no answer within {seconds:.0f} s") from None
        if not line:
            raise WorkerFailed(f"{self._name} ended: {last_words(self._log)}")
        answer: Message = json.loads(line)
        return answer

    async def end(self) -> None:
        """End the child; it is gone on return."""
        if self._process.returncode is not None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def hurry() -> None:
    """Ask to be run before others: what measures should wait for nothing but what it measures."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, URGENT)
    except PermissionError:
        pass  # only root may; on a quiet machine it makes no difference


async def obey(handle: Callable[[Message], Awaitable[Message]]) -> None:
    """The child's side: answer every line of stdin until it is closed."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer = await handle(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
