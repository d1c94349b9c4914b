"""The whole program in a network that allows nothing but a proxy: agent, Orchestrator, temporary
tokens and the keys of the sign-in are behind it, with TLS of a private authority."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import connect

from config.intents import Intent
from config.loader import load
from config.settings import CONFIG_DIR
from control.app import create_app
from control.http.client import open_client
from control.outbox import orchestrator_client
from control.sessions.deepgram_token import Minter, TokenUnavailable
from relay.functions.submission import Delayed, Submission, Submitted
from tests.closed_network import (
    PASSWORD,
    agent_with,
    egress_of,
    settings_of,
    socks_proxy,
)
from tests.relay.wires import listening, next_event

INTENT = Intent(
    name="GOAL",
    title="Goal",
    function="create_goal",
    description="Makes a goal",
    parameters={"type": "object"},
    path="/goals",
)


class Service:
    """An HTTP server that keeps what it got and answers each request with `body`."""

    def __init__(self, body):
        self.body = json.dumps(body).encode()
        self.got = []
        self.writers = []
        self.port = 0

    async def handle(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = [line for line in head.lower().split(b"\r\n") if b"content-length:" in line]
            size = int(found[0].split(b":")[1]) if found else 0
            self.got.append((head.decode(), await reader.readexactly(size)))
            length = f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
            writer.write(f"HTTP/1.1 200 OK\r\n{length}".encode() + self.body)
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # it was closed again
        writer.close()
        self.writers.append(writer)


@asynccontextmanager
async def service(tls, body):
    it = Service(body)
    server = await asyncio.start_server(it.handle, "127.0.0.1", 0, ssl=tls)
    it.port = server.sockets[0].getsockname()[1]
    async with server:
        yield it
    for writer in it.writers:  # a polite end of TLS waits for the other side
        writer.transport.abort()


def make_submission():
    return Submission(
        intent=INTENT,
        parameters={"title": "swim"},
        user_id="user-1",
        conversation_id="0192d3c4-0000-7000-8000-000000000001",
        call_id="call_1",
        seconds=5.0,
    )


async def test_a_conversation_a_call_and_audio_pass_through_the_proxy(
    database_url, tmp_path, authority, proxy
):
    async with (
        agent_with(authority.issue("agent.example")) as (agent, agent_port),
        service(authority.issue("planner.example"), {"id": 7}) as planner,
    ):
        settings = settings_of(
            DATABASE_URL=database_url,
            DEEPGRAM_API_KEY="the-real-key",
            DEEPGRAM_AGENT_URL=f"wss://agent.example:{agent_port}/v1/agent/converse",
            ORCHESTRATOR_URL=f"https://planner.example:{planner.port}/api",
            RELAY_DATA_DIR=str(tmp_path),
            RELAY_EGRESS_PROXY=proxy.url,
            RELAY_TLS_CA_FILE=str(authority.file),
        )
        async with (
            listening(create_app(settings, load(CONFIG_DIR, {}))) as (port, _),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        ):
            begun = (await client.post("/api/v1/voice/session")).json()
            ticket = ["relay.v1", begun["ticket"]]
            async with connect(begun["websocket_url"], subprotocols=ticket) as browser:
                await next_event(browser, "SettingsApplied")
                frames = [bytes([number]) * 640 for number in range(50)]
                for frame in frames:
                    await browser.send(frame)
                await agent.until(lambda: len(agent.audio) == 50)
                arguments = json.dumps({"title": "swim", "deadline": "none"})
                call = {"id": "call_1", "name": "create_goal", "arguments": arguments}
                await agent.say(
                    type="FunctionCallRequest", functions=[call | {"client_side": True}]
                )
                told = await next_event(browser, "RelayIntent")
                assert told["status"] == "submitting"
                assert (await next_event(browser, "RelayIntent"))["status"] == "submitted"

    assert agent.audio == frames
    assert agent.headers["authorization"] == "Token the-real-key"
    (asked, _), (head, body) = planner.got
    assert asked.startswith("GET /api/voice-context?user_id=")
    assert head.startswith("POST /api/goals ")
    assert json.loads(body)["call_id"] == told["id"]
    await proxy.logs(f"agent.example:{agent_port}")
    await proxy.logs(f"planner.example:{planner.port}")


async def test_all_four_go_through_each_kind_of_proxy(authority, proxy, secure_proxy):
    answer = {"access_token": "granted", "expires_in": 60, "keys": []}
    async with service(authority.issue("api.example"), answer) as api, socks_proxy() as socks:
        for url in (proxy.url, secure_proxy.url, socks.url):
            egress = egress_of(HTTPS_PROXY=url, RELAY_TLS_CA_FILE=str(authority.file))
            base = f"https://api.example:{api.port}"
            async with open_client(egress, base) as client:
                assert (await client.get(f"{base}/keys")).status_code == 200
            async with orchestrator_client.connect(base, "token", egress=egress) as planner:
                assert isinstance(await planner.submit(make_submission()), Submitted)
            minter = Minter(base, settings_of().deepgram_api_key.reveal, egress, seconds=60)
            async with minter.running():
                assert (await minter.mint()).access_token == "granted"

    assert len(api.got) == 9
    grants = [head for head, _ in api.got if "/v1/auth/grant" in head]
    assert all(
        "Authorization: Token " in head or "authorization: Token " in head for head in grants
    )
    assert not any("proxy-authorization" in head.lower() for head, _ in api.got)


@pytest.mark.parametrize(
    ("issued", "variables", "word"),
    [
        ({}, {}, "tls_untrusted"),
        ({"expired": True}, {"RELAY_TLS_CA_FILE": "ours"}, "tls_expired"),
        ({"name": "other.example"}, {"RELAY_TLS_CA_FILE": "ours"}, "tls_name"),
        ({}, {"RELAY_EGRESS_PROXY": "wrong"}, "proxy_auth"),
        ({}, {"RELAY_EGRESS_PROXY": "http://127.0.0.1:1"}, "proxy_unreachable"),
    ],
)
async def test_what_goes_wrong_has_the_same_name_for_orchestrator_and_token(
    authority, proxy, caplog, issued, variables, word
):
    known = {"ours": str(authority.file), "wrong": proxy.url_for("clerk:wrong-password")}
    variables = {name: known.get(value, value) for name, value in variables.items()}
    egress = egress_of(**{"RELAY_EGRESS_PROXY": proxy.url} | variables)
    tls = authority.issue(**{"name": "api.example"} | issued)
    caplog.set_level(logging.INFO)
    async with service(tls, {}) as api:
        url = f"https://api.example:{api.port}"
        async with orchestrator_client.connect(url, "token-hush", egress=egress) as planner:
            outcome = await planner.submit(make_submission())
        minter = Minter(url, settings_of().deepgram_api_key.reveal, egress, seconds=60)
        async with minter.running():
            with pytest.raises(TokenUnavailable):
                await minter.mint()

    assert isinstance(outcome, Delayed)
    assert outcome.unsent  # so that it may be sent again, whatever the intent says
    assert word in outcome.cause
    failed = [r.getMessage() for r in caplog.records if "failed" in r.getMessage()]
    assert len(failed) == 2
    for line in failed:
        assert word in line
        for secret in ("token-hush", PASSWORD, "wrong-password", "pass%3Aword"):
            assert secret not in line
