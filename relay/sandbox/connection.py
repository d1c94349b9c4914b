"""A connection of the sandbox: plain HTTP beside the WebSocket.

`websockets` refuses requests that have a body; Deepgram's API has a POST for temporary tokens on
the same path tree. `AgentConnection` looks at the first bytes and answers a POST itself.
"""

from __future__ import annotations

import email
import time
import uuid
from http import HTTPStatus

import msgspec
from websockets.asyncio.server import ServerConnection

from relay.sandbox.handshake import GRANT_PATH, Gate, credential, problem_body


class AgentConnection(ServerConnection):
    """A connection that also knows POST. `gate` is set by a subclass made for one server."""

    gate: Gate
    _post = b""  # what has come of one

    def data_received(self, data: bytes) -> None:
        if not self._post and (self.request is not None or not data.startswith(b"POST ")):
            super().data_received(data)
            return
        self._post += data
        answer = answer_post(self._post, self.gate)
        if answer is not None:
            self.transport.write(answer)
            self.transport.close()


def answer_post(request: bytes, gate: Gate) -> bytes | None:
    """The whole HTTP answer, or None while the request is not complete."""
    head, blank, body = request.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    headers = email.message_from_bytes(fields)
    if not blank or len(body) < int(headers.get("Content-Length", "0")):
        return None
    who = credential(headers["Authorization"], ())
    status, now = 200, time.monotonic()
    if line.split()[1].partition(b"?")[0] != GRANT_PATH.encode():
        status = 404
    elif who is None or who.scheme != "token" or not gate.admits(who, now):
        status = 401
    else:
        try:
            answer = gate.grant(body, now)
        except msgspec.DecodeError:
            status = 400
    if status != 200:
        answer = problem_body(status, str(uuid.uuid4()))
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(answer)}\r\n"
        f"Connection: close\r\n\r\n"
    ).encode() + answer
