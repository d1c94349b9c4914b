"""`voice-relay doctor`: each hop is broken for real, and is the one that is named."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from config.loader import load
from config.settings import CONFIG_DIR, STAND_INS
from control.app import create_app
from control.doctor.doctor import examine
from control.doctor.report import write_json, write_text
from relay.sandbox.options import Options
from relay.sandbox.script import Ending
from relay.sandbox.server import serve
from tests.closed_network import (
    PASSWORD,
    agent_with,
    settings_of,
    socks_proxy,
)
from tests.relay.wires import listening

KEY = "the-real-key"
VOICE_RELAY = str(Path(sys.executable).with_name("voice-relay"))


@asynccontextmanager
async def http_server(head="HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"):
    """It answers every request with `head`; yields its address."""

    async def answer(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head.encode())
        except asyncio.IncompleteReadError:
            pass  # only to see whether somebody listens
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def environ(shared_database_url, tmp_path):
    """An environment in which everything is well; `agent` is the sandbox."""
    async with serve(Options(api_key=KEY)) as agent, http_server() as planner:
        yield Environ(
            agent,
            STAND_INS
            | {
                "DEEPGRAM_API_KEY": KEY,
                "DEEPGRAM_AGENT_URL": agent.agent_url,
                "DATABASE_URL": shared_database_url,
                "ORCHESTRATOR_URL": f"http://{planner}",
                "RELAY_AUTH": "mock",
                "RELAY_DATA_DIR": str(tmp_path / "data"),
            },
        )


class Environ:
    def __init__(self, agent, values):
        self.agent = agent
        self.values = values

    async def examine(self, *, settings=False, seconds=3, **changes):
        report = await examine(self.values | changes, settings=settings, seconds=seconds)
        shown = write_text(report) + write_json(report).decode()
        for secret in (KEY, PASSWORD, "pass%3Aword", "wrong-password", "hush"):
            assert secret not in shown
        return report

    async def failure(self, hop, **changes):
        """Exactly this hop fails; its line."""
        report = await self.examine(**changes)
        failed = [one for one in report.findings if one.status == "failed"]
        assert [one.hop for one in failed] == [hop], write_text(report)
        assert not report.is_well
        return f"{failed[0].detail}: {failed[0].advice}"


async def test_all_is_well_with_one_session_without_audio_that_is_closed(environ):
    report = await environ.examine(settings=True)

    assert report.is_well, write_text(report)
    seen = {one.hop: one.status for one in report.findings}
    for hop in (
        *("data dir", "database connect", "database migrations", "agent dns", "agent connect"),
        *("agent upgrade", "agent welcome", "agent settings", "clock", "orchestrator answer"),
    ):
        assert seen[hop] == "ok", write_text(report)
    (session,) = environ.agent.sessions
    assert session.close_code == 1000
    assert session.audio_bytes == 0


async def test_without_the_option_no_settings_are_sent(environ):
    report = await environ.examine()

    assert report.is_well
    assert "agent settings" not in {one.hop for one in report.findings}
    assert environ.agent.sessions[0].settings is None


async def test_a_refusal_of_the_agent_is_shown_with_its_body(environ):
    for status, said in (
        (401, "DEEPGRAM_API_KEY"),
        (402, "credit"),
        (403, "scopes"),
        (404, "DEEPGRAM_AGENT_URL"),
        (429, "too many sessions"),
        (503, "try again"),
    ):
        async with serve(Options(refuse=status)) as agent:
            line = await environ.failure("agent upgrade", DEEPGRAM_AGENT_URL=agent.agent_url)
        assert f"HTTP {status}" in line
        assert "err_msg" in line
        assert said in line


async def test_the_fallback_is_looked_at_as_well_and_named_as_such(environ):
    async with serve(Options(api_key=KEY)) as other:
        report = await environ.examine(settings=True, DEEPGRAM_AGENT_FALLBACK_URL=other.agent_url)
        assert report.is_well, write_text(report)
        seen = {one.hop: one.status for one in report.findings}
        for hop in ("dns", "connect", "upgrade", "welcome", "settings"):
            assert seen[f"agent {hop}"] == seen[f"fallback {hop}"] == "ok"
        (session,) = other.sessions
        assert session.close_code == 1000

    async with serve(Options(refuse=404)) as other:
        line = await environ.failure(
            "fallback upgrade", DEEPGRAM_AGENT_FALLBACK_URL=other.agent_url
        )
    assert "DEEPGRAM_AGENT_FALLBACK_URL" in line


async def test_a_wrong_key_is_named_and_not_shown(environ):
    line = await environ.failure("agent upgrade", DEEPGRAM_API_KEY="hush-hush")

    assert "HTTP 401" in line


async def test_an_agent_that_says_nothing_is_named(environ):
    async with serve(Options(welcome_delay=None)) as agent:
        url = {"DEEPGRAM_AGENT_URL": agent.agent_url}
        line = await environ.failure("agent welcome", seconds=0.5, **url)

    assert "no Welcome" in line


async def test_settings_that_the_agent_does_not_take_are_named(environ):
    faults = {"Settings": Ending(kind="close", code=1008)}
    async with serve(Options(faults=faults, settings_delay=None)) as agent:
        line = await environ.failure(
            "agent settings", settings=True, DEEPGRAM_AGENT_URL=agent.agent_url
        )

    assert "closed" in line


async def test_an_unknown_name_and_a_closed_port_are_named(environ):
    unknown = "wss://agent.nowhere.invalid/v1/agent/converse"
    assert "dns: " in await environ.failure("agent dns", DEEPGRAM_AGENT_URL=unknown)
    closed = "ws://127.0.0.1:1/v1/agent/converse"
    assert "refused: " in await environ.failure("agent connect", DEEPGRAM_AGENT_URL=closed)


async def test_each_hop_of_a_proxy_is_named(environ, authority, proxy):
    async with agent_with(authority.issue()) as (_, port), socks_proxy() as socks:
        url = {"DEEPGRAM_AGENT_URL": f"wss://agent.example:{port}/v1/agent/converse"}
        url |= {"RELAY_TLS_CA_FILE": str(authority.file)}
        for good in (proxy.url, socks.url):
            report = await environ.examine(RELAY_EGRESS_PROXY=good, **url)
            assert report.is_well, write_text(report)
            assert "agent proxy tunnel" in {one.hop for one in report.findings}

        for wrong in (
            proxy.url_for("clerk:wrong-password"),
            f"socks5://clerk:wrong-password@127.0.0.1:{socks.port}",
        ):
            line = await environ.failure("agent proxy tunnel", RELAY_EGRESS_PROXY=wrong, **url)
            assert "proxy_auth" in line

        gone = {"RELAY_EGRESS_PROXY": "http://127.0.0.1:1"}
        assert "refused" in await environ.failure("agent proxy connect", **gone, **url)
        gone = {"RELAY_EGRESS_PROXY": "http://proxy.nowhere.invalid:3128"}
        assert "dns" in await environ.failure("agent proxy dns", **gone, **url)

        closed = url | {"DEEPGRAM_AGENT_URL": "wss://agent.test:1/v1/agent/converse"}
        line = await environ.failure("agent proxy tunnel", RELAY_EGRESS_PROXY=socks.url, **closed)
        assert "proxy_refused" in line


async def test_an_authority_that_is_not_trusted_is_named_with_who_issued(environ, authority):
    async with agent_with(authority.issue("localhost")) as (_, port):
        url = f"wss://localhost:{port}/v1/agent/converse"
        line = await environ.failure("agent tls", DEEPGRAM_AGENT_URL=url)

    assert "tls_untrusted" in line
    assert "trustme" in line  # the issuer's name
    assert "RELAY_TLS_CA_FILE" in line


async def test_an_expired_certificate_and_another_name_are_told_apart(environ, authority):
    ca = {"RELAY_TLS_CA_FILE": str(authority.file)}
    for tls, word in (
        (authority.issue("localhost", expired=True), "tls_expired"),
        (authority.issue("other.example"), "tls_name"),
    ):
        async with agent_with(tls) as (_, port):
            url = f"wss://localhost:{port}/v1/agent/converse"
            line = await environ.failure("agent tls", DEEPGRAM_AGENT_URL=url, **ca)
        assert word in line
        assert "until" in line


async def test_a_database_that_is_away_empty_or_read_only_is_named(
    environ, database_url, empty_database_url
):
    away = "postgresql://user:hush@127.0.0.1:1/nothing"
    assert "does not answer" in await environ.failure("database connect", DATABASE_URL=away)

    line = await environ.failure("database migrations", DATABASE_URL=empty_database_url)
    assert "0001_conversations" in line
    assert "voice-relay migrate" in line

    connection = await asyncpg.connect(database_url, statement_cache_size=0)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await connection.close()
    line = await environ.failure("database writable", DATABASE_URL=database_url)
    assert "primary" in line


async def test_an_orchestrator_that_is_away_is_named(environ):
    line = await environ.failure("orchestrator connect", ORCHESTRATOR_URL="http://127.0.0.1:1")

    assert "refused" in line


async def test_an_orchestrator_that_says_nothing_sensible_is_named(environ):
    async with http_server("220 mail ready\r\n\r\n") as address:
        await environ.failure("orchestrator answer", ORCHESTRATOR_URL=f"http://{address}")


async def test_a_data_folder_that_cannot_be_written_is_named(environ, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")

    line = await environ.failure("data dir", RELAY_DATA_DIR=str(blocked / "data"))

    assert "RELAY_DATA_DIR" in line


async def test_a_clock_that_is_wrong_is_named(environ):
    head = "HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 2022 08:49:37 GMT\r\n\r\n"
    async with http_server(head) as address:
        report = await environ.examine(DEEPGRAM_AGENT_URL=f"ws://{address}/v1/agent/converse")

    failed = {one.hop: one.detail for one in report.findings if one.status == "failed"}
    assert "ahead" in failed["clock"]
    assert "agent upgrade" in failed


async def test_keys_that_cannot_be_had_are_named(environ):
    async with http_server() as address:
        url = f"http://{address}/keys"
        await environ.failure("sign-in keys", RELAY_AUTH="jwt", RELAY_JWT_JWKS_URL=url)


async def test_mistakes_of_settings_are_all_that_is_said(environ):
    report = await environ.examine(RELAY_PORT="many", RELAY_TLS_MIN_VERSION="1.0")

    assert [one.hop for one in report.findings] == ["settings", "settings"]
    assert not report.is_well


async def test_a_file_of_authorities_that_is_none_is_named(environ, tmp_path):
    (tmp_path / "ca.pem").write_text("nonsense")

    line = await environ.failure("settings", RELAY_TLS_CA_FILE=str(tmp_path / "ca.pem"))

    assert "RELAY_TLS_CA_FILE" in line


# --- the public URL ------------------------------------------------------------------------------


@asynccontextmanager
async def behind(port, forgets=()):
    """A load balancer that drops some headers; yields its public URL."""

    async def forward(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return  # only to see whether somebody listens
        lines = head.decode().split("\r\n")
        kept = [line for line in lines if line.partition(":")[0].lower() not in forgets]
        there, out = await asyncio.open_connection("127.0.0.1", port)
        out.write("\r\n".join(kept).encode())
        writer.write(await there.read(65536))
        writer.close()
        out.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def relay(environ, **variables):
    settings = settings_of(**environ.values | {"RELAY_DIAL_AHEAD": "0"} | variables)
    async with listening(create_app(settings, load(CONFIG_DIR, {}))) as (port, _):
        yield port


async def test_a_public_url_that_leads_to_us_is_fine(environ):
    async with relay(environ) as port, behind(port) as url:
        report = await environ.examine(RELAY_PUBLIC_URL=url)

    assert report.is_well, write_text(report)
    assert {one.hop for one in report.findings} >= {"public url upgrade"}


async def test_a_load_balancer_without_upgrade_is_named(environ):
    async with relay(environ) as port, behind(port, forgets=("upgrade", "connection")) as url:
        line = await environ.failure("public url upgrade", RELAY_PUBLIC_URL=url)

    assert "Upgrade" in line


async def test_an_origin_that_the_relay_does_not_know_is_named(environ):
    app = "https://app.example.com"
    async with relay(environ) as port, behind(port) as url:
        line = await environ.failure(
            "public url upgrade", RELAY_PUBLIC_URL=url, RELAY_ALLOWED_ORIGINS=app
        )

    assert app in line
    assert "RELAY_ALLOWED_ORIGINS" in line


async def test_a_public_url_that_leads_nowhere_is_named(environ):
    await environ.failure("public url connect", RELAY_PUBLIC_URL="http://127.0.0.1:1")


# --- the command ---------------------------------------------------------------------------------


async def test_the_command_says_it_in_lines_or_json_and_by_its_exit_code(environ):
    clean = {n: v for n, v in os.environ.items() if not n.startswith("RELAY_")}

    async def run(*arguments, **more):
        process = await asyncio.create_subprocess_exec(
            *(VOICE_RELAY, "doctor", *arguments),
            env=clean | environ.values | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, errors = await process.communicate()
        assert errors == b""
        return process.returncode, out.decode()

    code, text = await run()
    assert code == 0, text
    assert "ok       agent welcome" in text

    code, text = await run("--json", RELAY_AUTH="jwt", DEEPGRAM_AGENT_URL="ws://127.0.0.1:1/")
    report = json.loads(text)
    assert code == 1
    assert report["well"] is False
    assert [f["hop"] for f in report["findings"] if f["status"] == "failed"] == ["settings"]
