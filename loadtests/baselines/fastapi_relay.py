"""A relay as most people write it: FastAPI towards the browser, `websockets` towards Deepgram.

Load tests: something to compare with. It adds the key and passes everything on, in two tasks.
Run it with `python -m loadtests.baselines.fastapi_relay`.
"""

from __future__ import annotations

import asyncio
import os

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

app = FastAPI()


@app.websocket("/v1/agent/converse")
async def converse(browser: WebSocket) -> None:
    await browser.accept()
    key = os.environ["DEEPGRAM_API_KEY"]
    async with connect(
        os.environ["DEEPGRAM_AGENT_URL"], additional_headers={"Authorization": f"Token {key}"}
    ) as agent:
        up = asyncio.create_task(browser_to_agent(browser, agent))
        down = asyncio.create_task(agent_to_browser(agent, browser))
        _, pending = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()


async def browser_to_agent(browser: WebSocket, agent: ClientConnection) -> None:
    try:
        while True:
            message = await browser.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("bytes") is not None:
                await agent.send(message["bytes"])
            else:
                await agent.send(message["text"])
    except (WebSocketDisconnect, ConnectionClosed):
        return


async def agent_to_browser(agent: ClientConnection, browser: WebSocket) -> None:
    try:
        async for message in agent:
            if isinstance(message, bytes):
                await browser.send_bytes(message)
            else:
                await browser.send_text(message)
    except (WebSocketDisconnect, ConnectionClosed):
        return


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
