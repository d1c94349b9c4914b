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
from loadtests.session_end import BINARY, CLOSE, DOWN, TEXT, SessionEnd, SessionEnds, Tally
from relay.protocol import deepgram

MOST_CALL = 1_500_000_000  # ns that an answer to a function call may take

WELCOME = deepgram.encode(deepgram.Welcome(request_id="0190a0e0-0000-7000-8000-00000000000a"))
APPLIED = deepgram.encode(deepgram.SettingsApplied())

NOTHING_KNOWN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"  # of the user
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
        self._calls_open = 0
        self._called = 0  # when, ns
        self._plays = agent.traffic.agent
        self._script = conversation_script.play(number)  # not everyone calls a function at once
        self._step = next(self._script)
        self._frames = 0  # of audio, in the script
        self._began = 0  # the script, in ns; later by what calls took

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        transport.send(TEXT, WELCOME)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == BINARY:
            self.take(frame.get_payload_as_memoryview())
            if self._plays == "echo":
                self.send_frame(transport, monotonic_ns())
        elif kind == TEXT:
            self._read(transport, frame.get_payload_as_bytes())
        elif kind == CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def begin(self, at: int) -> None:
        """Speak from `at` on; one that only echoes has nothing to do."""
        if self._plays == "paced":
            super().begin(at)
        elif self._plays == "conversation":
            self._began = at
            self.ends.schedule.add(at, self._fire_step)

    def tally(self) -> Tally:
        if self._calls_open and monotonic_ns() - self._called > MOST_CALL:
            self.problems.append("a function call was not answered")
        return super().tally()

    def _read(self, transport: WSTransport, text: bytes) -> None:
        match deepgram.decode_client(text):
            case deepgram.Settings():
                transport.send(TEXT, APPLIED)
            case deepgram.FunctionCallResponse():
                self._calls_open -= 1
                if not self._calls_open:
                    self._resume()

    def _fire_step(self, due: int) -> int:
        transport = self.transport
        if transport is None:
            return 0
        step = self._step
        self._step = next(self._script)
        if step.calls:
            self._calls_open += 1
            self._called = monotonic_ns()
            self.ends.counts["calls"] += 1
            call_id = f"call-{self.number}-{self.ends.counts['calls']}"
            transport.send(TEXT, conversation_script.call(call_id))
            return 0
        if step.text is None:
            self._frames += 1
            if self._frames % self.ends.traffic.thinned == 0:
                self.fire(due)
        else:
            transport.send(TEXT, step.text)
        again = self._began + self._step.at
        return again if again < self.ends.until else 0

    def _resume(self) -> None:
        """The function returned: the rest of the turn is as much later as the answer took."""
        now = monotonic_ns()
        self._began = max(self._began, now - self._step.at)
        if now < self.ends.until:
            self.ends.schedule.add(now, self._fire_step)


class Agent(SessionEnds):
    """All connections, and the Orchestrator."""

    def __init__(self) -> None:
        super().__init__()
        self._servers: list[asyncio.Server] = []

    async def open(self, certificate: str) -> list[int]:
        """Listen: the ports without TLS, with it (a file that has the key too), for HTTP."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        for tls in (None, context):
            server = await ws_create_server(
                self._take_in, HOST, 0, enable_auto_ping=False, max_frame_size=1 << 20, ssl=tls
            )
            self._servers.append(server)
        self._servers.append(await asyncio.start_server(self._answer_requests, HOST, 0))
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    async def expect(self, traffic: Traffic) -> None:
        """What the next connections are about."""
        self.expect_traffic(traffic)

    def spread(self) -> int:
        is_conversation = self.traffic.agent == "conversation"
        return conversation_script.TURN_NS if is_conversation else super().spread()

    def _take_in(self, request: WSUpgradeRequest) -> AgentConnection:
        connection = AgentConnection(self, len(self.sessions))
        self.sessions.append(connection)
        return connection

    async def _answer_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.partition(b":")[2]))
                if head.startswith(b"GET "):
                    writer.write(NOTHING_KNOWN)
                    continue
                self.counts["posts"] += 1
                writer.write(CREATED)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # it was the last
