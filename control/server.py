"""Runs an ASGI application on uvicorn, with our WebSocket protocol."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.lifespan.on import LifespanOn
from uvicorn.supervisors import Multiprocess

from control.lobby import Config
from relay.asgi import Handshake

# Sessions are closed and journal and calls flushed within this; then uvicorn cancels.
GRACE_SECONDS = 15
# Sessions are asked to end before the listener closes; relay/session.py gives them 5 s.
DRAIN_SECONDS = 6.0
DRAIN_LOOK = 0.05


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
    app: Any, listener: socket.socket, at_once: asyncio.Event | None = None
) -> AsyncIterator[None]:
    """Serve `app` while inside; on the way out sessions end and what they left is flushed.

    When `at_once` is set, nothing is waited for any more: what is not in Postgres is on disk.
    Raises `ServeError` when the application does not start (its reason is in the log).
    """
    server = _Server(_config(app))
    run = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
    try:
        ready = asyncio.create_task(server.ready.wait(), name="uvicorn ready")
        await asyncio.wait({run, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not server.started:
            raise ServeError("the server did not start; the log says why")
        settle_memory()
        yield
    finally:
        server.should_exit = True
        if at_once is not None:
            hurried = asyncio.create_task(at_once.wait(), name="uvicorn at once")
            await asyncio.wait({run, hurried}, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if not run.done():
                await server.end()
        await run


def serve_workers(factory: str, listener: socket.socket, workers: int) -> None:
    """Serve with several processes on one port until SIGINT or SIGTERM.

    `factory` is "module:function" and makes the application in each process.
    """
    config = _config(factory, factory=True, workers=workers)
    Multiprocess(config, sockets=[listener]).run()


def settle_memory() -> None:
    """After the start: what lives as long as the process is looked at by no garbage collection.

    A profile of 100 sessions had 12 % of the time in the collector, which found next to nothing:
    frames make no cycles. Nor may requests and sessions (tests/end_to_end/test_leftovers.py): what
    a collection has seen alive waits for thousands of sessions until it is looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


class _Server(uvicorn.Server):
    """Says when it has started; signals belong to whoever runs several servers in one process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._application: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        before = asyncio.all_tasks()
        await super().startup(sockets)
        # uvicorn keeps no hand on the task in which the application starts, lives and stops.
        for task in asyncio.all_tasks() - before:
            if getattr(task.get_coro(), "__qualname__", "") == LifespanOn.main.__qualname__:
                self._application = task
        self.ready.set()

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
            await asyncio.wait({self._application})

    def _handshakes(self) -> list[Handshake]:
        # uvicorn's list is of its own classes, and holds what `Config(ws=...)` made.
        known: set[Any] = set(self.server_state.connections)
        return [one for one in known if isinstance(one, Handshake)]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Any, *, factory: bool = False, workers: int = 1) -> uvicorn.Config:
    return Config(
        app,
        factory=factory,
        workers=workers,
        ws=Handshake,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
