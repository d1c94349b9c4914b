"""The server's door: plain HTTP beside the WebSocket.

`websockets` refuses requests that are no GET; Deepgram's API has a POST for temporary tokens on the
same path tree. `Door` looks at the first bytes of a connection and answers a POST itself.
"""

from __future__ import annotations

import time
import uuid
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection

from relay.sandbox.handshake import (
    GRANT_PATH,
    Gate,
    credential,
    grant_seconds,
    problem_body,
)

LARGEST_REQUEST = 64 * 1024


class Door(ServerConnection):
    """A connection that also knows POST. `gate` is set by a subclass made for one server."""

    gate: Gate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The signature belongs to websockets, which calls this.
        super().__init__(*args, **kwargs)
        self._post: bytearray | None = None
        self._begun = False

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


def door_for(gate: Gate) -> type[Door]:
    return type("Door", (Door,), {"gate": gate})


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
