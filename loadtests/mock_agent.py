"""An agent that costs little: takes any key, says what the traffic asks for, measures the way up.

Load tests, in a process of its own (worker_process.py). It plays the Orchestrator too: one answer
to every POST.
"""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic_ns

from picows import WSFrame, WSTransport, WSUpgradeRequest, ws_create_server

from loadtests import conversation_script
from loadtests.processes import HOST
from loadtests.scenarios import Traffic
from loadtests.session_end import (
    BINARY,
    CLOSE,
    DOWN,
    TEXT,
    Collected,
    SessionEnd,
    SessionEnds,
    Tally,
)
from relay.protocol import deepgram

MOST_CALL = 1_500_000_000  # ns that an answer to a function call may take

WELCOME = deepgram.encode(deepgram.Welcome(request_id="0190a0e0-0000-7000-8000-00000000000a"))
APPLIED = deepgram.encode(deepgram.SettingsApplied())

CREATED = b"""HTTP/1.1 201 Created\r
Content-Type: application/json\r
Content-Length: 39\r
\r
{"id": 7, "title": "buy running shoes"}"""


class AgentConnection(SessionEnd):
    """One connection: the agent of one session."""

    def __init__(self, agent: Agent, number: int) -> None:
        super().__init__(
            agent, DOWN, number, agent.traffic.agent_bytes or agent.traffic.frame_bytes
        )
        self.calls_sent = 0
        self._calls_answered = 0
        self._called = 0  # when, ns
        self._echoes = agent.traffic.agent == "echo"
        self._turn = number  # not everyone calls a function at once
        self._turn_began = 0
        self._step = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        transport.send(TEXT, WELCOME)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == BINARY:
            self.take(frame.get_payload_as_memoryview())
            if self._echoes:
                self.send_frame(transport, monotonic_ns())
        elif kind == TEXT:
            self._read(transport, frame.get_payload_as_bytes())
        elif kind == CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def begin(self, at: int) -> None:
        """Speak from `at` on; one that only echoes has nothing to do."""
        if self.ends.traffic.agent == "paced":
            self.ends.schedule.add(at, self.fire)
        elif self.ends.traffic.agent == "conversation":
            self._turn_began = at
            self.ends.schedule.add(at, self._fire_step)

    def tally(self) -> Tally:
        waits = self.calls_sent > self._calls_answered
        if waits and monotonic_ns() - self._called > MOST_CALL:
            self.problems.append("a function call was not answered")
        return super().tally()

    def _read(self, transport: WSTransport, text: bytes) -> None:
        match deepgram.decode_client(text):
            case deepgram.Settings():
                transport.send(TEXT, APPLIED)
            case deepgram.FunctionCallResponse():
                self._calls_answered += 1
                if self._calls_answered == self.calls_sent:
                    self._resume()

    def _fire_step(self, due: int) -> int:
        transport = self.transport
        if transport is None:
            return 0
        steps, length = conversation_script.turn(
            calls=self._turn % conversation_script.CALL_EVERY == 0
        )
        step = steps[self._step]
        self._step += 1
        if step.calls:
            self.calls_sent += 1
            self._called = monotonic_ns()
            call = conversation_script.call(f"call-{self.number}-{self.calls_sent}")
            transport.send(TEXT, call)
            return 0
        if step.text is None:
            self.fire(due)
        else:
            transport.send(TEXT, step.text)
        if self._step == len(steps):
            self._step = 0
            self._turn += 1
            self._turn_began += length
            again = self._turn_began
        else:
            again = self._turn_began + steps[self._step].at
        return again if again < self.ends.until else 0

    def _resume(self) -> None:
        """The function returned: the rest of the turn is as much later as the answer took."""
        steps, _ = conversation_script.turn(calls=True)
        now = monotonic_ns()
        self._turn_began = max(self._turn_began, now - steps[self._step].at)
        if now < self.ends.until:
            self.ends.schedule.add(now, self._fire_step)


class Agent(SessionEnds):
    """All connections, and the Orchestrator."""

    def __init__(self) -> None:
        super().__init__()
        self._posts = 0
        self._connections: list[AgentConnection] = []
        self._servers: list[asyncio.Server] = []

    async def open(self, certificate: str) -> list[int]:
        """Listen: the ports without TLS, with it (a file that has the key too), for POSTs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        for tls in (None, context):
            server = await ws_create_server(
                self._take_in, HOST, 0, enable_auto_ping=False, max_frame_size=1 << 20, ssl=tls
            )
            self._servers.append(server)
        self._servers.append(await asyncio.start_server(self._answer_posts, HOST, 0))
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    async def expect(self, traffic: Traffic) -> None:
        """What the next connections are about."""
        self._posts = 0
        self._connections = []
        self.expect_traffic(traffic)

    async def begin(self, at: int, until: int) -> None:
        """Speak from one instant to another, evenly shifted; returns at once."""
        self.until = until
        _, length = conversation_script.turn(calls=False)
        spread = length if self.traffic.agent == "conversation" else self.traffic.step
        for place, connection in enumerate(self._connections):
            connection.begin(at + place * spread // len(self._connections))

    async def collect(self, start: int, stop: int) -> Collected:
        heard = [each for each in self._connections if each.peer >= 0]
        tallies = {each.peer: each.tally() for each in heard}
        calls = sum(each.calls_sent for each in heard)
        return self.fold(start, stop, tallies, {"calls": calls, "posts": self._posts})

    def _take_in(self, request: WSUpgradeRequest) -> AgentConnection:
        connection = AgentConnection(self, len(self._connections))
        self._connections.append(connection)
        return connection

    async def _answer_posts(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.partition(b":")[2]))
                self._posts += 1
                writer.write(CREATED)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # it was the last
