"""The sandbox agent's server: the handshake, and one conversation per connection.

    async with serve(Options(), port=0) as running:
        ...dial running.agent_url...

What is said in a session is the business of `session_runner.SessionRunner`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.http11 import Request, Response

from relay.sandbox import handshake
from relay.sandbox.options import Options
from relay.sandbox.session import AgentSession
from relay.sandbox.session_runner import SessionRunner

KEPT_SESSIONS = 2_000  # in `Running.sessions`
CLOSE_SECONDS = 1.0  # for the client's half of the closing handshake
LARGEST_MESSAGE = 4 * 1024 * 1024


@contextlib.asynccontextmanager
async def serve(
    options: Options, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Running]:
    """A sandbox agent; port 0 takes a free one. On the way out every session is cut.

    Raises OSError if the address cannot be had.
    """
    gate = handshake.Gate(options.api_key)
    running = Running(host, options, gate)
    # Refused and broken handshakes are the sandbox's business, not news.
    log = logging.getLogger("relay.sandbox.websockets")
    log.setLevel(logging.CRITICAL)
    server = await serve_websockets(
        running.converse,
        host,
        port,
        process_request=running.greet,
        process_response=running.label,
        # The first one says the scheme and does not echo the secret.
        select_subprotocol=lambda _, offered: next(iter(offered), None),
        create_connection=type("AgentConnection", (AgentConnection,), {"gate": gate}),
        compression=None,
        max_size=LARGEST_MESSAGE,
        ping_interval=None,  # Deepgram's own were never seen
        close_timeout=CLOSE_SECONDS,
        open_timeout=10 + options.handshake_delay,
        server_header=None,
        logger=log,
    )
    running.port = int(next(iter(server.sockets)).getsockname()[1])
    try:
        yield running
    finally:
        for connection in server.connections:
            connection.transport.abort()
        server.close()
        await server.wait_closed()


class AgentConnection(ServerConnection):
    """A connection that knows POST as well: `websockets` refuses requests that have a body, and
    temporary tokens come by one. `gate` is set by a subclass made for one server."""

    gate: handshake.Gate
    _post = b""  # what has come of one

    def data_received(self, data: bytes) -> None:
        if not self._post and (self.request is not None or not data.startswith(b"POST ")):
            super().data_received(data)
            return
        self._post += data
        answer = handshake.answer_post(self._post, self.gate, time.monotonic())
        if answer is not None:
            self.transport.write(answer)
            self.transport.close()


class Running:
    """A server that is up. `sessions` has the live and the finished ones, oldest first."""

    def __init__(self, host: str, options: Options, gate: handshake.Gate) -> None:
        self.host = host
        self.port = 0
        self.sessions: deque[AgentSession] = deque(maxlen=KEPT_SESSIONS)
        self._options = options
        self._gate = gate
        self._arrived = asyncio.Event()

    @property
    def agent_url(self) -> str:
        return f"ws://{self.host}:{self.port}{handshake.AGENT_PATH}"

    @property
    def api_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def session(self, index: int = 0) -> AgentSession:
        """The `index`-th session; waits until it is there."""
        while len(self.sessions) <= index:
            self._arrived.clear()
            await self._arrived.wait()
        return self.sessions[index]

    # --- what `websockets` asks while a connection is opened -------------------------------------

    async def greet(self, connection: ServerConnection, request: Request) -> Response | None:
        """None to go on with the upgrade, else the answer."""
        await asyncio.sleep(self._options.handshake_delay)
        if request.path.partition("?")[0] != handshake.AGENT_PATH:
            status = 404
        elif self._options.refuse is not None:
            status = self._options.refuse
        elif not self._gate.admits(_who(request), time.monotonic()):
            status = 401
        else:
            return None
        body = handshake.problem_body(status, str(connection.id))
        response = connection.respond(HTTPStatus(status), body.decode())
        del response.headers["Content-Type"]  # or there would be two
        response.headers["Content-Type"] = "application/json"
        return response

    def label(self, connection: ServerConnection, request: Request, response: Response) -> None:
        response.headers["dg-request-id"] = str(connection.id)

    async def converse(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        who = _who(connection.request)
        session = AgentSession(
            request_id=str(connection.id),
            scheme=who.scheme if who else None,
            keep_audio=self._options.keep_audio,
        )
        self.sessions.append(session)
        self._arrived.set()
        try:
            await SessionRunner(connection, self._options, session).run()
        finally:
            code = connection.close_code
            session.note_close(1006 if code is None else code, connection.close_reason or "")


def _who(request: Request) -> handshake.Credential | None:
    offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
    return handshake.credential(request.headers.get("Authorization"), offered)
