"""Programs that a load test starts, looks at and ends, by their id; which core each runs on.

Load tests. The relay has a core of its own; what measures it has others, one each where there are
enough.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
import socket
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import msgspec
import psutil

HOST = "127.0.0.1"

Cores = frozenset[int]
ANYWHERE: Cores = frozenset()
START_SECONDS = 30.0
STOP_SECONDS = 20.0


class ProgramFailed(Exception):
    """It did not start, or ended; the text has its last words."""


class Usage(msgspec.Struct, frozen=True):
    """Of a program so far: processor time, and how long threads were ready and had no core."""

    cpu_ns: int
    waited_ns: int
    rss_bytes: int


def find_usage(process: Process | None) -> Usage:
    """Of a program with its children; None is the direct arm, where nothing runs."""
    cpu, waited, rss = 0, 0, 0
    if process is None or process.returncode is not None:
        return Usage(cpu, waited, rss)
    first = psutil.Process(process.pid)
    for member in (first, *first.children(recursive=True)):
        try:
            # To the ns, as clock_getcpuclockid(3) has it.
            cpu += time.clock_gettime_ns((~member.pid << 3) | 2)
            rss += member.memory_info().rss
            for schedule in Path(f"/proc/{member.pid}/task").glob("*/schedstat"):
                waited += int(schedule.read_text().split()[1])
        except (psutil.NoSuchProcess, OSError):
            continue  # it or a thread of it has just ended
    return Usage(cpu, waited, rss)


@asynccontextmanager
async def program(
    command: Sequence[str], *, port: int, log: Path, cores: Set[int], environ: Mapping[str, str]
) -> AsyncIterator[Process]:
    """Run it while inside, from when `port` takes connections. Raises `ProgramFailed`."""
    with log.open("wb") as output, pinned(cores):
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=output, stderr=output, env=environ
            )
        except OSError as error:
            raise ProgramFailed(f"{command[0]}: {error}") from None
    try:
        if not await _opens(port, process):
            raise ProgramFailed(f"{log.stem} did not start: {_last_words(log)}")
        yield process
    finally:
        await _end(process)


async def _opens(port: int, process: Process) -> bool:
    until = time.monotonic() + START_SECONDS
    while process.returncode is None and time.monotonic() < until:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            return True
        await asyncio.sleep(0.05)
    return False


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace").strip().rpartition("\n")[2] or "no word"


async def _end(process: Process) -> None:
    for end in (process.terminate, process.kill):
        with suppress(TimeoutError, ProcessLookupError):
            end()
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
            return


def free_port() -> int:
    """A port that nobody has, and that nobody gets before who asked for it opens it: no connection
    of the system's choosing, those are from 32768 up (Linux), and no other process that asks here.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        # Of UDP, as a mark while this process lives: it is in nobody's way who listens with TCP.
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket() as probe:
            try:
                mark.bind((HOST, port))
                probe.bind((HOST, port))
            except OSError:
                mark.close()
                continue
        atexit.register(mark.close)
        return port


# --- cores ----------------------------------------------------------------------------------------


class Pinning(msgspec.Struct, frozen=True):
    """The cores of each part; an empty set is any."""

    relay: Cores = ANYWHERE
    agent: Cores = ANYWHERE
    caller: Cores = ANYWHERE
    rest: Cores = ANYWHERE


def choose_cores(cores: Set[int]) -> Pinning:
    """How to share out the cores that this process may use."""
    if len(cores) < 2:
        return Pinning()
    relay, *others = sorted(cores)
    last = others[-1:]
    parts = [relay], others[:1], others[1:2] or last, others[2:] or last
    return Pinning(*map(frozenset, parts))


@contextmanager
def pinned(cores: Set[int]) -> Iterator[None]:
    """What is started while inside runs on `cores`; this process returns to where it was."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
