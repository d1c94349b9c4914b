"""When the program has to end, and by when it is gone.

The first SIGINT or SIGTERM asks to stop in order, another one to stop at once. Whatever is away or
hangs, `serve` is gone `LAST_SECONDS` after the first: what is not in Postgres is on disk.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

from control.http.service_manager import ServiceManager

log = logging.getLogger(__name__)

STOP_SECONDS = 11.0  # for all that is waited for in order; then nothing is waited for any more
LAST_SECONDS = 15.0  # then the process ends, wherever it stands


class Shutdown:
    """Events: `asked` to stop, and to do so `at_once`; `manager` is told of the first."""

    def __init__(self, manager: ServiceManager | None = None) -> None:
        self._manager = manager or ServiceManager({})
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()

    def ask(self) -> None:
        (self.at_once if self.asked.is_set() else self.asked).set()

    def hear_signals(self) -> None:
        """For programs of a terminal: its end, SIGHUP, asks as well, unless that was ignored."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self.ask)

    def hear_signals_as_server(
        self, reload: Callable[[], None], *, is_worker: bool = False
    ) -> None:
        """For `serve`: SIGHUP calls `reload`, and there is a last resort.

        `is_worker`: a Ctrl-C of the terminal reaches all processes, but only the parent acts. When
        the parent is gone without a word, its end of our standard input is closed.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ask_for_the_last_time)
        loop.add_signal_handler(signal.SIGHUP, reload)
        if is_worker:
            loop.add_signal_handler(signal.SIGINT, _ignore, signal.SIGINT)
            loop.add_reader(sys.stdin.fileno(), self._parent_ended)
        else:
            loop.add_signal_handler(signal.SIGINT, self._ask_for_the_last_time)

    def _parent_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        log.error("worker_left")
        self._ask_for_the_last_time()

    def _ask_for_the_last_time(self) -> None:
        if not self.asked.is_set():
            # A thread of the interpreter's own, which needs nothing of what may hang: it writes
            # where each thread stands to standard error and ends the process with code 1.
            faulthandler.dump_traceback_later(LAST_SECONDS, exit=True)
            self._manager.tell("STOPPING=1")
        self.ask()


def _ignore(number: signal.Signals) -> None:
    log.warning("signal_ignored signal=%s", number.name)


async def wait_for(
    task: asyncio.Task[Any], event: asyncio.Event, seconds: float | None = None
) -> bool:
    """Wait until the task has ended, the event is set or time is over; whether it has ended."""
    waiting = asyncio.create_task(event.wait(), name="stop")
    await asyncio.wait({task, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return task.done()
