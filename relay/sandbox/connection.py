"""A connection of the sandbox: plain HTTP beside the WebSocket.

`websockets` refuses requests that are no GET; Deepgram's API has a POST for temporary tokens on the
same path tree. `AgentConnection` looks at the first bytes and answers a POST itself.
"""

from __future__ import annotations

import email
import time
import uuid
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection

from relay.sandbox.handshake import GRANT_PATH, Gate, credential, grant_seconds, problem_body


class AgentConnection(ServerConnection):
    """A connection that also knows POST. `gate` is set by a subclass made for one server."""

    gate: Gate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The signature belongs to websockets, which calls this.
        super().__init__(*args, **kwargs)
        self._begun = False
        self._post: bytes | None = None

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            if data.startswith(b"POST "):
                self._post = b""
        if self._post is None:
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
    status, answer = _grant(line.split()[1].decode("latin-1"), headers["Authorization"], body, gate)
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(answer)}\r\n"
        f"Connection: close\r\n\r\n"
    ).encode() + answer


def _grant(target: str, authorization: str | None, body: bytes, gate: Gate) -> tuple[int, bytes]:
    """Status and body of the answer."""
    who = credential(authorization, ())
    seconds = grant_seconds(body)
    if target.partition("?")[0] != GRANT_PATH:
        status = 404
    elif who is None or who.scheme != "token" or not gate.admits(who, time.monotonic()):
        status = 401
    elif seconds is None:
        status = 400
    else:
        return 200, gate.grant(seconds, time.monotonic())
    return status, problem_body(status, str(uuid.uuid4()))
