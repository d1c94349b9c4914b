"""The least that a relay on picows can do: every message goes on as it is.

Load tests: what Python, uvloop and picows cost before a relay does anything of its own. It looks at
nothing, bounds nothing and handles no trouble. Run it with
`python -m loadtests.baselines.picows_relay`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import ssl

import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_connect,
    ws_create_server,
)

KEY = os.environ.get("DEEPGRAM_API_KEY", "")
AGENT_URL = os.environ.get("DEEPGRAM_AGENT_URL", "")
BINARY, TEXT = WSMsgType.BINARY, WSMsgType.TEXT


class Side(WSListener):
    """One of the two sockets of a session; what comes before the other is there waits."""

    def __init__(self) -> None:
        self.transport: WSTransport | None = None
        self.other: Side | None = None
        self._early: list[tuple[WSMsgType, bytes]] = []

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        other = self.other
        if kind is not BINARY and kind is not TEXT:
            transport.disconnect()
        elif other is not None and other.transport is not None:
            other.transport.send(kind, frame.get_payload_as_memoryview())
        else:
            self._early.append((kind, frame.get_payload_as_bytes()))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.disconnect()

    def join(self, other: Side) -> None:
        """Both are open: send what waited."""
        assert other.transport is not None
        self.other = other
        for kind, payload in self._early:
            other.transport.send(kind, payload)
        self._early.clear()


class Browser(Side):
    def __init__(self, tasks: asyncio.TaskGroup, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._tasks = tasks
        self._tls = tls

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        self._tasks.create_task(self._dial())

    async def _dial(self) -> None:
        agent = Side()
        agent.other = self
        headers = {"Authorization": f"Token {KEY}"}
        await ws_connect(lambda: agent, AGENT_URL, extra_headers=headers, ssl_context=self._tls)
        self.join(agent)


async def main() -> None:
    tls = ssl.create_default_context() if AGENT_URL.startswith("wss") else None
    async with asyncio.TaskGroup() as tasks:

        def greet(request: WSUpgradeRequest) -> Browser:
            return Browser(tasks, tls)

        server = await ws_create_server(greet, "127.0.0.1", int(os.environ["PORT"]))
        gc.collect()
        gc.freeze()
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
