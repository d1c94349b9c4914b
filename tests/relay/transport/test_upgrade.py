"""The seam between uvicorn and picows, where the real sockets of the other tests do not reach."""

from __future__ import annotations

import pytest

from relay.transport.request_head import Head
from relay.transport.upgrade import Handshake


class Config:
    loaded_app = None
    root_path = ""


class State:
    """uvicorn's."""

    def __init__(self):
        self.connections, self.tasks, self.default_headers = set(), set(), []


class Gone:
    """A transport whose other end has left: writing to it is an error, as with uvloop."""

    def is_closing(self):
        return True

    def write(self, data):
        raise RuntimeError("the handler is closed")

    def close(self):
        raise AssertionError("closed twice")


@pytest.fixture
async def handshake():
    made = Handshake(Config(), State(), {})
    made.connection_made(Gone())
    return made


async def test_a_refusal_of_somebody_who_has_left_goes_nowhere(handshake):
    await handshake._send({"type": "websocket.http.response.start", "status": 503})
    await handshake._send({"type": "websocket.http.response.body", "body": b"{}"})
    await handshake._send({"type": "websocket.close"})


async def test_what_asgi_does_not_know_is_a_defect(handshake):
    with pytest.raises(RuntimeError, match="expected a refusal"):
        await handshake._send({"type": "websocket.send", "text": "too early"})


class Open(Gone):
    """A transport whose other end is there."""

    def __init__(self):
        self.written, self.closed = b"", False

    def is_closing(self):
        return self.closed

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    def get_extra_info(self, name):
        return None


async def test_a_head_that_is_refused_leaves_nothing_behind():
    state, transport = State(), Open()
    handshake = Handshake(Config(), state, {})
    handshake.connection_made(transport)
    assert state.connections == {handshake}

    handshake.begin(Head("GET", b"/", "1.1", []))

    assert transport.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert transport.closed
    assert state.connections == state.tasks == set()
    handshake.data_received(b"more")
    assert transport.written.count(b"HTTP/1.1") == 1
