"""Several relay processes on one port: a parent that starts them, watches them and stops them.

A worker that ends by itself is replaced; one that does so again and again, soon after its start,
ends the program. The parent has the port, so that connections wait while a worker is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryDirectory

from control.http.server import ServeError
from control.http.shutdown import LAST_SECONDS, Shutdown, wait_for
from relay.backoff import Backoff

log = logging.getLogger(__name__)

RESTART = Backoff(first=0.25, longest=5.0)
STEADY_SECONDS = 10.0  # a worker that lived for so long had started well
TRIES = 3
KILL_SECONDS = LAST_SECONDS + 1.0  # a worker ends itself before that, if it can do anything


async def serve_workers(
    command: Sequence[str], listeners: Sequence[socket.socket], count: int, stop: Shutdown
) -> None:
    """Keep `count` processes running until `stop` is asked for.

    `command` gets more arguments: the folder in which the workers find each other, its number among
    them, from 0, and the descriptors of the listeners. Raises `ServeError` when a worker does not
    stay alive, or did not end in order.
    """
    descriptors = [listener.fileno() for listener in listeners]
    with TemporaryDirectory(prefix="voice-relay-") as folder:
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(count):
                    whole = [*command, folder, *map(str, (number, *descriptors))]
                    tasks.create_task(_keep(whole, descriptors, stop), name=f"worker {number}")
        except* ServeError as group:
            raise group.exceptions[0] from None


async def _keep(command: Sequence[str], descriptors: Sequence[int], stop: Shutdown) -> None:
    ends = 0
    while not stop.asked.is_set():
        began = time.monotonic()
        code = await _run(command, descriptors, stop)
        if stop.asked.is_set():
            # It may have been told so early that it could not hear it in order.
            if code not in (0, -signal.SIGTERM):
                raise ServeError(f"a worker did not end in order: code {code}; the log says why")
            return
        ends = 1 if time.monotonic() - began > STEADY_SECONDS else ends + 1
        log.error("worker_ended code=%d", code)
        if ends >= TRIES:
            raise ServeError(f"a worker ended {TRIES} times soon after its start; the log says why")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.asked.wait(), RESTART.pause(ends, 1.0))


async def _run(command: Sequence[str], descriptors: Sequence[int], stop: Shutdown) -> int:
    """One worker, until it ends or has to; its exit code.

    It knows by its standard input whether we are still there.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, pass_fds=descriptors
    )
    ended = asyncio.create_task(process.wait(), name=f"worker {process.pid}")
    try:
        await wait_for(ended, stop.asked)
    finally:
        if not ended.done():
            process.terminate()
            if not await wait_for(ended, stop.at_once, KILL_SECONDS) and stop.at_once.is_set():
                process.terminate()
                await asyncio.wait({ended}, timeout=KILL_SECONDS)
            if not ended.done():
                process.kill()
    return await ended
