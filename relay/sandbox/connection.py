"""A connection of the sandbox: plain HTTP beside the WebSocket, and a fast path for audio.

`websockets` refuses requests that are no GET; Deepgram's API has a POST for temporary tokens on the
same path tree. `AgentConnection` looks at the first bytes and answers a POST itself.

Audio is nearly all that passes. A frame that comes or goes alone need not wake a task for it:
`taker` is offered it right away, and `send_now` sends if nothing has to be waited for.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from relay.sandbox.handshake import (
    GRANT_PATH,
    Gate,
    credential,
    grant_seconds,
    problem_body,
)

LARGEST_REQUEST = 64 * 1024
LARGEST_BUFFER = 16 * 1024  # bytes not taken by the socket; with more, sending waits


class AgentConnection(ServerConnection):
    """A connection that also knows POST. `gate` is set by a subclass made for one server.

    `taker` is offered each binary message that no message waits before; what it does not want is
    for `recv`, as is every text. `taken` is to be called for each message that `recv` gave.
    """

    gate: Gate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The signature belongs to websockets, which calls this.
        super().__init__(*args, **kwargs)
        self._post: bytearray | None = None
        self._begun = False
        self.taker: Callable[[bytes], bool] | None = None
        self._waiting = 0  # messages that `recv` is to give

    def taken(self) -> None:
        self._waiting -= 1

    def process_event(self, event: Event) -> None:
        # Of websockets: every frame and the request pass here.
        if isinstance(event, Frame) and event.opcode in _MESSAGE:
            whole = event.fin and event.opcode is Opcode.BINARY and not self._waiting
            if whole and self.taker is not None and self.taker(bytes(event.data)):
                return
            if event.opcode is not Opcode.CONT:
                self._waiting += 1
        super().process_event(event)

    def send_now(self, message: bytes, *, text: bool) -> bool:
        """False, and nothing sent, if this has to be waited for or the connection is not open."""
        if self.state is not State.OPEN:
            return False
        if self.transport.get_write_buffer_size() > LARGEST_BUFFER:
            return False
        broadcast((self,), message, text=text)
        return True

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            if data.startswith(b"POST "):
                self._post = bytearray()
        if self._post is None:
            super().data_received(data)
            return
        self._post += data
        answer = answer_post(bytes(self._post), self.gate)
        if answer is not None:
            self.transport.write(answer)
            self.transport.close()


_MESSAGE = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


def connection_for(gate: Gate) -> type[AgentConnection]:
    return type("AgentConnection", (AgentConnection,), {"gate": gate})


def answer_post(request: bytes, gate: Gate) -> bytes | None:
    """The whole HTTP answer, or None while the request is not complete."""
    head, blank, body = request.partition(b"\r\n\r\n")
    if not blank:
        return _answer(400, problem_body(400, "")) if len(request) > LARGEST_REQUEST else None
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for entry in lines:
        name, _, value = entry.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > LARGEST_REQUEST:
        return _answer(400, problem_body(400, ""))
    if len(body) < int(length):
        return None
    request_id = str(uuid.uuid4())
    path = line.split(" ")[1].partition("?")[0]
    if path != GRANT_PATH:
        return _answer(404, problem_body(404, request_id))
    who = credential(headers.get("authorization"), ())
    if who is None or who.scheme != "token" or not gate.admits(who, time.monotonic()):
        return _answer(401, problem_body(401, request_id))
    ttl = grant_seconds(body[: int(length)])
    if ttl is None:
        return _answer(400, problem_body(400, request_id))
    return _answer(200, gate.grant(ttl, time.monotonic()))


def _answer(status: int, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n"
    )
    return head.encode() + body
