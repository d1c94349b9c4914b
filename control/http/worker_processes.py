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
from asyncio.subprocess import Process
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


class Workers:
    """`count` processes. `command` gets more arguments: the folder in which the workers find each
    other, its number among them, from 0, and the descriptors of the listeners."""

    def __init__(
        self, command: Sequence[str], listeners: Sequence[socket.socket], count: int
    ) -> None:
        self._command = command
        self._descriptors = [listener.fileno() for listener in listeners]
        self._count = count
        self._running: set[Process] = set()

    def __repr__(self) -> str:
        return f"<Workers running={len(self._running)}/{self._count}>"

    def reload(self) -> None:
        """Pass SIGHUP on."""
        for process in self._running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGHUP)

    async def run(self, stop: Shutdown) -> None:
        """Keep them running until `stop` is asked for. Raises `ServeError` when a worker does not
        stay alive, or did not end in order."""
        with TemporaryDirectory(prefix="voice-relay-") as folder:
            try:
                async with asyncio.TaskGroup() as tasks:
                    for number in range(self._count):
                        more = [folder, *map(str, (number, *self._descriptors))]
                        keep = self._keep([*self._command, *more], stop)
                        tasks.create_task(keep, name=f"worker {number}")
            except* ServeError as group:
                raise group.exceptions[0] from None

    async def _keep(self, command: Sequence[str], stop: Shutdown) -> None:
        ends = 0
        while not stop.asked.is_set():
            began = time.monotonic()
            code = await self._run(command, stop)
            if stop.asked.is_set():
                # It may have been told so early that it could not hear it in order.
                if code not in (0, -signal.SIGTERM):
                    raise ServeError(
                        f"a worker did not end in order: code {code}; the log says why"
                    )
                return
            ends = 1 if time.monotonic() - began > STEADY_SECONDS else ends + 1
            log.error("worker_ended code=%d", code)
            if ends >= TRIES:
                raise ServeError(
                    f"a worker ended {TRIES} times soon after its start; the log says why"
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.asked.wait(), RESTART.pause(ends, 1.0))

    async def _run(self, command: Sequence[str], stop: Shutdown) -> int:
        """One worker, until it ends or has to; its exit code.

        It knows by its standard input whether we are still there.
        """
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, pass_fds=self._descriptors
        )
        ended = asyncio.create_task(process.wait(), name=f"worker {process.pid}")
        self._running.add(process)
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
            self._running.discard(process)
        return await ended
