"""Browsers that speak on a schedule and never wait for an answer; measures the way down.

Load tests, in a process of its own (worker_process.py).
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from contextlib import AsyncExitStack
from time import monotonic_ns

import httpx
import msgspec
from picows import WSError, WSFrame, WSParsedURL, WSTransport, ws_connect

from loadtests.deployed_relay import begin_session
from loadtests.percentiles import Latency, summarize_values
from loadtests.scenarios import Traffic
from loadtests.session_end import BINARY, CLOSE, TEXT, UP, SessionEnd, SessionEnds
from relay.protocol import deepgram
from relay.protocol.relay_events import SUBPROTOCOL

ATTACH_SECONDS = 60.0  # for all of them
LEAVE_SECONDS = 3.0
# Requests under way in one client of httpx: it looks at all of them for each step of one.
EACH_CLIENT = 20
CONNECTIONS = 100  # of all of them: who waits too long for the database is told 503

SETTINGS = deepgram.encode(
    deepgram.Settings(
        audio={
            "input": {"encoding": "linear16", "sample_rate": 16000},
            "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
        },
        agent={
            "listen": {
                "provider": {"type": "deepgram", "version": "v2", "model": "flux-general-en"}
            },
            "think": {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "prompt": "Help."},
            "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
        },
    )
)
# The heads of messages, so that the others need not be decoded.
FUNCTION_CALL = b'{"type":"FunctionCallRequest"'
APPLIED = b'{"type":"SettingsApplied"'
WELCOME = b'{"type":"Welcome"'


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How to get in: the WebSocket (ws, wss) or where sessions are begun (http)."""

    url: str
    ca: str | None = None
    headers: dict[str, str] = {}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`at_once` of the sessions attach at the same time.

    `receive_buffer`: bytes that the kernel may keep for each; 0 is as it likes.
    """

    endpoint: Endpoint
    traffic: Traffic
    sessions: int
    at_once: int = 16
    receive_buffer: int = 0


class Attached(msgspec.Struct, frozen=True):
    """From opening a WebSocket to SettingsApplied; why the others are not there."""

    settle: Latency
    failed: list[str]


class Browser(SessionEnd):
    """The browser of one session; without a relay it sends the Settings and answers calls."""

    def __init__(self, caller: Caller, number: int, load: Load) -> None:
        super().__init__(caller, UP, number, load.traffic.frame_bytes)
        self.settled = asyncio.Event()
        self._is_direct = not load.endpoint.url.startswith("http")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == BINARY:
            self.take(frame.get_payload_as_memoryview())
        elif kind == TEXT:
            self.ends.counts["events"] += 1
            self._read(transport, frame.get_payload_as_bytes())
        elif kind == CLOSE:
            self.problems.append(f"closed: {int(frame.get_close_code())}")  # type: ignore[call-overload]  # an IntEnum
            transport.disconnect()

    def _read(self, transport: WSTransport, text: bytes) -> None:
        if text.startswith(APPLIED):
            self.settled.set()
        elif self._is_direct and text.startswith(WELCOME):
            transport.send(TEXT, SETTINGS)
        elif self._is_direct and text.startswith(FUNCTION_CALL):
            match deepgram.decode_server(text):
                case deepgram.FunctionCallRequest(functions=[call]):
                    answer = deepgram.FunctionCallResponse(
                        id=call.id, name=call.name, content='{"status": "accepted"}'
                    )
                    transport.send(TEXT, deepgram.encode(answer))


class Caller(SessionEnds):
    """All browsers of this process."""

    async def attach(self, load: Load) -> Attached:
        """Open the sessions; those of before are forgotten."""
        self.expect_traffic(load.traffic)
        failed: list[str] = []
        settle: list[float] = []
        slots = asyncio.Semaphore(load.at_once)
        endpoint = load.endpoint
        async with AsyncExitStack() as stack:
            count = 1 + load.at_once // EACH_CLIENT
            limits = httpx.Limits(max_connections=max(1, CONNECTIONS // count))
            clients = [
                await stack.enter_async_context(
                    httpx.AsyncClient(
                        base_url=endpoint.url,
                        timeout=20.0,
                        trust_env=False,
                        verify=False,  # no TLS: to read the authorities takes 20 ms each
                        limits=limits,
                    )
                )
                for _ in range(count)
            ]

            async def attach_one(number: int) -> None:
                async with slots:
                    try:
                        rest = clients[number % count]
                        settle.append(await self._attach(load, number, rest))
                    except (WSError, OSError, httpx.HTTPError) as error:
                        failed.append(f"{type(error).__name__}: {error}"[:200])

            try:
                async with asyncio.timeout(ATTACH_SECONDS), asyncio.TaskGroup() as tasks:
                    for number in range(load.sessions):
                        tasks.create_task(attach_one(number))
            except TimeoutError:
                failed.append(f"not all attached within {ATTACH_SECONDS:.0f} s")
        gc.collect()
        return Attached(summarize_values(settle), failed[:5])

    async def _attach(self, load: Load, number: int, rest: httpx.AsyncClient) -> float:
        """Microseconds from opening the WebSocket to SettingsApplied."""
        browser = Browser(self, number, load)
        url, headers = load.endpoint.url, dict(load.endpoint.headers)
        if url.startswith("http"):
            url, ticket = await begin_session(rest)
            headers["Sec-WebSocket-Protocol"] = f"{SUBPROTOCOL}, {ticket}"
        is_secure = url.startswith("wss")

        def make_socket(url: WSParsedURL) -> socket.socket:
            made = socket.socket()
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, load.receive_buffer)
            return made

        opened = monotonic_ns()
        await ws_connect(
            lambda: browser,
            url,
            ssl_context=ssl.create_default_context(cafile=load.endpoint.ca) if is_secure else None,
            extra_headers=headers,
            websocket_handshake_timeout=ATTACH_SECONDS,
            enable_auto_ping=False,
            max_frame_size=1 << 20,
            socket_factory=make_socket if load.receive_buffer else None,
        )
        self.sessions.append(browser)
        await browser.settled.wait()
        return (monotonic_ns() - opened) / 1000

    async def stop_reading(self) -> None:
        """As browsers whose page hangs: they send, and take nothing in."""
        for browser in self.sessions:
            if browser.transport is not None:
                browser.transport.underlying_transport.pause_reading()

    async def leave(self) -> None:
        open_ones = [browser.transport for browser in self.sessions if browser.transport]
        for transport in open_ones:
            transport.send_close()
        waits = [asyncio.create_task(transport.wait_disconnected()) for transport in open_ones]
        if waits:
            await asyncio.wait(waits, timeout=LEAVE_SECONDS)
        for transport in open_ones:
            transport.disconnect(False)
