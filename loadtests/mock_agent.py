"""An agent that costs little: takes any key, says what the traffic asks for, measures the way up.

Load tests, a process of its own: `python -m loadtests.mock_agent` is led by its parent.
It plays the Orchestrator too: one answer to every POST.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
from functools import partial
from time import monotonic_ns
from typing import cast

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from loadtests import conversation_script
from loadtests.frame_stamp import DOWN, UP, Incoming, Outgoing
from loadtests.percentiles import Samples
from loadtests.scenarios import ECHO, Traffic
from loadtests.send_schedule import SendSchedule
from loadtests.worker_process import Message, hurry, obey
from relay.protocol import deepgram

HOST = "127.0.0.1"
BINARY = WSMsgType.BINARY
TEXT = WSMsgType.TEXT
CLOSE = WSMsgType.CLOSE
LEAD = 1.0  # a connection that comes late begins its turns so many seconds later

WELCOME = deepgram.encode(deepgram.Welcome(request_id="0190a0e0-0000-7000-8000-00000000000a"))
APPLIED = deepgram.encode(deepgram.SettingsApplied())

monotonic = monotonic_ns


class AgentConnection(WSListener):
    """One connection: the agent of one session."""

    def __init__(self, agent: Agent, number: int) -> None:
        traffic = agent.traffic
        conversation = traffic.agent == "conversation"
        size = conversation_script.FRAME_BYTES if conversation else traffic.frame_bytes
        self.agent = agent
        self.incoming = Incoming(UP, agent.up)
        self.outgoing = Outgoing(DOWN, number, size)
        self.ready = False
        self.calls_sent = 0
        self.calls_answered = 0
        self.called = 0  # when, ns
        self._echoes = traffic.agent == "echo"
        self._transport: WSTransport | None = None
        self._turn = number  # not everyone calls a function at once
        self._turn_began = 0
        self._step = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        transport.send(TEXT, WELCOME)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == BINARY:
            now = monotonic()
            self.incoming.take(frame.get_payload_as_memoryview(), now)
            if self._echoes:
                transport.send(BINARY, self.outgoing.next(now))
        elif kind == TEXT:
            self._heard(frame.get_payload_as_bytes())
        elif kind == CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._transport = None

    def begin(self, at: int) -> None:
        """Speak from `at` on; one that only echoes has nothing to do."""
        if self.agent.traffic.agent == "paced":
            self.agent.schedule.add(at, self._fire_frame)
        elif self.agent.traffic.agent == "conversation":
            self._turn_began = at
            self.agent.schedule.add(at, self._fire_step)

    def report(self) -> Message:
        return {
            "session": self.incoming.peer,
            "received": self.incoming.received,
            "sent": self.outgoing.sent,
            "problems": self.incoming.problems[:5],
            "calls": self.calls_sent,
            "call_open": self.calls_sent > self.calls_answered,
            "called": self.called,
        }

    def _heard(self, text: bytes) -> None:
        match deepgram.decode_client(text):
            case deepgram.Settings():
                if self._transport is not None:
                    self._transport.send(TEXT, APPLIED)
                self.ready = True
                self.agent.joined(self)
            case deepgram.FunctionCallResponse():
                self.calls_answered += 1
                if self.calls_answered == self.calls_sent:
                    self._resume()

    # --- speaking ----------------------------------------------------------------------------

    def _fire_frame(self, due: int) -> int:
        again = due + self.agent.traffic.step
        if not self._send_frame(due) or again >= self.agent.until:
            return 0
        return again

    def _send_frame(self, due: int) -> bool:
        transport = self._transport
        if transport is None:
            return False
        transport.send(BINARY, self.outgoing.next(due))
        self.agent.note_lag(due)
        return True

    def _fire_step(self, due: int) -> int:
        transport = self._transport
        if transport is None:
            return 0
        steps, length = conversation_script.turn(
            calls=self._turn % conversation_script.CALL_EVERY == 0
        )
        step = steps[self._step]
        self._step += 1
        if step.calls:
            self.calls_sent += 1
            self.called = monotonic()
            transport.send(
                TEXT, conversation_script.call(f"call-{self.outgoing.number}-{self.calls_sent}")
            )
            return 0
        if step.text is None:
            self._send_frame(due)
        else:
            transport.send(TEXT, step.text)
        if self._step == len(steps):
            self._step = 0
            self._turn += 1
            self._turn_began += length
            again = self._turn_began
        else:
            again = self._turn_began + steps[self._step].at
        return again if again < self.agent.until else 0

    def _resume(self) -> None:
        """The function returned: the rest of the turn is as much later as the answer took."""
        steps, _ = conversation_script.turn(calls=True)
        now = monotonic_ns()
        self._turn_began = max(self._turn_began, now - steps[self._step].at)
        if now < self.agent.until:
            self.agent.schedule.add(now, self._fire_step)


class Agent:
    """All connections, what they measure, and what the parent asks for."""

    def __init__(self, schedule: SendSchedule) -> None:
        self.schedule = schedule
        self.traffic: Traffic = ECHO
        self.until = 0
        self.lag = Samples()
        self.up = Samples()
        self.posts = 0
        self._connections: list[AgentConnection] = []
        self._servers: dict[str, asyncio.Server] = {}

    def answer_upgrade(self, request: WSUpgradeRequest) -> WSListener:
        connection = AgentConnection(self, len(self._connections))
        self._connections.append(connection)
        return connection

    def joined(self, connection: AgentConnection) -> None:
        """One that comes while others speak begins soon."""
        now = monotonic_ns()
        if now < self.until:
            connection.begin(now + int(LEAD * 1e9))

    def note_lag(self, due: int) -> None:
        self.lag.due.append(due)
        self.lag.delay.append(monotonic() - due)

    async def handle(self, message: Message) -> Message:
        match message:
            case {"do": "open", "certificate": certificate}:
                return await self._open(certificate)
            case {"do": "expect", "traffic": traffic}:
                self._expect(msgspec.convert(traffic, Traffic))
                return {}
            case {"do": "begin", "at": at, "until": until}:
                self._begin(at, until)
                return {}
            case {"do": "collect", "windows": windows}:
                return self._collect(windows)
        raise ValueError(f"expected something to do, got {message}")

    async def _open(self, certificate: str) -> Message:
        """Listen, with and without TLS; `certificate` is a file that has the key too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        loop = asyncio.get_running_loop()
        plain, secure = [
            await ws_create_server(
                self.answer_upgrade,
                HOST,
                0,
                enable_auto_ping=False,
                max_frame_size=1 << 20,
                ssl=tls,
            )
            for tls in (None, context)
        ]
        orchestrator = await loop.create_server(partial(Orchestrator, self), HOST, 0)
        self._servers = {"plain": plain, "tls": secure, "orchestrator": orchestrator}
        return {name: server.sockets[0].getsockname()[1] for name, server in self._servers.items()}

    def _expect(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.schedule.clear()
        self.until = 0
        self.lag = Samples()
        self.posts = 0
        self._connections = []
        self.up = Samples()
        gc.collect()
        gc.freeze()

    def _begin(self, at: int, until: int) -> None:
        self.until = until
        ready = [each for each in self._connections if each.ready]
        _, length = conversation_script.turn(calls=False)
        spread = length if self.traffic.agent == "conversation" else self.traffic.step
        for place, connection in enumerate(ready):
            connection.begin(at + place * spread // len(ready))

    def _collect(self, windows: list[tuple[int, int]]) -> Message:
        up, lag = (
            [msgspec.to_builtins(samples.between(*window)) for window in windows]
            for samples in (self.up, self.lag)
        )
        connections = [each.report() for each in self._connections if each.incoming.peer >= 0]
        return {"up": up, "lag": lag, "connections": connections, "posts": self.posts}


class Orchestrator(asyncio.Protocol):
    """Answers every POST with the same 201."""

    ANSWER = b'{"id": 7, "title": "buy running shoes"}'

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            lengths = [
                int(line.split(b":")[1])
                for line in self._read[:end].split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ]
            whole = end + 4 + (lengths[0] if lengths else 0)
            if len(self._read) < whole:
                return
            self._read = self._read[whole:]
            self._agent.posts += 1
            self._answer()

    def _answer(self) -> None:
        head = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n"
        size = b"Content-Length: %d\r\n\r\n" % len(self.ANSWER)
        self._transport.write(head + size + self.ANSWER)


async def main() -> None:
    hurry()
    schedule = SendSchedule()
    await obey(Agent(schedule).handle)
    schedule.close()


if __name__ == "__main__":
    uvloop.run(main())
