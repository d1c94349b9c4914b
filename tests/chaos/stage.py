"""What a chaos test breaks: real relay processes with all that they need around them.

The relay is `voice-relay serve` in a process of its own. Agent and Orchestrator are the sandbox and
the local Orchestrator, in the process of the test, each behind a link that can be broken.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from config.settings import CONFIG_DIR
from control.dev import orchestrator as local_orchestrator
from loadtests.processes import free_port
from relay.sandbox.handshake import AGENT_PATH
from relay.sandbox.options import Options
from relay.sandbox.script import Call, Script, Turn
from relay.sandbox.server import Running, serve
from tests.chaos.audit import Verdict, audit
from tests.chaos.browser import Browser
from tests.chaos.link import HOST, Link
from tests.relay.wires import listening

VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))
START_SECONDS = 60.0  # on a machine with other things to do
LOOK = 0.02  # between two looks at something that tells nobody when it changes
QUICK = {
    "greeting_delay": 0.0,
    "think_delay": 0.01,
    "call_delay": 0.0,
    "voice_delay": 0.01,
    "pace": 20.0,
}
GOAL = Call("create_goal", {"title": "swim", "deadline": "none"})
# Each turn is half a second long: a moment chosen at random is often within one.
SCRIPT = Script(
    turns=(
        Turn(when="text", say=("All right.", "What else is there to do?"), seconds=0.4),
        Turn(when="text", calls=(GOAL,), say=("It is written down.", "What else?"), seconds=0.4),
    ),
    loop=True,
)


class Relay:
    """A `voice-relay serve` on one port and one data directory, now or later running."""

    def __init__(self, environ: dict[str, str], port: int, log: Path) -> None:
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.log = log
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def was_started(self) -> bool:
        return self._process is not None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self, command: Sequence[str] = (VOICE_RELAY, "serve"), **how: Any) -> None:
        """Returns when it takes connections. `how` is as of `Popen`."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220  # a fork, no wait
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ,
                **how,
            )
        async with asyncio.timeout(START_SECONDS):
            while not await answers(self.port):
                assert self.is_running, self.output
                await asyncio.sleep(LOOK)

    def signal(self, how: signal.Signals) -> None:
        if self.is_running:
            self.process.send_signal(how)

    async def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        await self.end(10.0)

    async def end(self, seconds: float) -> int:
        """Its exit code; raises `TimeoutExpired` if it goes on."""
        return await asyncio.to_thread(self.process.wait, seconds)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    async def metrics(self, http: httpx.AsyncClient) -> str:
        return (await http.get(f"{self.url}/metrics")).text

    async def metric(self, http: httpx.AsyncClient, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", await self.metrics(http), re.MULTILINE)
        assert found is not None, name
        return float(found[1])


class Stage:
    """`agent_link` and `planner_link` stand before agent and Orchestrator."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        http: httpx.AsyncClient,
        sandbox: Running,
        links: tuple[Link, Link],
        planner_url: str,
    ) -> None:
        self.folder = folder
        self.database_url = database_url
        self.planner_url = planner_url
        self.http = http
        self.sandbox = sandbox
        self.agent_link, self.planner_link = links
        self.relays: list[Relay] = []

    def relay(self, *, data_dir: Path | None = None, **environ: str) -> Relay:
        """Another relay, not started yet."""
        number = len(self.relays) + 1
        port = free_port()
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RELAY_", "DEEPGRAM_", "ORCHESTRATOR_", "DATABASE_"))
        }
        ours = {
            "DEEPGRAM_API_KEY": "sandbox",
            "RELAY_AUTH": "mock",
            "DEEPGRAM_AGENT_URL": f"ws://{HOST}:{self.agent_link.port}{AGENT_PATH}",
            "DATABASE_URL": self.database_url,
            "ORCHESTRATOR_URL": self.planner_link.url,
            "RELAY_CONFIG_DIR": str(self._talkative()),
            "RELAY_PORT": str(port),
            "RELAY_DATA_DIR": str(data_dir or self.folder / f"data{number}"),
        }
        relay = Relay(clean | ours | environ, port, self.folder / f"relay{number}.log")
        self.relays.append(relay)
        return relay

    def _talkative(self) -> Path:
        """Our configuration, for browsers that type more turns a minute than a person may."""
        folder = self.folder / "config"
        if not folder.exists():
            folder.mkdir()
            for name in ("agent.yaml", "intents.yaml", "policy.yaml", "system_prompt.md"):
                shutil.copy(CONFIG_DIR / name, folder)
            policy = folder / "policy.yaml"
            text = policy.read_text("utf-8")
            assert text.count("per_minute: 30\n") == 1
            policy.write_text(text.replace("per_minute: 30\n", "per_minute: 6000\n"), "utf-8")
        return folder

    def browser(self, chance: random.Random, name: str, *entrances: str) -> Browser:
        """One that goes to the first relay if nothing else is said."""
        return Browser(entrances or (self.relays[0].url,), chance, name)

    @asynccontextmanager
    async def people(
        self, chance: random.Random, count: int, *entrances: str
    ) -> AsyncIterator[list[Browser]]:
        """Browsers that are in conversation while inside: each has had one turn."""
        async with AsyncExitStack() as stack:
            browsers = [self.browser(chance, f"b{number}", *entrances) for number in range(count)]
            for browser in browsers:
                await stack.enter_async_context(browser.at_work())
            async with asyncio.TaskGroup() as tasks:
                for browser in browsers:
                    tasks.create_task(browser.turn_at_last(START_SECONDS))
            yield browsers

    async def settle(
        self, browsers: Sequence[Browser], seconds: float = 60.0, *, hurry: bool = False
    ) -> Verdict:
        """Wait until the audit finds nothing wrong. Fails with what is, after `seconds`.

        `hurry`: the leases of calls whose relay was killed run out at once, not after some 25 s.
        """
        if hurry:
            await self._end_leases()
        until = time.monotonic() + seconds
        while not (verdict := await self.audit(browsers)).is_right:
            assert time.monotonic() < until, verdict
            await asyncio.sleep(LOOK)
        return verdict

    async def audit(self, browsers: Sequence[Browser]) -> Verdict:
        return await audit(self.database_url, browsers, planner_url=self.planner_url)

    async def _end_leases(self) -> None:
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(
                "UPDATE voice.intents SET next_attempt_at = now() WHERE status = 'submitting'"
            )
        finally:
            await connection.close()

    async def stop_relays(self) -> None:
        """Every relay that runs drains and ends."""
        for relay in self.relays:
            relay.signal(signal.SIGTERM)
        for relay in self.relays:
            if relay.was_started:
                await relay.end(30.0)

    async def close(self) -> None:
        for relay in self.relays:
            if relay.is_running:
                await relay.kill()


@asynccontextmanager
async def staged(
    folder: Path, database_url: str, *, planner_url: str | None = None, **options: Any
) -> AsyncIterator[Stage]:
    """Everything but the relays. `planner_url` is the Orchestrator's own database, if it has one;
    `options` are those of the sandbox."""
    allow_many_files()
    async with AsyncExitStack() as stack:
        quick = {"script": SCRIPT} | QUICK | options
        sandbox = await stack.enter_async_context(serve(Options(**quick)))
        planner = local_orchestrator.create_app(planner_url or database_url)
        planner_port, _ = await stack.enter_async_context(listening(planner))
        links = (
            await stack.enter_async_context(Link(sandbox.port)),
            await stack.enter_async_context(Link(planner_port)),
        )
        http = await stack.enter_async_context(
            # uvicorn closes what is idle for 5 s: what is older is not used again.
            httpx.AsyncClient(
                timeout=10.0, trust_env=False, limits=httpx.Limits(keepalive_expiry=1.0)
            )
        )
        stage = Stage(folder, database_url, http, sandbox, links, planner_url or database_url)
        stack.push_async_callback(stage.close)
        yield stage


async def answers(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


async def until(condition: Any, seconds: float) -> float:
    """Look again and again until the coroutine function says yes; after how many seconds it did.

    For what goes on in other processes: there is nothing to wait on. Raises `TimeoutError`.
    """
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
    return time.monotonic() - began


def allow_many_files() -> None:
    """A burst has more sockets than the 1,024 files that a shell usually allows."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if most == resource.RLIM_INFINITY else min(16_384, most)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
