"""Browsers that speak on a schedule and never wait for an answer; measures the way down.

Load tests, a process of its own: `python -m loadtests.load_generator` is led by its parent. It
attaches its sessions, speaks from a given instant to another and reports what came.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from time import monotonic_ns
from typing import Literal

import httpx
import msgspec
import uvloop
from picows import (
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSParsedURL,
    WSTransport,
    ws_connect,
)

from loadtests.deployed_relay import begin_session
from loadtests.frame_stamp import DOWN, UP, Incoming, Outgoing
from loadtests.percentiles import Latency, Samples, summarize_values
from loadtests.scenarios import Traffic
from loadtests.send_schedule import SendSchedule
from loadtests.worker_process import Message, hurry, obey
from relay.protocol import deepgram
from relay.protocol.relay_events import SUBPROTOCOL

BINARY = WSMsgType.BINARY
TEXT = WSMsgType.TEXT
CLOSE = WSMsgType.CLOSE

SETTINGS = deepgram.encode(
    deepgram.Settings(
        audio={
            "input": {"encoding": "linear16", "sample_rate": 16000},
            "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
        },
        agent={
            "listen": {"provider": {"type": "deepgram", "model": "flux-general-en"}},
            "think": {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}, "prompt": "Help."},
            "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
        },
    )
)
FUNCTION_CALL = b'{"type":"FunctionCallRequest"'
APPLIED = b'{"type":"SettingsApplied"'
WELCOME = b'{"type":"Welcome"'
HEAD = 32  # bytes that are enough to tell these apart

monotonic = monotonic_ns


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How to get in: `url` is the WebSocket ("plain") or where sessions are begun ("relay.v1")."""

    way: Literal["plain", "relay.v1"]
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
    seconds: float = 20.0  # to attach all
    receive_buffer: int = 0


class Browser(WSListener):
    """The browser of one session."""

    def __init__(self, caller: Caller, number: int, *, plain: bool) -> None:
        self.caller = caller
        self.incoming = Incoming(DOWN, caller.down)
        self.outgoing = Outgoing(UP, number, caller.load.traffic.frame_bytes)
        self.events = 0
        self.reads = True
        self.settled = asyncio.Event()
        self.gone = asyncio.Event()
        self._plain = plain
        self._leaving = False
        self._transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == BINARY:
            now = monotonic()
            self.incoming.take(frame.get_payload_as_memoryview(), now)
        elif kind == TEXT:
            self.events += 1
            self._told(transport, frame.get_payload_as_bytes())
        elif kind == CLOSE:
            transport.disconnect()
            if not self._leaving:
                self.incoming.problems.append(f"closed: {int(frame.get_close_code())}")  # type: ignore[call-overload]  # an IntEnum

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._transport = None
        if not self._leaving and not self.incoming.problems:
            self.incoming.problems.append("the connection was lost")
        self.gone.set()

    def fire(self, due: int) -> int:
        """Send one frame."""
        transport = self._transport
        if transport is None:
            return 0
        now = monotonic()
        transport.send(BINARY, self.outgoing.next(due))
        self.caller.lag.due.append(due)
        self.caller.lag.delay.append(now - due)
        again = due + self.caller.load.traffic.step
        return again if again < self.caller.until else 0

    def stop_reading(self) -> None:
        """As a browser whose page hangs: it sends, and takes nothing in."""
        self.reads = False
        if self._transport is not None:
            self._transport.underlying_transport.pause_reading()

    async def leave(self) -> None:
        self._leaving = True
        transport = self._transport
        if transport is None:
            return
        if not self.reads:
            transport.disconnect(False)
            return
        transport.send_close()
        try:
            async with asyncio.timeout(3):
                await self.gone.wait()
        except TimeoutError:
            self.incoming.problems.append("the close was not answered within 3 s")
            transport.disconnect(False)

    def report(self) -> Message:
        return {
            "session": self.outgoing.number,
            "sent": self.outgoing.sent,
            "received": self.incoming.received,
            "events": self.events,
            "problems": self.incoming.problems[:5],
        }

    def _told(self, transport: WSTransport, text: bytes) -> None:
        if text.startswith(APPLIED):
            self.settled.set()
        elif self._plain and text.startswith(WELCOME):
            transport.send(TEXT, SETTINGS)
        elif self._plain and text.startswith(FUNCTION_CALL):
            match deepgram.decode_server(text):
                case deepgram.FunctionCallRequest(functions=[call]):
                    answer = deepgram.FunctionCallResponse(
                        id=call.id, name=call.name, content='{"status": "accepted"}'
                    )
                    transport.send(TEXT, deepgram.encode(answer))


