"""The seam between uvicorn and picows, where the real sockets of the other tests do not reach."""

from __future__ import annotations

import pytest

from relay.asgi import Handshake


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
    with pytest.raises(RuntimeError, match="expected accept"):
        await handshake._send({"type": "websocket.send", "text": "too early"})
