"""What may stand between browsers and agent, and how each is started.

Load tests. All of them add the key and run one worker on the relay's core; nginx is set up as one
would for this alone: no buffering of what can be passed on, no logs, no look-ups.
"""

from __future__ import annotations

import os
import shutil
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from loadtests import npm
from loadtests.environment import PATH, Environment
from loadtests.load_generator import Endpoint
from loadtests.processes import HOST, free_port, program
from loadtests.results import Arm

KEY = "a-key-for-load-tests"
BASELINES = Path(__file__).parent / "baselines"
NOTHING: Mapping[str, str] = {}


class Started(msgspec.Struct, frozen=True):
    """An arm that runs; nothing does where callers reach the agent directly."""

    endpoint: Endpoint
    process: Process | None


def find_obstacle(arm: Arm, folder: Path) -> str | None:
    """Why an arm cannot run on this machine; None: it can. What it needs of npm is then in the
    `folder`; it may take `npm.INSTALL_SECONDS`."""
    programs = {Arm.NGINX: ("nginx",), Arm.NODE: ("node", "npm")}.get(arm, ())
    for name in programs:
        if find(name) is None:
            return f"{name} is not installed"
    if arm is not Arm.NODE or (folder / "node_modules" / "ws").exists():
        return None
    return npm.install(folder, "--prefix", str(folder), "ws")


def find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def start(
    arm: Arm, environment: Environment, *, tls: bool = False, more: Mapping[str, str] = NOTHING
) -> AsyncIterator[Started]:
    """Run an arm while inside, with `more` variables. Raises `ProgramFailed`."""
    agent_url = environment.agent_tls_url if tls else environment.agent_url
    if arm is Arm.DIRECT:
        headers = {"Authorization": f"Token {KEY}"}
        yield Started(Endpoint(url=agent_url, ca=environment.ca, headers=headers), None)
        return
    port = free_port()
    relay_url = f"http://{HOST}:{port}" if arm is Arm.OURS else f"ws://{HOST}:{port}{PATH}"
    async with program(
        _make_command(arm, environment, port, agent_url),
        port=port,
        log=environment.folder / f"{arm}.log",
        cores=environment.pinning.relay,
        environ={**_make_environ(environment, port, agent_url), **more},
    ) as running:
        yield Started(Endpoint(url=relay_url), running)


def _make_environ(environment: Environment, port: int, agent_url: str) -> dict[str, str]:
    # Nothing of the user's settings: what is measured is what we ship.
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RELAY_", "DEEPGRAM_", "ORCHESTRATOR_", "DATABASE_"))
    }
    return environ | {
        "DEEPGRAM_API_KEY": KEY,
        "DEEPGRAM_AGENT_URL": agent_url,
        "PORT": str(port),
        "RELAY_PORT": str(port),
        "RELAY_AUTH": "mock",  # there is one caller
        "RELAY_DATA_DIR": str(environment.folder / "data"),
        "ORCHESTRATOR_URL": environment.orchestrator_url,
        "RELAY_SESSIONS": "0",
        "RELAY_SESSIONS_PER_ADDRESS": "0",  # all come from here
        "RELAY_REQUESTS_PER_ADDRESS": "0",
        "RELAY_AUDIO_SPEED": "20",  # still looked after, but larger frames are no abuse
        "DATABASE_URL": environment.database_url,
        "SSL_CERT_FILE": environment.ca,
        "NODE_EXTRA_CA_CERTS": environment.ca,
        "NODE_PATH": str(environment.folder / "node_modules"),
    }


def _make_command(arm: Arm, environment: Environment, port: int, agent_url: str) -> list[str]:
    folder, ca = environment.folder, environment.ca
    scheme, _, agent = agent_url.partition("://")
    agent = agent.partition("/")[0]  # its host and port
    if arm is Arm.NGINX:
        path = folder / "nginx.conf"
        path.write_text(_configure_nginx(port, f"{scheme.replace('ws', 'http')}://{agent}", ca))
        return [find("nginx") or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(path)]
    if arm is Arm.NODE:
        return ["node", str(BASELINES / "ws_relay.js")]
    if arm is Arm.FASTAPI:
        return [sys.executable, "-m", "loadtests.baselines.fastapi_relay"]
    return [sys.executable, "-c", "from control.cli import main; main()", "serve"]


def _configure_nginx(port: int, agent: str, ca: str) -> str:
    return f"""daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {HOST}:{port} backlog=4096;
        tcp_nodelay on;
        location / {{
            proxy_pass {agent};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header Authorization "Token {KEY}";
            proxy_buffering off;
            proxy_buffer_size 16k;
            proxy_buffers 4 16k;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {ca};
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_session_reuse on;
        }}
    }}
}}
"""
