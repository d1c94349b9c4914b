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
    """One of the two sockets of a session. A browser has no `other` until the agent is there."""

    def __init__(self, other: Side | None = None) -> None:
        self.transport: WSTransport | None = None
        self.other = other

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        if self.other is not None:
            self.other.other = self

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        other = self.other
        if other is None or other.transport is None or (kind is not BINARY and kind is not TEXT):
            transport.disconnect()  # a browser of ours waits for Welcome
        else:
            other.transport.send(kind, frame.get_payload_as_memoryview())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.disconnect()


async def dial(browser: Side, tls: ssl.SSLContext | None) -> None:
    headers = {"Authorization": f"Token {KEY}"}
    await ws_connect(lambda: Side(browser), AGENT_URL, extra_headers=headers, ssl_context=tls)


async def main() -> None:
    tls = ssl.create_default_context() if AGENT_URL.startswith("wss") else None
    async with asyncio.TaskGroup() as tasks:

        def greet(request: WSUpgradeRequest) -> Side:
            browser = Side()
            tasks.create_task(dial(browser, tls))
            return browser

        server = await ws_create_server(greet, "127.0.0.1", int(os.environ["PORT"]))
        gc.collect()
        gc.freeze()
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
