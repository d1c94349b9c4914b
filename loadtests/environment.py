"""Everything that runs beside the arm: database, agent, Orchestrator, certificate, a folder.

Load tests. All of it is started here and ends here; nothing listens beyond this machine.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import msgspec
import psutil
import trustme

from control.db.migrate import migrate
from control.dev.postgres import EmbeddedPostgres
from loadtests.mock_agent import Agent
from loadtests.processes import HOST, Pinning, pinned
from loadtests.worker_process import WorkerProcess, running

log = logging.getLogger(__name__)

PATH = "/v1/agent/converse"
# Five hundred sessions are more than the 1,024 files that a shell usually allows.
MANY_FILES = 8192


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What an arm is given, and the agent to lead; `ca` is the file of an authority to trust."""

    folder: Path
    pinning: Pinning
    database_url: str
    database_pid: int
    agent: WorkerProcess[Agent]
    agent_url: str
    agent_tls_url: str
    ca: str
    orchestrator_url: str

    @contextmanager
    def stopped_database(self) -> Iterator[None]:
        """Every process of the database stands still: nothing is refused, nothing is answered."""
        server = psutil.Process(self.database_pid)
        family = [server, *server.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):  # a worker that has just ended
                process.suspend()
        try:
            yield
        finally:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.resume()


@asynccontextmanager
async def prepare(
    pinning: Pinning, *, parameters: Sequence[str] = ()
) -> AsyncIterator[Environment]:
    """Start it all; ended on return. `parameters` are further settings of the database.

    Raises EmbeddedError or MigrationError.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MANY_FILES if most == resource.RLIM_INFINITY else min(MANY_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    # Below /tmp and short: it has the database's socket in it.
    with tempfile.TemporaryDirectory(prefix="loadtest-") as name:
        folder = Path(name)
        ca, certificate = make_certificate(folder)
        database = EmbeddedPostgres(folder / "database", parameters=parameters)
        try:
            with pinned(pinning.rest):
                database_url = database.start()
            await migrate(database_url, log=log)
            assert database.pid is not None
            async with running(Agent, pinning.agent) as agent:
                plain, tls, orchestrator = await agent.ask(Agent.open, str(certificate))
                yield Environment(
                    folder=folder,
                    pinning=pinning,
                    database_url=database_url,
                    database_pid=database.pid,
                    agent=agent,
                    agent_url=f"ws://{HOST}:{plain}{PATH}",
                    agent_tls_url=f"wss://{HOST}:{tls}{PATH}",
                    ca=str(ca),
                    orchestrator_url=f"http://{HOST}:{orchestrator}",
                )
        finally:
            await asyncio.to_thread(database.stop)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Files: an authority to trust, and key and certificate that it signed for this machine."""
    authority, signed = folder / "ca.pem", folder / "agent.pem"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(authority)
    ca.issue_cert("localhost", HOST).private_key_and_cert_chain_pem.write_to_path(signed)
    return authority, signed
