"""The same relay with aiohttp on both sides, as people write it.

Load tests: something to compare with. Run it with `python -m loadtests.baselines.aiohttp_relay`.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import uvloop
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

SESSION: web.AppKey[ClientSession] = web.AppKey("session", ClientSession)

Socket = web.WebSocketResponse | ClientWebSocketResponse


async def converse(request: web.Request) -> web.WebSocketResponse:
    browser = web.WebSocketResponse()
    await browser.prepare(request)
    key = os.environ["DEEPGRAM_API_KEY"]
    async with request.app[SESSION].ws_connect(
        os.environ["DEEPGRAM_AGENT_URL"], headers={"Authorization": f"Token {key}"}
    ) as agent:
        up = asyncio.create_task(forward(browser, agent))
        down = asyncio.create_task(forward(agent, browser))
        _, pending = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
    await browser.close()
    return browser


async def forward(source: Socket, sink: Socket) -> None:
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)


async def session(app: web.Application) -> Any:
    async with ClientSession() as opened:
        app[SESSION] = opened
        yield


def create_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_get("/v1/agent/converse", converse)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(create_app(), host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
