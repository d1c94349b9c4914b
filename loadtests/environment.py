"""Everything that runs beside the arm: database, agent, Orchestrator, certificate, a folder.

Load tests. All of it is started here and ends here; nothing listens beyond this machine.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import trustme

from loadtests.processes import HOST, Pinning, pinned
from loadtests.systems_under_test import PATH, Dependencies
from loadtests.worker_process import WorkerProcess

log = logging.getLogger(__name__)

MANY_FILES = 8192


class Environment:
    """What a run needs. `notes` is what a reader of the figures must know."""

    def __init__(
        self,
        *,
        dependencies: Dependencies,
        agent: WorkerProcess,
        pinning: Pinning,
        notes: list[str],
        database_pid: int | None,
    ) -> None:
        self.dependencies = dependencies
        self.agent = agent
        self.pinning = pinning
        self.notes = notes
        self._database_pid = database_pid

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[WorkerProcess]:
        """A process of callers."""
        log = self.dependencies.folder / "caller.log"
        caller = await WorkerProcess.start("loadtests.load_generator", self.pinning.caller, log)
        try:
            yield caller
        finally:
            await caller.end()

    def database_processes(self) -> list[psutil.Process]:
        """The server that we started and its children; empty when there is none."""
        if self._database_pid is None:
            return []
        server = psutil.Process(self._database_pid)
        return [server, *server.children(recursive=True)]


@asynccontextmanager
async def prepare(pinning: Pinning, *, database: bool = True) -> AsyncIterator[Environment]:
    """Start it all; ended on return."""
    notes: list[str] = []
    _allow_many_files()
    async with AsyncExitStack() as stack:
        # Below /tmp and short: it has the database's socket in it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadtest-")))
        agent = await WorkerProcess.start(
            "loadtests.mock_agent", pinning.agent, folder / "agent.log"
        )
        stack.push_async_callback(agent.end)
        ca, certificate = make_certificate(folder)
        ports = await agent.ask({"do": "open", "certificate": str(certificate)})
        url, pid = None, None
        if database:
            url, pid = await _start_database(stack, folder, pinning, notes)
        dependencies = Dependencies(
            folder=folder,
            cores=pinning.relay,
            agent_url=f"ws://{HOST}:{ports['plain']}{PATH}",
            agent_tls_url=f"wss://{HOST}:{ports['tls']}{PATH}",
            ca=str(ca),
            database_url=url,
            orchestrator_url=f"http://{HOST}:{ports['orchestrator']}",
        )
        yield Environment(
            dependencies=dependencies,
            agent=agent,
            pinning=pinning,
            notes=notes,
            database_pid=pid,
        )


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Files: an authority to trust, and key and certificate that it signed for this machine."""
    authority, signed = folder / "ca.pem", folder / "agent.pem"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(authority)
    ca.issue_cert("localhost", HOST).private_key_and_cert_chain_pem.write_to_path(signed)
    return authority, signed


def _allow_many_files() -> None:
    """Five hundred sessions are more than the 1024 files that a shell usually allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if most == resource.RLIM_INFINITY else min(MANY_FILES, most)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


async def _start_database(
    stack: AsyncExitStack, folder: Path, pinning: Pinning, notes: list[str]
) -> tuple[str | None, int | None]:
    from control.db.migrate import migrate
    from control.dev.postgres import EmbeddedError, EmbeddedPostgres

    server = EmbeddedPostgres(folder / "database")
    try:
        with pinned(pinning.rest):
            url = server.start()
    except EmbeddedError as error:
        notes.append(f"our relay is left out: {error}")
        return None, None
    stack.push_async_callback(asyncio.to_thread, server.stop)
    await migrate(url, log=log)
    return url, server.pid
