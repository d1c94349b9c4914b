"""A Postgres of a test's own: it may be stopped, frozen, killed and restarted."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil

from control.db.migrate import migrate
from control.dev.postgres import EmbeddedPostgres


class OwnPostgres:
    """A server that may be stopped, killed and restarted; what was committed survives that."""

    def __init__(self, folder):
        self._server = EmbeddedPostgres(folder, parameters=("fsync=off", "full_page_writes=off"))
        self._fault = ""
        self.url = self._server.start()

    async def migrated(self):
        """The URL of a new database with our schema."""
        name = f"test_{uuid.uuid4().hex}"
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        url = self.url.replace("/postgres?", f"/{name}?", 1)
        await migrate(url, log=logging.getLogger("tests"))
        return url

    async def leave(self, fault):
        """`stopped`: nothing answers and nothing closes; `killed`; `restarted`: a clean stop."""
        self._fault = fault
        match fault:
            case "stopped":
                self._freeze()
            case "killed":
                await asyncio.to_thread(self._server.kill)
            case "restarted":
                await asyncio.to_thread(self._server.stop)

    async def come_back(self):
        if self._fault == "stopped":
            self._thaw()
        elif self._fault:
            assert await asyncio.to_thread(self._server.start) == self.url
        self._fault = ""

    def _freeze(self):
        server = psutil.Process(self._server.pid)
        server.suspend()  # first: from now on no child begins, and none that ends is forgotten
        for child in server.children(recursive=True):
            child.suspend()

    def _thaw(self):
        server = psutil.Process(self._server.pid)
        for child in server.children(recursive=True):
            child.resume()  # some end at once; their numbers stay until the server sees it
        server.resume()

    def stop(self):
        if self._fault == "stopped":
            self._thaw()
        self._server.stop()


@contextmanager
def own_server() -> Iterator[OwnPostgres]:
    """It runs while inside; nothing of it is kept."""
    # A short path: the server's socket stays in it, so that a restart keeps the URL.
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        server = OwnPostgres(Path(directory))
        try:
            yield server
        finally:
            server.stop()
