"""What may stand between browsers and agent, and how each is started.

Load tests. All of them add the key and run one worker on the relay's core; nginx and HAProxy are
set up as one would for this alone: no buffering of what can be passed on, no logs, no look-ups.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec

from loadtests.load_generator import Endpoint
from loadtests.processes import HOST, Program, free_port, program
from loadtests.results import Arm

KEY = "a-key-for-load-tests"
PATH = "/v1/agent/converse"


class Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    """What an arm is given: where the agent is, and for ours database and Orchestrator."""

    folder: Path
    cores: frozenset[int]
    agent_url: str
    agent_tls_url: str | None
    ca: str | None
    database_url: str | None
    orchestrator_url: str


class Started(msgspec.Struct, frozen=True):
    """An arm that runs. `program` is None where nothing stands in between."""

    endpoint: Endpoint
    program: Program | None


def missing(arm: Arm, dependencies: Dependencies) -> str | None:
    """Why this arm cannot be run here; None when it can."""
    match arm:
        case Arm.DIRECT:
            return None
        case Arm.NGINX | Arm.HAPROXY:
            return None if find(arm) else f"{arm} is not installed"
        case Arm.FASTAPI:
            return None if find_spec("fastapi") else "fastapi is not installed"
        case Arm.AIOHTTP:
            return None if find_spec("aiohttp") else "aiohttp is not installed"
        case Arm.PICOWS:
            return None  # ours needs it as well
        case Arm.OURS:
            return None if dependencies.database_url else "there is no database"


@asynccontextmanager
async def start(arm: Arm, dependencies: Dependencies, *, tls: bool) -> AsyncIterator[Started]:
    """Run an arm while inside. Raises `ProgramFailed`."""
    agent_url = (
        dependencies.agent_tls_url if tls and dependencies.agent_tls_url else dependencies.agent_url
    )
    if arm is Arm.DIRECT:
        headers = {"Authorization": f"Token {KEY}"}
        ca = dependencies.ca if tls else None
        yield Started(Endpoint(way="plain", url=agent_url, ca=ca, headers=headers), None)
        return
    port = free_port()
    environ = _environment(dependencies, tls=tls, port=port, agent_url=agent_url)
    if arm is Arm.OURS:
        endpoint = Endpoint(way="relay.v1", url=f"http://{HOST}:{port}")
    else:
        endpoint = Endpoint(way="plain", url=f"ws://{HOST}:{port}{PATH}")
    command = _COMMANDS[arm](dependencies, tls, port, agent_url)
    async with program(
        command,
        port=port,
        log=dependencies.folder / f"{arm}.log",
        cores=dependencies.cores,
        environ=environ,
    ) as running:
        yield Started(endpoint, running)


def _environment(
    dependencies: Dependencies, *, tls: bool, port: int, agent_url: str
) -> dict[str, str]:
    # Nothing of the user's settings: what is measured is what we ship.
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RELAY_", "DEEPGRAM_", "ORCHESTRATOR_", "DATABASE_"))
    }
    environ |= {"DEEPGRAM_API_KEY": KEY, "DEEPGRAM_AGENT_URL": agent_url, "PORT": str(port)}
    environ |= {"RELAY_AUTH": "mock"}  # there is one caller
    environ |= {"RELAY_PORT": str(port), "RELAY_DATA_DIR": str(dependencies.folder / "data")}
    environ |= {"ORCHESTRATOR_URL": dependencies.orchestrator_url}
    environ |= {"RELAY_SESSIONS": "0", "RELAY_SESSIONS_PER_ADDRESS": "0"}  # all come from here
    environ |= {"RELAY_AUDIO_SPEED": "20"}  # still looked after, but larger frames are no abuse
    if dependencies.database_url:
        environ["DATABASE_URL"] = dependencies.database_url
    if tls and dependencies.ca:
        environ["SSL_CERT_FILE"] = dependencies.ca
    return environ


def find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _nginx(dependencies: Dependencies, tls: bool, port: int, agent_url: str) -> list[str]:
    folder = dependencies.folder / "nginx"
    folder.mkdir(exist_ok=True)
    secure = ""
    if tls:
        secure = f"""
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {dependencies.ca};
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_session_reuse on;"""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder / kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    address = agent_url.partition("://")[2].partition("/")[0]
    path = folder / "nginx.conf"
    path.write_text(
        f"""daemon off;
worker_processes 1;
pid {folder / "nginx.pid"};
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
{temporary}
    server {{
        listen {HOST}:{port} backlog=4096;
        tcp_nodelay on;
        location / {{
            proxy_pass {"https" if tls else "http"}://{address};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header Authorization "Token {KEY}";
            proxy_buffering off;
            proxy_buffer_size 16k;
            proxy_buffers 4 16k;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;{secure}
        }}
    }}
}}
"""
    )
    return [find("nginx") or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(path)]


def _haproxy(dependencies: Dependencies, tls: bool, port: int, agent_url: str) -> list[str]:
    address = agent_url.partition("://")[2].partition("/")[0]
    secure = f" ssl verify required ca-file {dependencies.ca} verifyhost localhost" if tls else ""
    path = dependencies.folder / "haproxy.cfg"
    path.write_text(
        f"""global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend browsers
    bind {HOST}:{port} backlog 4096
    default_backend agent
backend agent
    http-request set-header Authorization "Token {KEY}"
    server agent {address}{secure}
"""
    )
    return [find("haproxy") or "haproxy", "-db", "-f", str(path)]


def _fastapi(dependencies: Dependencies, tls: bool, port: int, agent_url: str) -> list[str]:
    module = "loadtests.baselines.fastapi_relay:app"
    serve = [sys.executable, "-m", "uvicorn", module, "--host", HOST, "--port", str(port)]
    return [*serve, "--log-level", "warning"]


def _aiohttp(dependencies: Dependencies, tls: bool, port: int, agent_url: str) -> list[str]:
    return [sys.executable, "-m", "loadtests.baselines.aiohttp_relay"]


def _picows(dependencies: Dependencies, tls: bool, port: int, agent_url: str) -> list[str]:
    return [sys.executable, "-m", "loadtests.baselines.picows_relay"]


def _ours(dependencies: Dependencies, tls: bool, port: int, agent_url: str) -> list[str]:
    return [sys.executable, "-c", "from control.cli import main; main()", "serve"]


_COMMANDS: dict[Arm, Callable[[Dependencies, bool, int, str], list[str]]] = {
    Arm.NGINX: _nginx,
    Arm.HAPROXY: _haproxy,
    Arm.FASTAPI: _fastapi,
    Arm.AIOHTTP: _aiohttp,
    Arm.PICOWS: _picows,
    Arm.OURS: _ours,
}
