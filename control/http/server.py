"""Runs an ASGI application on uvicorn, with our WebSocket protocol, in this process."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from control.http.connection_limits import Config
from control.http.shutdown import STOP_SECONDS, Shutdown, wait_for
from relay.transport.upgrade import Handshake

# For requests that are on their way when all sessions have ended; then uvicorn cancels.
REQUEST_SECONDS = 3
END_SECONDS = 2.5  # for what is cancelled, the pool of connections included
# Sessions are asked to end before the listener closes; relay/core/session.py gives them 5 s.
DRAIN_SECONDS = 6.0
DRAIN_LOOK = 0.05

log = logging.getLogger(__name__)


# New objects, then young and middle collections, until the next one (Python's own: 700, 10, 10).
COLLECTIONS = (20_000, 20, 50)


_SILENT = logging.Logger("silent")
_SILENT.disabled = True


class ServeError(Exception):
    """The server cannot start; the text says what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises `ServeError` when the port is taken or may not be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise ServeError(
            f"port {port} on {host} cannot be used ({error.strerror}): "
            "stop the program that has it, or set RELAY_PORT"
        ) from error
    except OverflowError as error:
        opened.close()
        raise ServeError(f"expected a port from 0 to 65535, got {port}") from error
    opened.set_inheritable(True)
    return opened


@asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, stop: Shutdown | None = None
) -> AsyncIterator[None]:
    """Serve `app` while inside; on the way out sessions end and what they left is flushed.

    When `stop` is asked for a second time, or after `STOP_SECONDS`, nothing is waited for any more:
    what is not in Postgres is on disk. An application that ends by itself asks `stop`, and then
    leaving raises. Raises `ServeError`, also when the application does not start (its reason is in
    the log) or does not stop.
    """
    stop = stop or Shutdown()
    server = _Server(_config(app), stop)
    run = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
    try:
        if not await wait_for(run, server.ready):
            settle_memory()
            yield
    finally:
        server.should_exit = True
        if not await wait_for(run, stop.at_once, STOP_SECONDS):
            if not stop.at_once.is_set():
                log.warning("stop_hurried seconds=%g", STOP_SECONDS)
            await server.end()
        if not await wait_for(run, asyncio.Event(), END_SECONDS):
            raise ServeError("the server did not stop in time")
        await run
    if server.has_failed:
        raise ServeError("the application ended by itself; the log says why")


def settle_memory() -> None:
    """After the start: what lives as long as the process is looked at by no garbage collection.

    A profile of 100 sessions had 12 % of the time in the collector, which found next to nothing:
    frames make no cycles. Nor may requests and sessions (tests/end_to_end/test_leftovers.py): what
    a collection has seen alive waits for thousands of sessions until it is looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


class _LifespanLog(logging.Logger):
    """What uvicorn says of the start and the end of an application: an error as ours are told."""

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.ERROR

    def error(self, msg: object, *args: object, **more: Any) -> None:
        # The text may be a whole traceback; while it is told, the exception is being handled.
        error = more.get("exc_info") or sys.exception()
        if error is not None:
            log.error("application_failed", exc_info=error)


class _Server(uvicorn.Server):
    """Says when it has started; signals belong to whoever runs several servers in one process."""

    def __init__(self, config: uvicorn.Config, stop: Shutdown) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.has_failed = False
        self._stop = stop
        self._application: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        before = asyncio.all_tasks()
        self.lifespan.logger = _LifespanLog("lifespan")
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's way to say so, with a code of its own
            raise ServeError("the server did not start; the log says why") from None
        # uvicorn keeps no hand on the task in which the application starts, lives and stops.
        for task in asyncio.all_tasks() - before:
            if getattr(task.get_coro(), "__qualname__", "") == LifespanOn.main.__qualname__:
                self._application = task
                task.add_done_callback(self._application_ended)
        self.ready.set()

    def _application_ended(self, _: asyncio.Task[None]) -> None:
        if not self.should_exit:
            self.has_failed = self.should_exit = True
            self._stop.asked.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """While sessions come to their end, REST goes on: who asks is told that we stop."""
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN_SECONDS
        for handshake in self._handshakes():
            handshake.shutdown()
        # Looking now and then is how uvicorn waits, too: its lists have no event.
        while self._handshakes() and loop.time() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_LOOK)
        await super().shutdown(sockets)

    async def end(self) -> None:
        """Stop without waiting for anybody: the application is cancelled, and ends its sessions."""
        self.force_exit = True
        if self._application is not None:
            self.lifespan.logger = _SILENT  # it would call that an error of the application
            self._application.cancel()
            await asyncio.wait({self._application}, timeout=END_SECONDS)

    def _handshakes(self) -> list[Handshake]:
        # uvicorn's list is of its own classes, and holds what a Caller made as well.
        known: set[Any] = set(self.server_state.connections)
        return [one for one in known if isinstance(one, Handshake)]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Any) -> uvicorn.Config:
    return Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_SECONDS,
    )
