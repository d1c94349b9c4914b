"""Secrets stay inside: the real program with secrets that are easy to find, at debug level, goes
wrong in many ways, and everything that it says is searched."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from config.prompt import load_prompt
from config.settings import CONFIG_DIR
from loadtests.processes import free_port
from relay.sandbox.options import Options
from relay.sandbox.script import Call, Script, Turn
from relay.sandbox.server import serve
from tests.closed_network import Authority, agent_with, socks_proxy
from tests.relay.wires import next_event

VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))
HUSH = {
    "key": "key-hush-4f1c",
    "database": "database-hush-77aa",
    "token": "orchestrator-token-hush-9b2d",
    "signature": "orchestrator-secret-hush-31ce",
    "proxy": "proxy-hush-5e0f",
    "jwt": "jwt-secret-hush-8d7a-at-least-thirty-two-bytes",
    "typed": "a-sentence-that-is-hush-2c9b",
    "argument": "an-argument-that-is-hush-0d4e",
}
PROXY_BASIC = base64.b64encode(f"clerk:{HUSH['proxy']}".encode()).decode()


def environment(database_url, data_dir, **more):
    clean = {
        n: v
        for n, v in os.environ.items()
        if not n.startswith(("RELAY_", "DEEPGRAM_", "ORCHESTRATOR_", "DATABASE_"))
    }
    return (
        clean
        | {
            "DEEPGRAM_API_KEY": HUSH["key"],
            "DATABASE_URL": database_url.replace("postgres@", f"postgres:{HUSH['database']}@"),
            "ORCHESTRATOR_TOKEN": HUSH["token"],
            "ORCHESTRATOR_SECRET": HUSH["signature"],
            "RELAY_AUTH": "jwt",
            "RELAY_JWT_SECRET": HUSH["jwt"],
            "RELAY_DATA_DIR": str(data_dir),
            "RELAY_LOG_LEVEL": "debug",
            "RELAY_DIRECT_TRANSPORT": "on",
        }
        | more
    )


class Relay:
    """`voice-relay serve` in a process of its own; `lines` is all that it says."""

    def __init__(self, environ):
        self.port = int(environ["RELAY_PORT"])
        self.lines = []
        self.said = asyncio.Condition()
        self.environ = environ

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            *(VOICE_RELAY, "serve"),
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.reader = asyncio.create_task(self._read())
        await self.until("event=relay_started")

    async def _read(self):
        async for line in self.process.stdout:
            async with self.said:
                self.lines.append(line.decode())
                self.said.notify_all()

    async def until(self, text):
        async with asyncio.timeout(40), self.said:
            await self.said.wait_for(lambda: text in self.output)

    @property
    def output(self):
        return "".join(self.lines)

    async def stop(self):
        self.process.terminate()
        await self.process.wait()
        await self.reader


@asynccontextmanager
async def relaying(environ):
    relay = Relay(environ)
    try:
        await relay.start()
        yield relay
    finally:
        await relay.stop()


def make_token():
    claims = {"sub": "user-1", "aud": "authenticated", "exp": int(time.time()) + 600}
    return jwt.encode(claims, HUSH["jwt"], algorithm="HS256")


def search(output, *more):
    prompt = load_prompt(CONFIG_DIR / "system_prompt.md").text
    phrases = [line for line in prompt.splitlines() if len(line) > 40 and "{" not in line]
    assert phrases
    for secret in (*HUSH.values(), PROXY_BASIC, *phrases, *more):
        assert secret not in output


async def test_nothing_secret_is_said_when_everything_goes_wrong(database_url, tmp_path):
    goal = Call("create_goal", {"title": HUSH["argument"], "deadline": "none"})
    script = Script(turns=(Turn(when="text", calls=(goal,), say=("Done.",)),), loop=True)
    token = make_token()
    bodies = []
    async with socks_proxy() as proxy:
        wrong = f"socks5://clerk:{HUSH['proxy']}@127.0.0.1:{proxy.port}"
        environ = environment(
            database_url,
            tmp_path,
            ORCHESTRATOR_URL="https://orchestrator.example",
            RELAY_EGRESS_PROXY=wrong,
            DEEPGRAM_API_URL="https://api.example",
            RELAY_JWT_JWKS_URL="https://keys.example/jwks",
            RELAY_PORT=str(free_port()),
        )
        sandbox = serve(Options(script=script, greeting_delay=0.0, api_key=HUSH["key"]))
        agent = await sandbox.__aenter__()
        async with (
            relaying(environ | {"DEEPGRAM_AGENT_URL": agent.agent_url}) as relay,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{relay.port}/api/v1/voice",
                headers={"Authorization": f"Bearer {token}"},
                trust_env=False,
            ) as client,
        ):
            # Requests that are wrong, some of them with a token that is.
            unknown = jwt.encode({"sub": "x"}, "x" * 32, "HS256", {"kid": "k"})
            forged = unknown.replace("HS256", "RS256")
            for header in (f"Bearer {forged}", f"Bearer {token}x", f"Basic {token}"):
                answer = await client.get("/conversations", headers={"Authorization": header})
                assert answer.status_code in (401, 503)
                bodies.append(answer.text)
            for body in (b"{", b'{"timezone": 7}', b'{"transport": "direct"}'):
                answer = await client.post("/session", content=body)
                assert answer.status_code >= 400
                bodies.append(answer.text)

            # A session, a call that cannot be delivered, an agent that goes away.
            begun = (await client.post("/session")).json()
            stranger = begun["websocket_url"].replace(begun["session_id"], str(uuid4()))
            ticket = ["relay.v1", begun["ticket"]]
            with pytest.raises(InvalidStatus):
                await connect(stranger, subprotocols=ticket)
            async with connect(begun["websocket_url"], subprotocols=ticket) as browser:
                await next_event(browser, "SettingsApplied")
                typed = {"type": "InjectUserMessage", "content": HUSH["typed"]}
                await browser.send(json.dumps(typed))
                await browser.send("{" + HUSH["typed"])
                await relay.until("orchestrator_failed")
                await sandbox.__aexit__(None, None, None)
                await relay.until("agent_redialled")
            resume = begun["ticket"]
        output = relay.output

    for line in ("orchestrator_failed", "proxy_auth", "temporary_token_failed", "session_ended"):
        assert line in output, output
    search(output + "".join(bodies), token, token.split(".")[2], resume)


async def test_nothing_secret_is_said_about_an_agent_behind_a_proxy_and_tls(database_url, tmp_path):
    authority = Authority(tmp_path)
    async with socks_proxy() as proxy, agent_with(authority.issue()) as (_, port):
        environ = environment(
            database_url,
            tmp_path / "data",
            ORCHESTRATOR_URL="http://127.0.0.1:1",
            DEEPGRAM_AGENT_URL=f"wss://agent.example:{port}/v1/agent/converse",
            RELAY_EGRESS_PROXY=f"socks5://clerk:pass%3Aword%2F1@127.0.0.1:{proxy.port}",
            RELAY_PORT=str(free_port()),
            RELAY_SETUP_SECONDS="2",
            RELAY_AUTH="mock",
        )
        async with relaying(environ) as relay:
            headers = {"Authorization": f"Bearer {make_token()}"}
            url = f"http://127.0.0.1:{relay.port}/api/v1/voice/session"
            async with httpx.AsyncClient(trust_env=False) as client:
                begun = (await client.post(url, headers=headers)).json()
            ticket = ["relay.v1", begun["ticket"]]
            async with connect(begun["websocket_url"], subprotocols=ticket) as browser:
                failed = await next_event(browser, "RelayError")
            await relay.until("session_ended")

    assert failed["code"] == "agent_unreachable"
    assert "tls_untrusted" in relay.output
    assert "sign_in_mocked" in relay.output
    search(relay.output + json.dumps(failed), "pass%3Aword%2F1", "pass:word/1", begun["ticket"])


async def test_nothing_secret_is_said_by_commands_that_fail(database_url, tmp_path):
    away = f"postgresql://user:{HUSH['database']}@127.0.0.1:1/nothing"
    everywhere = environment(
        away,
        tmp_path,
        ORCHESTRATOR_URL=f"https://user:{HUSH['token']}@host",
        RELAY_EGRESS_PROXY=f"ftp://clerk:{HUSH['proxy']}@host",
        HTTPS_PROXY=f"http://clerk:{HUSH['proxy']}@host:port",
        RELAY_JWT_SECRET=HUSH["jwt"][:20],
        RELAY_ALLOWED_ORIGINS=f"https://clerk:{HUSH['proxy']}@host",
    )
    right = environment(
        away,
        tmp_path,
        ORCHESTRATOR_URL="http://127.0.0.1:1",
        RELAY_EGRESS_PROXY=f"http://clerk:{HUSH['proxy']}@127.0.0.1:1",
        RELAY_PORT="0",
    )
    runs = [
        (everywhere, ["serve"]),
        (everywhere, ["check"]),
        (right, ["serve"]),
        (right, ["doctor"]),
        (right, ["migrate"]),
        (right, ["talk", "--url", "http://127.0.0.1:1", "--say", "x", "--token", HUSH["token"]]),
    ]

    async def run(environ, command):
        process = await asyncio.create_subprocess_exec(
            *(VOICE_RELAY, *command),
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        return " ".join(command), process.returncode, out.decode()

    async with asyncio.TaskGroup() as tasks:
        done = [tasks.create_task(run(*one)) for one in runs]
    for name, code, output in [task.result() for task in done]:
        assert code == 1, (name, output)
        assert "Traceback" not in output
        for secret in (*HUSH.values(), HUSH["jwt"][:20], PROXY_BASIC):
            assert secret not in output, name
