"""Real sockets for tests of the data plane: a relay on a free port, and an agent that obeys.

Both other ends are the `websockets` library: two implementations on either side of every test.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import uvicorn
from litestar import Litestar
from litestar.di import Provide
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError

import config
from config.agent import Audio
from config.current import Current
from config.env_types import Secret
from config.limits import Limits
from config.loader import load
from control.http.connection_limits import Caller
from relay.core.admitted import Admitted, ResumePoint
from relay.core.records import Record
from relay.core.user_context import AskContext
from relay.core.watcher import Listen, Watch
from relay.functions.executor import Functions
from relay.functions.submission import Submission, Submit, Submitted
from relay.journal.journal import Journal
from relay.live.endpoints import attach
from relay.live.quotas import AgentQuota
from relay.live.session_registry import SessionRegistry
from relay.protocol.refusal import Refused
from relay.telemetry.metrics import Metrics
from relay.transport.dial import Dialler

AgentHandler = Callable[[ServerConnection], Awaitable[None]]
TICKET = "ticket-of-the-test"
LIMITS = Limits(
    setup_seconds=5.0,
    roll_over_seconds=3600.0,
    grace_seconds=0.0,
    audio_speed=0,  # some of these fill all buffers
    idle_seconds=0.0,
    session_seconds=0.0,
    sessions=0,
    sessions_per_user=0,
    sessions_per_address=0,
    ping_seconds=5.0,
    held_audio_bytes=64 * 1024,
    lane_bytes=256 * 1024,
    lane_seconds=60.0,
    dial_ahead=4,
)


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """uvicorn with our WebSocket protocol in front of `app`; yields the port and the server."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            http=Caller,
            ws="none",
            proxy_headers=False,
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
    )
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    main = asyncio.create_task(server.main_loop(), name="uvicorn")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield port, server
    finally:
        server.should_exit = True
        await main
        await server.shutdown()


