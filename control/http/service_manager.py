"""What systemd is told of this process, where it has started it: sd_notify(3).

Datagrams to the socket that NOTIFY_SOCKET names. Nobody answers, and nothing fails when nobody
listens. With `WatchdogSec=` it hears of us twice in that time, as long as the event loop turns and
the background tasks run; when that ends, systemd ends us and starts another.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress


class ServiceManager:
    """Without one, telling does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "") if is_ours else ""
        self._pause = int(microseconds) / 2e6 if microseconds.isdigit() else 0.0

    def __repr__(self) -> str:
        return f"<ServiceManager {self._address!r} pause={self._pause:g}>"

    def tell(self, *facts: str) -> None:
        """`NAME=value`, each of them; docs/operate.md has those that we know."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
                datagrams.setblocking(False)
                datagrams.sendto("\n".join(facts).encode(), self._address)

    def tell_reloading(self) -> None:
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    @asynccontextmanager
    async def watching(self, is_well: Callable[[], bool]) -> AsyncIterator[None]:
        """It hears that we live while inside, and `is_well`."""
        task = asyncio.create_task(self._watch(is_well), name="watchdog")
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self, is_well: Callable[[], bool]) -> None:
        while self._pause:
            if is_well():
                self.tell("WATCHDOG=1")
            await asyncio.sleep(self._pause)