class Caller:
    """All browsers of this process."""

    load: Load

    def __init__(self, schedule: SendSchedule) -> None:
        self.until = 0
        self.down = Samples()
        self.lag = Samples()
        self._schedule = schedule
        self._browsers: list[Browser] = []
        self._settle: list[float] = []  # microseconds from opening the socket to SettingsApplied
        self._failed: list[str] = []

    async def handle(self, message: Message) -> Message:
        match message:
            case {"do": "attach", "load": load}:
                self.load = msgspec.convert(load, Load)
                return await self._attach()
            case {"do": "speak", "at": at, "until": until, "unread_from": unread_from}:
                await self._speak(at, until, unread_from)
                return {}
            case {"do": "leave"}:
                async with asyncio.TaskGroup() as tasks:
                    for browser in self._browsers:
                        tasks.create_task(browser.leave(), name="leave")
                return {}
            case {"do": "collect", "windows": windows}:
                return self._collect(windows)
        raise ValueError(f"expected something to do, got {message}")

    async def _attach(self) -> Message:
        endpoint = self.load.endpoint
        slots = asyncio.Semaphore(self.load.at_once)
        context = ssl.create_default_context(cafile=endpoint.ca) if endpoint.ca else None
        async with httpx.AsyncClient(base_url=endpoint.url, timeout=20.0, trust_env=False) as rest:
            try:
                async with asyncio.timeout(self.load.seconds), asyncio.TaskGroup() as tasks:
                    for place in range(self.load.sessions):
                        tasks.create_task(self._attach_one(place, rest, slots, context))
            except TimeoutError:
                self._failed.append(f"not all attached within {self.load.seconds:.0f} s")
        gc.collect()
        gc.freeze()
        return {
            "attached": sum(browser.settled.is_set() for browser in self._browsers),
            "failed": self._failed[:5],
            "settle": msgspec.to_builtins(summarize_values(self._settle)),
        }

    async def _attach_one(
        self,
        place: int,
        rest: httpx.AsyncClient,
        slots: asyncio.Semaphore,
        context: ssl.SSLContext | None,
    ) -> None:
        endpoint = self.load.endpoint
        async with slots:
            browser = Browser(self, place, plain=endpoint.way == "plain")
            try:
                url, headers = endpoint.url, dict(endpoint.headers)
                if endpoint.way == "relay.v1":
                    url, ticket = await begin_session(rest)
                    headers["Sec-WebSocket-Protocol"] = f"{SUBPROTOCOL}, {ticket}"
                opened = monotonic()
                await ws_connect(
                    lambda: browser,
                    url,
                    ssl_context=context if url.startswith("wss") else None,
                    extra_headers=headers,
                    websocket_handshake_timeout=self.load.seconds,
                    enable_auto_ping=False,
                    max_frame_size=1 << 20,
                    socket_factory=self._make_socket if self.load.receive_buffer else None,
                )
                self._browsers.append(browser)
                await browser.settled.wait()
                self._settle.append((monotonic() - opened) / 1000)
            except (WSError, OSError, httpx.HTTPError, TimeoutError) as error:
                self._failed.append(f"{type(error).__name__}: {error}"[:200])

    def _make_socket(self, url: WSParsedURL) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.load.receive_buffer)
        return made

    async def _speak(self, at: int, until: int, unread_from: int) -> None:
        self.until = until
        step = self.load.traffic.step
        self._browsers.sort(key=lambda browser: browser.outgoing.number)
        for place, browser in enumerate(self._browsers):
            self._schedule.add(at + place * step // len(self._browsers), browser.fire)
        if unread_from:
            await _until(unread_from)
            for browser in self._browsers:
                browser.stop_reading()
        await _until(until)

    def _collect(self, windows: list[tuple[int, int]]) -> Message:
        def fold(samples: Samples) -> list[Latency]:
            return [samples.between(*window) for window in windows]

        return {
            "down": msgspec.to_builtins(fold(self.down)),
            "lag": msgspec.to_builtins(fold(self.lag)),
            "browsers": [browser.report() for browser in self._browsers],
        }


async def _until(instant: int) -> None:
    await asyncio.sleep(max(0.0, (instant - monotonic()) / 1e9))


async def main() -> None:
    hurry()
    schedule = SendSchedule()
    await obey(Caller(schedule).handle)
    schedule.close()


if __name__ == "__main__":
    uvloop.run(main())
