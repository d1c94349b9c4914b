"""A relay in a process of its own, a scripted agent, and a network between it and the browser."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg
import httpx

import config
from control.dev import orchestrator as local_orchestrator
from control.http.server import listen, serving
from loadtests.processes import free_port
from relay.sandbox.options import Options
from relay.sandbox.server import serve

VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))
# Quick where nobody listens, and at Deepgram's own pace where somebody does.
QUICK = {"greeting_delay": 0.02, "think_delay": 0.05, "call_delay": 0.02}
GREETING = "Hello there!"  # ours takes five seconds to say, and "listening" is shown after that


NO = b'{"status": 401, "code": "unauthorized", "detail": "no"}'
SIGNED_OUT = (
    b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    + b"Content-Length: %d\r\n\r\n" % len(NO)
    + NO
)


def greet_shortly(agent):
    changed, count = re.subn("(?m)^greeting: .*$", f"greeting: {GREETING}", agent)
    assert count == 1
    return changed


class Relay:
    """`voice-relay serve` as a program; it can be stopped and started again on its port."""

    def __init__(self, environ):
        self.environ = environ
        self.process = None

    async def start(self):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RELAY_")}
        self.process = await asyncio.create_subprocess_exec(
            VOICE_RELAY, "serve", env=clean | self.environ
        )
        async with asyncio.timeout(30), httpx.AsyncClient() as http:
            while self.process.returncode is None:
                try:
                    url = f"http://127.0.0.1:{self.environ['RELAY_PORT']}/health/ready"
                    if (await http.get(url)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)  # another program: there is nothing to wait on
        raise AssertionError("the relay did not start: it says why")

    async def stop(self, *, kill=False):
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        await self.process.wait()


class Network:
    """A TCP proxy between the browser and the relay: it can be cut, and mended."""

    def __init__(self, target: int):
        self.target = target
        self.is_up = True
        self.answer = None
        self.missing = None
        self.late = None
        self.is_held = asyncio.Event()
        self._is_free = asyncio.Event()
        self.taken_in = 0  # connections, so far
        self.port = 0
        self._open = set()
        self._server: asyncio.Server | None = None

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self):
        """Every connection breaks, and none is made any more."""
        self.is_up = False
        for writer in list(self._open):
            writer.transport.abort()

    def mend(self):
        self.is_up = True
        self.answer = self.missing = None

    def lose(self, path: bytes):
        """Who asks for this gets no answer."""
        self.missing = b"GET %s " % path

    def hold(self, path: bytes):
        """Who asks for this first waits for `release`; `is_held` says that somebody does."""
        self.late = b"GET %s" % path
        self.is_held.clear()
        self._is_free.clear()

    def release(self):
        self._is_free.set()

    def impersonate(self, answer: bytes):
        """Somebody else answers every request, with this."""
        self.cut()
        self.answer = answer

    async def stop(self):
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.taken_in += 1
        try:
            if self.answer is not None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.answer)
                await writer.drain()
            elif self.is_up:
                await self._pass(reader, writer)
            else:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()  # the relay is being restarted, or nothing was asked
        finally:
            writer.close()

    async def _pass(self, reader, writer):
        from_relay, to_relay = await asyncio.open_connection("127.0.0.1", self.target)
        self._open |= {writer, to_relay}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, to_relay), name="up")
                tasks.create_task(self._pump(from_relay, writer), name="down")
        finally:
            self._open -= {writer, to_relay}
            to_relay.close()

    async def _pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                if self.missing and self.missing in data:
                    return writer.transport.abort()
                if self.late and self.late in data:
                    self.late = None
                    self.is_held.set()
                    await self._is_free.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # that side is gone
        writer.close()


class Planner:
    """The local Orchestrator, which can be made to answer what nobody should."""

    def __init__(self, database_url):
        self.app = local_orchestrator.create_app(database_url)
        self.lifespan, self.state = self.app.lifespan, self.app.state
        self.status = None  # of every answer, in place of what it should be

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or self.status is None:
            return await self.app(scope, receive, send)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Figures(NamedTuple):
    count: float
    total: float


class Stack:
    """`url` is what the browser sees; `say` puts another script into the agent's mouth."""

    def __init__(self, relay, network, planner, agent_port):
        self.relay = relay
        self.planner = planner
        self.network = network
        self.url = f"http://127.0.0.1:{network.port}/"
        self.sandbox = None
        self._agent_port = agent_port
        self._agent = None

    async def say(self, script=None, **options):
        if self._agent:
            await self._agent.aclose()
        self._agent = AsyncExitStack()
        wanted = Options(script=script, **{**QUICK, **options})
        serving = serve(wanted, port=self._agent_port)
        self.sandbox = await self._agent.enter_async_context(serving)

    async def hang_up(self):
        """End every session. One whose browser was lost waits for it, and would have an agent of
        the next test."""
        connection = await asyncpg.connect(
            self.relay.environ["DATABASE_URL"], statement_cache_size=0
        )
        try:
            live = await connection.fetch("SELECT id FROM voice.sessions WHERE state <> 'ended'")
        finally:
            await connection.close()
        async with httpx.AsyncClient() as http:
            for row in live:
                await http.delete(self._api(f"/session/{row['id']}"))

    async def aclose(self):
        if self._agent:
            await self._agent.aclose()

    async def get(self, path):
        async with httpx.AsyncClient() as http:
            return (await http.get(self._api(path))).json()

    async def figures(self, name):
        """Of a histogram of the relay."""
        async with httpx.AsyncClient() as http:
            url = f"http://127.0.0.1:{self.relay.environ['RELAY_PORT']}/metrics"
            text = (await http.get(url)).text
        values = (re.search(rf"^{name}_{part} (\S+)$", text, re.M)[1] for part in ("count", "sum"))
        return Figures(*map(float, values))

    def _api(self, path):
        return f"http://127.0.0.1:{self.relay.environ['RELAY_PORT']}/api/v1/voice{path}"


@asynccontextmanager
async def standing(database_url, *changes, **environ):
    """`changes` are `(file, change)`: `change` makes another of the text of that file of config/;
    `environ` is for the relay."""
    async with AsyncExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-client-"))
        configured = Path(data, "config")
        shutil.copytree(Path(config.__file__).parent, configured)
        for file, change in (("agent.yaml", greet_shortly), *changes):
            ours = configured / file
            ours.write_text(change(ours.read_text()))
        door = listen("127.0.0.1", 0)
        stack.callback(door.close)
        planner = Planner(database_url)
        await stack.enter_async_context(serving(planner, door))
        port, agent_port = free_port(), free_port()
        relay = Relay(
            {
                "RELAY_PORT": str(port),
                "RELAY_DATA_DIR": data,
                "RELAY_CONFIG_DIR": str(configured),
                "RELAY_LOG_LEVEL": "error",
                "RELAY_AUTH": "mock",
                "DEEPGRAM_API_KEY": "sandbox",
                "DEEPGRAM_AGENT_URL": f"ws://127.0.0.1:{agent_port}/v1/agent/converse",
                "DATABASE_URL": database_url,
                "ORCHESTRATOR_URL": f"http://127.0.0.1:{door.getsockname()[1]}",
                **environ,
            }
        )
        network = Network(port)
        await network.start()
        stack.push_async_callback(network.stop)
        await relay.start()
        stack.push_async_callback(relay.stop)
        made = Stack(relay, network, planner, agent_port)
        stack.push_async_callback(made.aclose)
        await made.say()
        yield made
