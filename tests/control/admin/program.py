"""The whole program in this process, as an administrator and its users see it."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
import jwt
from websockets.asyncio.client import connect

from config.loader import load
from config.settings import CONFIG_DIR
from control.app import create_app
from control.http.server import listen, serving
from tests.closed_network import settings_of
from tests.relay.wires import next_event

KEY = "the-key-of-an-administrator"
JWT_SECRET = "a-secret-for-tokens-of-thirty-two-bytes"
API = "/api/v1/voice"


def token(subject, **claims):
    claims = {"sub": subject, "aud": "authenticated", "exp": int(time.time()) + 600, **claims}
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


class Program:
    """`url` is for everybody, `admin_url` for administrators."""

    def __init__(self, app, ports, data_dir):
        self.url, self.admin_url = (f"http://127.0.0.1:{port}" for port in ports)
        self.data_dir = data_dir
        self.journal = data_dir / "journal"
        self.store = app.dependencies["store"].dependency()
        self.meter = app.dependencies["meter"].dependency()
        self.node_id = app.dependencies["node_id"].dependency()

    def administrator(self, secret=KEY):
        headers = bearer(secret) if secret else {}
        url = f"{self.admin_url}/admin/api"
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=30)

    async def ask(self, method, path, **more):
        """The answer to who has the key, which is well."""
        async with self.administrator() as client:
            answer = await client.request(method, path, **more)
            assert answer.is_success, answer.text
            return answer.json() if answer.content else None

    async def ask_metrics(self):
        async with httpx.AsyncClient(base_url=self.admin_url) as client:
            return (await client.get("/metrics")).text

    def user(self, subject):
        return httpx.AsyncClient(base_url=self.url, headers=bearer(token(subject)))

    async def fetch(self, sql, *values):
        async with self.store.transaction() as connection:
            return await connection.fetch(sql, *values)


class Talking:
    """A browser of this person with a live session; `ticket` lets it come back."""

    def __init__(self, begun, socket, ticket):
        self.ticket = ticket
        self.session = UUID(begun["session_id"])
        self.conversation = UUID(begun["conversation_id"])
        self.socket = socket

    async def type(self, text):
        """Say it; Postgres has it on return."""
        await self.socket.send(json.dumps({"type": "InjectUserMessage", "content": text}))
        return await next_event(self.socket, "RelayMessageSaved")


@asynccontextmanager
async def talking(program, subject):
    async with program.user(subject) as client:
        begun = (await client.post(f"{API}/session")).json()
    url = begun["websocket_url"]
    async with connect(url, subprotocols=["relay.v1", begun["ticket"]]) as socket:
        introduced = await next_event(socket, "RelaySession")
        await next_event(socket, "SettingsApplied")
        yield Talking(begun, socket, introduced["resume_ticket"])


@asynccontextmanager
async def running(database_url, data_dir, agent_url, **variables):
    settings = settings_of(
        DATABASE_URL=database_url,
        DEEPGRAM_AGENT_URL=agent_url,
        ORCHESTRATOR_URL="http://127.0.0.1:1",
        RELAY_AUTH="jwt",
        RELAY_JWT_SECRET=JWT_SECRET,
        RELAY_ADMIN_KEY=KEY,
        RELAY_METRICS_PORT="9",  # that there is one; the sockets are ours
        RELAY_DATA_DIR=str(data_dir),
        RELAY_DIAL_AHEAD="0",
        RELAY_RECORD_DIR=str(data_dir / "recordings"),
        RELAY_RECORD_CONTENT="on",
        **variables,
    )
    app = create_app(settings, load(CONFIG_DIR, {}))
    doors = [listen("127.0.0.1", 0), listen("127.0.0.1", 0)]
    async with serving(app, *doors):
        yield Program(app, [door.getsockname()[1] for door in doors], data_dir)
