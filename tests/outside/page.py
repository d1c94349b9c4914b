"""A page at a browser, and an agent that says what a test wants: what is shown, and stored.

The page is written as docs/protocol.md says: it numbers its bubbles from `last_seq` on, and a tick
stands at the bubble of its number.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from tests.relay.wires import Agent

API = "/api/v1/voice"
SECONDS = 30.0  # on a machine with other things to do


class Page:
    """`bubbles` by number, as (role, content); `ticks` are the numbers that are stored."""

    def __init__(self, relay: Any, http: httpx.AsyncClient, begun: dict[str, Any]) -> None:
        self._relay, self._http = relay, http
        self.begun = begun
        self.conversation_id = begun["conversation_id"]
        self.bubbles: dict[int, tuple[str, Any]] = {}
        self.ticks: dict[int, str] = {}
        self._seq = 0
        self._ticket = begun.get("ticket")

    async def attach(self, relay: Any | None = None) -> None:
        """Returns when the relay has said which session this is."""
        port = (relay or self._relay).port
        url = f"ws://127.0.0.1:{port}{API}/session/{self.begun['session_id']}/ws"
        self.socket = await connect(url, subprotocols=["relay.v1", self._ticket])
        await self.until(lambda event: event["type"] == "RelaySession")

    async def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Read on to the first event that makes `condition` true."""
        async with asyncio.timeout(SECONDS):
            while True:
                frame = await self.socket.recv()
                if isinstance(frame, bytes):
                    continue
                event = json.loads(frame)
                self._take(event)
                if condition(event):
                    return event

    async def until_ticked(self, seq: int) -> None:
        """The bubble of this number, and so all before it, is stored."""
        await self.until(lambda _: seq in self.ticks)

    def _take(self, event: dict[str, Any]) -> None:
        match event:
            case {"type": "RelaySession"}:
                self._ticket = event["resume_ticket"]
                self._seq = event.get("last_seq", self._seq)
            case {"type": "ConversationText"}:
                self._seq += 1
                self.bubbles[self._seq] = event["role"], event["content"]
            case {"type": "RelayMessageSaved"}:
                self.ticks[event["seq"]] = event["role"]

    async def stored(self) -> dict[int, tuple[str, str]]:
        """What REST says of the conversation, as bubbles."""
        url = f"{self._relay.url}{API}/conversations/{self.conversation_id}/messages?limit=200"
        items = (await self._http.get(url)).raise_for_status().json()["items"]
        return {item["seq"]: (item["role"], item["content"]) for item in items}


class Talk:
    """`await talk.page(relay)` is somebody in a conversation with `talk.agent`."""

    def __init__(self, stage: Any, agent: Agent, url: str) -> None:
        self.agent = agent
        self.http = stage.http
        self._stage, self._url = stage, url

    def relay(self, **environ: str) -> Any:
        """A relay whose agent this is, not started yet."""
        return self._stage.relay(DEEPGRAM_AGENT_URL=self._url, RELAY_DIAL_AHEAD="0", **environ)

    async def begin(self, relay: Any, **wish: Any) -> Page:
        """Somebody who begins a session, and has not attached."""
        answer = await self.http.post(f"{relay.url}{API}/session", json=wish)
        return Page(relay, self.http, answer.raise_for_status().json())

    async def page(self, relay: Any, *, at: Any | None = None, **wish: Any) -> Page:
        """Somebody who begins a session and attaches, at another relay if it is said so; the agent
        is ready."""
        page = await self.begin(relay, **wish)
        await page.attach(at)
        await page.until(lambda event: event["type"] == "SettingsApplied")
        return page

    async def say(self, text: str | bytes | dict[str, Any]) -> None:
        """One message of the agent, as it is: a string is sent as it stands."""
        sent = json.dumps(text) if isinstance(text, dict) else text
        await self.agent.connections[-1].send(sent, text=True)

    async def line(self, page: Page, role: str, content: str) -> None:
        """What is said is shown and stored."""
        await self.say({"type": "ConversationText", "role": role, "content": content})
        await page.until(lambda event: event.get("content") == content)
        await page.until_ticked(max(page.bubbles))

    @property
    def settings(self) -> list[dict[str, Any]]:
        """What agents were told, each."""
        return [text for text in self.agent.texts if text["type"] == "Settings"]


@asynccontextmanager
async def talking(stage: Any) -> AsyncIterator[Talk]:
    agent = Agent()
    async with serve(agent.handle, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        yield Talk(stage, agent, f"ws://127.0.0.1:{port}/v1/agent/converse")
