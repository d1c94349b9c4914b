"""Runs an ASGI application on uvicorn, with our WebSocket protocol, in this process."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from litestar import Litestar

from config.errors import Explained
from config.settings import Settings
from control.http.connection_limits import Caller
from control.http.shutdown import STOP_SECONDS, Shutdown, wait_for
from relay.transport.request_head import Head
from relay.transport.upgrade import Handshake

# For requests that are on their way when all sessions have ended; then uvicorn cancels.
REQUEST_SECONDS = 3
END_SECONDS = 3.5  # for what is cancelled, the pool of connections included
# Sessions are asked to end before the listener closes; relay/core/session.py gives them 5 s.
DRAIN_SECONDS = 6.0
DRAIN_LOOK = 0.05

log = logging.getLogger(__name__)


# New objects, then young and middle collections, until the next one (Python's own: 700, 10, 10).
COLLECTIONS = (20_000, 20, 50)


class ServeError(Explained):
    """The server cannot start; the text says what to do."""


def listen(host: str, port: int, *, variable: str = "RELAY_PORT") -> socket.socket:
    """A bound socket; raises `ServeError` when the port is taken or may not be used. `variable` is
    the one that says which."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise ServeError(
            f"port {port} on {host} cannot be used ({error.strerror}): "
            f"stop the program that has it, or set {variable}"
        ) from error
    except OverflowError as error:
        opened.close()
        raise ServeError(f"expected a port from 0 to 65535, got {port}") from error
    opened.set_inheritable(True)
    return opened


def listen_as_set(settings: Settings) -> list[socket.socket]:
    """For browsers and, where there is one, the address for operators: for `serving`."""
    listeners = [listen(settings.host, settings.port)]
    if settings.metrics_port:
        port, variable = settings.metrics_port, "RELAY_METRICS_PORT"
        listeners.append(listen(settings.metrics_host, port, variable=variable))
    return listeners


@asynccontextmanager
async def serving(
    app: Litestar, *listeners: socket.socket, stop: Shutdown | None = None
) -> AsyncIterator[None]:
    """Serve `app` on the first of the listeners while inside, and its `state["operations"]` on the
    second; on the way out sessions end and what they left is flushed.

    When `stop` is asked for a second time, or after `STOP_SECONDS`, nothing is waited for any more:
    what is not in Postgres is on disk. An application that ends by itself asks `stop`, and then
    leaving raises. Raises `ServeError`, also when the application does not start (its reason is in
    the log) or does not stop.
    """
    stop = stop or Shutdown()
    server = _Server(app)
    run = asyncio.create_task(_run(app, server, listeners, stop), name="application")
    try:
        if not await wait_for(run, server.ready):
            settle_memory()
            yield
    finally:
        has_failed = run.done()
        server.should_exit = True
        if not await wait_for(run, stop.at_once, STOP_SECONDS):
            if not stop.at_once.is_set():
                log.warning("stop_hurried seconds=%g", STOP_SECONDS)
            run.cancel()
            _, late = await asyncio.wait({run}, timeout=END_SECONDS)
            if late:
                raise ServeError("the server did not stop in time")
    if has_failed:
        what = "application ended by itself" if server.started else "server did not start"
        raise ServeError(f"the {what}; the log says why")


def settle_memory() -> None:
    """After the start: what lives as long as the process is looked at by no garbage collection.

    A profile of 100 sessions had 12 % of the time in the collector, which found next to nothing:
    frames make no cycles. Nor may requests and sessions (tests/end_to_end/test_leftovers.py): what
    a collection has seen alive waits for thousands of sessions until it is looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


async def _run(
    app: Litestar, server: _Server, listeners: Sequence[socket.socket], stop: Shutdown
) -> None:
    """Start the application, serve it and stop it. Cancelled, it waits for nobody."""
    listener, *others = listeners
    try:
        async with app.lifespan(), _serving_operators(app.state.get("operations"), others):
            try:
                await server.serve(sockets=[listener])
            except asyncio.CancelledError:  # also when a part of the application has ended
                server.cut_off()
                raise
    except Exception as error:
        log.error("application_failed", exc_info=error)
    finally:
        for listener in listeners:
            listener.close()
        stop.asked.set()


@asynccontextmanager
async def _serving_operators(
    app: Litestar | None, listeners: list[socket.socket]
) -> AsyncIterator[None]:
    """Until the very end: a stop is worth watching."""
    if app is None or not listeners:
        yield
        return
    server = _Server(app)
    run = asyncio.create_task(server.serve(sockets=listeners), name="operations")
    await wait_for(run, server.ready)  # who finds the relay ready finds this, too
    try:
        yield
    finally:
        server.should_exit = True
        server.cut_off()
        run.cancel()
        await asyncio.wait({run})


class _Server(uvicorn.Server):
    """Says when it has started; signals belong to whoever runs several servers in one process."""

    def __init__(self, app: Litestar) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Caller,
                ws="none",  # a Caller makes a Handshake
                proxy_headers=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=REQUEST_SECONDS,
            )
        )
        self.servers = []  # until it has started
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        siblings = getattr(self.config.loaded_app, "state", {}).get("sibling_sessions")
        if siblings is not None:
            siblings.take = self._take
        self.ready.set()

    async def _take(self, wire: socket.socket, head: Head) -> None:
        """A browser that another worker hands over."""
        loop = asyncio.get_running_loop()
        _, handshake = await loop.connect_accepted_socket(
            lambda: Handshake(
                self.config, self.server_state, self.lifespan.state, is_handed_over=True
            ),
            wire,
        )
        handshake.begin(head)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """While sessions come to their end, REST goes on: who asks is told that we stop."""
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN_SECONDS
        for handshake in self._handshakes():
            handshake.shutdown()
        # Looking now and then is how uvicorn waits, too: its lists have no event.
        while self._handshakes() and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_LOOK)
        await super().shutdown(sockets)

    def cut_off(self) -> None:
        """Stop without waiting for anybody."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for request in self.server_state.tasks:
            request.cancel()

    def _handshakes(self) -> list[Handshake]:
        # uvicorn's list is of its own classes, and holds what a Caller made as well.
        known: set[Any] = set(self.server_state.connections)
        return [one for one in known if isinstance(one, Handshake)]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