class Agent:
    """An agent that does what the test says; `greeted` is set once Settings are applied."""

    def __init__(self) -> None:
        self.connections: list[ServerConnection] = []
        self.texts: list[dict[str, Any]] = []
        self.audio: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.greeted = asyncio.Event()
        self.gone = asyncio.Event()
        self.arrived = asyncio.Event()
        self.connected = asyncio.Event()
        self.answers = True
        self.closed: tuple[int | None, str | None] = None, None

    async def handle(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        self.connected.set()
        self.headers = dict(connection.request.headers) if connection.request else {}
        if self.answers:
            await self.say(type="Welcome", request_id="request-1")
        try:
            await self._listen(connection)
        except ConnectionClosedError:
            pass  # any code but 1000 and 1001 is one
        self.closed = connection.close_code, connection.close_reason
        self.gone.set()

    async def _listen(self, connection: ServerConnection) -> None:
        async for frame in connection:
            if isinstance(frame, bytes):
                self.audio.append(frame)
            else:
                message = json.loads(frame)
                self.texts.append(message)
                if message["type"] == "Settings" and self.answers:
                    await self.say(type="SettingsApplied")
                    self.greeted.set()
            self.arrived.set()

    async def say(self, **message: Any) -> None:
        await self.connections[-1].send(json.dumps(message))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something that arrived makes `condition` true."""
        async with asyncio.timeout(5):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()


class Relay:
    """A relay without a control plane: any session with the right ticket may attach."""

    def __init__(
        self,
        session_registry: SessionRegistry,
        functions: Functions,
        metrics: Metrics,
        port: int,
        server: uvicorn.Server,
    ) -> None:
        self.session_registry = session_registry
        self.functions = functions
        self.metrics = metrics
        self.port = port
        self.server = server
        self.records: list[Record] = []
        self.session_id = uuid4()  # the last that was attached to
        self.stored = asyncio.Event()
        self.admits = True  # else nobody may ask
        self.admitted: dict[str, Any] = {}  # what else the control plane says of the next session
        self.asked = asyncio.Event()  # somebody is about to be admitted
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def url(self, session_id: UUID) -> str:
        return f"ws://127.0.0.1:{self.port}/api/v1/voice/session/{session_id}/ws"

    def attach(
        self, session_id: UUID | None = None, *, received: int | str | None = None, **more: Any
    ) -> connect:
        session_id = self.session_id = session_id or uuid4()
        query = "" if received is None else f"?received={received}"
        more = {"subprotocols": ["relay.v1", TICKET], "compression": None} | more
        return connect(self.url(session_id) + query, **more)

    async def write(self, records: Any) -> None:
        self.records += records
        self.stored.set()

    async def until(self, kind: type) -> Any:
        """The first record of a kind that is stored."""
        async with asyncio.timeout(5):
            while True:
                found = [record for record in self.records if isinstance(record, kind)]
                if found:
                    return found[0]
                self.stored.clear()
                await self.stored.wait()


ABOUT = Admitted(
    session_id=UUID(int=1),
    conversation_id=UUID(int=2),
    user_id="user",
    timezone="UTC",
    audio=Audio(),
)
"""Whose session is expected."""


async def submit(submission: Submission) -> Submitted:
    return Submitted({"id": 7}, 1)


async def _keep(session_id, handshake):
    """There is no other worker that could have the session."""
    return False


@asynccontextmanager
async def relaying(
    agent_url: str,
    *,
    submit: Submit = submit,
    limits: Limits = LIMITS,
    origins: frozenset[str] = frozenset(),
    share: AgentQuota | None = None,
    ask: AskContext | None = None,
    watches: Sequence[Watch] = (),
    listen: Listen | None = None,
) -> AsyncIterator[Relay]:
    """A relay on a free port whose agent is at `agent_url`."""
    configuration = load(Path(config.__file__).parent, {})
    metrics = Metrics()
    relay: Relay

    async def write(records: Any) -> None:
        await relay.write(records)

    async def admit(session_id: UUID, ticket: str, seen: ResumePoint) -> Admitted:
        if not relay.admits:
            raise AssertionError("the control plane was asked")
        relay.asked.set()
        await relay.may_answer.wait()
        if ticket != TICKET:
            raise Refused(401, "ticket", "no such ticket")
        return Admitted(
            session_id=session_id,
            conversation_id=uuid4(),
            user_id="user",
            timezone="UTC",
            **{"audio": Audio(), **relay.admitted},
        )

    directory = tempfile.TemporaryDirectory(prefix="relay-journal-")
    journal = Journal(write, metrics, Path(directory.name))
    functions = Functions(journal, metrics)
    dialler = Dialler(
        agent_url,
        lambda: "the-real-key",
        ping_seconds=limits.ping_seconds,
        seconds=limits.setup_seconds,
        max_message_bytes=limits.max_message_bytes,
    )

    async def grow() -> None:
        """There is nobody to share with."""

    session_registry = SessionRegistry(
        Current(configuration, Secret("the-real-key")),
        limits,
        dial=dialler.dial,
        functions=functions,
        journal=journal,
        metrics=metrics,
        share=share or AgentQuota(),
        grow=grow,
        ask=ask,
        watches=watches,
        listen=listen,
    )
    app = Litestar(
        [attach],
        dependencies={
            "session_registry": Provide(lambda: session_registry, sync_to_thread=False),
            "admit": Provide(lambda: admit, sync_to_thread=False),
            "allowed_origins": Provide(lambda: origins, sync_to_thread=False),
            "check_address": Provide(lambda: lambda asked: None, sync_to_thread=False),
            "hand_over": Provide(lambda: _keep, sync_to_thread=False),
        },
        openapi_config=None,
    )
    with directory:
        async with (
            journal.running(grace=2.0),
            functions.running(submit, grace=2.0),
            session_registry.running(),
            listening(app) as (port, server),
        ):
            relay = Relay(session_registry, functions, metrics, port, server)
            yield relay


@asynccontextmanager
async def agent_and_relay(**options: Any) -> AsyncIterator[tuple[Agent, Relay]]:
    """The usual pair."""
    agent = Agent()
    async with serve(agent.handle, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/v1/agent/converse", **options) as relay:
            yield agent, relay


async def next_event(browser: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of a type; other events and audio are passed over."""
    async with asyncio.timeout(5):
        while True:
            frame = await browser.recv()
            if isinstance(frame, str) and (message := json.loads(frame))["type"] == kind:
                return message
