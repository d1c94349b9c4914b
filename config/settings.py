"""Deployment values, from the environment.

`VARIABLES` is the one list of them: it is read here, shown by `voice-relay check` and held against
the documentation by a test. What a conversation designer changes is not here but in the YAML files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from config import env_types
from config.database_url import read_as_secret
from config.env_types import Secret
from config.errors import ConfigError, did_you_mean

CONFIG_DIR = Path(__file__).parent
"""The files that ship."""

STAND_INS = {
    "DEEPGRAM_API_KEY": "sandbox",
    "DATABASE_URL": "postgresql://embedded",
    "ORCHESTRATOR_URL": "http://127.0.0.1",
}
"""For the required variables where none is set, as in `voice-relay dev`: only their form counts."""


PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from one deployment to the next; `VARIABLES` says what each is for."""

    deepgram_api_key: Secret
    database_url: Secret
    orchestrator_url: str
    deepgram_agent_url: str = "wss://agent.deepgram.com/v1/agent/converse"
    deepgram_api_url: str = "https://api.deepgram.com"
    egress_proxy: Secret | None = None
    https_proxy: Secret | None = None
    http_proxy: Secret | None = None
    all_proxy: Secret | None = None
    no_proxy: tuple[str, ...] = ()
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_min_version: str = "1.2"
    auth: str | None = None
    jwt_secret: Secret | None = None
    jwt_jwks_url: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str = "authenticated"
    direct_transport: bool = False
    orchestrator_token: Secret | None = None
    orchestrator_secret: Secret | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    data_dir: Path = Path(".relay")
    public_url: str | None = None
    allowed_origins: tuple[str, ...] = ()
    config_dir: Path = CONFIG_DIR
    ticket_seconds: float = 60.0
    setup_seconds: float = 10.0
    roll_over_seconds: float = 6600.0
    grace_seconds: float = 30.0
    ping_seconds: float = 10.0
    max_message_bytes: int = 1 << 20
    held_audio_bytes: int = 256 << 10
    lane_bytes: int = 768 << 10
    lane_seconds: float = 15.0
    dial_ahead: int = 32
    journal_bytes: int = 256 << 20
    outbox_hours: float = 24.0
    browser_message_bytes: int = 256 << 10
    messages_per_second: float = 20.0
    audio_speed: float = 2.0
    audio_burst_seconds: float = 20.0
    idle_seconds: float = 600.0
    session_seconds: float = 14400.0
    sessions: int = 1000
    sessions_per_user: int = 10
    sessions_per_address: int = 50
    agent_sessions: int = 0
    handshakes: int = 1000
    handshake_seconds: float = 10.0
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    metrics_networks: tuple[str, ...] = ("127.0.0.0/8", "::1")
    retention_days: float = 0.0
    client: bool = True
    log_level: str = "info"


class Variable(msgspec.Struct, frozen=True):
    """One variable: the text it holds is turned into the field's value by `read`.

    `read` raises `ValueError("expected ..., got ...")`. `default` is what people are shown.
    """

    name: str
    field: str
    default: str | None  # None: has to be set
    help: str
    read: Callable[[str], Any]


def from_environment(environ: Mapping[str, str]) -> Settings:
    """The settings; raises `ConfigError` with every mistake. A variable set to "" is not set."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        text = _text(environ, variable.name)
        if text:
            try:
                values[variable.field] = variable.read(text)
            except ValueError as error:
                problems.append(f"environment: {variable.name}: {error}")
        elif variable.default is None:
            wanted = f"expected {variable.help}, got nothing; set it"
            problems.append(f"environment: {variable.name}: {wanted}")
    problems += _unknown_names(environ)
    problems += _contradictions(values)
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


def _text(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name, "").strip()
    if not text and name in PROXY_VARIABLES:  # every program reads both spellings of these
        text = environ.get(name.lower(), "").strip()
    return text


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with variables that are right one by one."""
    found = []
    if values.get("auth") == "jwt" and not (values.get("jwt_secret") or values.get("jwt_jwks_url")):
        wanted = "expected RELAY_JWT_SECRET or RELAY_JWT_JWKS_URL beside jwt, got neither"
        found.append(f"environment: RELAY_AUTH: {wanted}; set one of them")
    if values.get("tls_key_file") and not values.get("tls_cert_file"):
        wanted = "expected RELAY_TLS_CERT_FILE beside it, got none"
        found.append(f"environment: RELAY_TLS_KEY_FILE: {wanted}; set it")
    return found


def _unknown_names(environ: Mapping[str, str]) -> list[str]:
    known = [variable.name for variable in VARIABLES]
    return [
        f"environment: {name}: expected a known RELAY_ variable, got this one"
        + (did_you_mean(name, known) or "; remove it")
        for name in sorted(environ)
        if name.startswith("RELAY_") and name not in known
    ]


_BYTES = env_types.whole(1024, 1 << 30)
_LIMIT = env_types.whole(0, 1_000_000)
_seconds = env_types.positive("seconds")
_seconds_or_none = env_types.positive_or_none("seconds")

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "DEEPGRAM_API_KEY",
        "deepgram_api_key",
        None,
        "the API key of the Deepgram project; it never leaves the server",
        env_types.credential,
    ),
    Variable(
        "DATABASE_URL",
        "database_url",
        None,
        "the Postgres database, postgresql://user:password@host/name",
        read_as_secret,
    ),
    Variable(
        "ORCHESTRATOR_URL",
        "orchestrator_url",
        None,
        "the Orchestrator that intents are sent to, an intent's path is put behind it",
        env_types.url("http", "https"),
    ),
    Variable(
        "ORCHESTRATOR_TOKEN",
        "orchestrator_token",
        "",
        "the bearer token for the Orchestrator",
        env_types.credential,
    ),
    Variable(
        "ORCHESTRATOR_SECRET",
        "orchestrator_secret",
        "",
        "what requests to the Orchestrator are signed with",
        env_types.credential,
    ),
    Variable(
        "DEEPGRAM_AGENT_URL",
        "deepgram_agent_url",
        "wss://agent.deepgram.com/v1/agent/converse",
        "the WebSocket of the Voice Agent API (a region, a proxy, the sandbox)",
        env_types.url("wss", "ws"),
    ),
    Variable(
        "DEEPGRAM_API_URL",
        "deepgram_api_url",
        "https://api.deepgram.com",
        "Deepgram's REST API, for temporary tokens of the direct transport",
        env_types.url("https", "http", query=False),
    ),
    Variable(
        "RELAY_EGRESS_PROXY",
        "egress_proxy",
        "",
        "the proxy of all connections that leave: http, https or socks5, with user:password@",
        env_types.proxy,
    ),
    Variable(
        "HTTPS_PROXY", "https_proxy", "", "the proxy for https:// and wss://", env_types.proxy
    ),
    Variable("HTTP_PROXY", "http_proxy", "", "the proxy for http:// and ws://", env_types.proxy),
    Variable(
        "ALL_PROXY", "all_proxy", "", "the proxy where the two above say nothing", env_types.proxy
    ),
    Variable(
        "NO_PROXY",
        "no_proxy",
        "",
        "hosts, domains, addresses and networks that are reached without a proxy",
        env_types.hosts,
    ),
    Variable(
        "RELAY_TLS_CA_FILE",
        "tls_ca_file",
        "",
        "certificate authorities (PEM) to trust besides the system's",
        Path,
    ),
    Variable(
        "RELAY_TLS_CERT_FILE",
        "tls_cert_file",
        "",
        "the client certificate (PEM), with its chain",
        Path,
    ),
    Variable(
        "RELAY_TLS_KEY_FILE",
        "tls_key_file",
        "",
        "its key (PEM, not encrypted), if it is not in the same file",
        Path,
    ),
    Variable(
        "RELAY_TLS_MIN_VERSION",
        "tls_min_version",
        "1.2",
        "the oldest TLS that is spoken: 1.2 or 1.3",
        env_types.one_of("1.2", "1.3"),
    ),
    Variable(
        "RELAY_AUTH",
        "auth",
        "",
        "who signs users in: jwt, or mock (everybody is one user)",
        env_types.one_of("mock", "jwt"),
    ),
    Variable(
        "RELAY_JWT_SECRET", "jwt_secret", "", "the secret of HS256 tokens", env_types.jwt_secret
    ),
    Variable(
        "RELAY_JWT_JWKS_URL",
        "jwt_jwks_url",
        "",
        "where the public keys of RS256 and ES256 tokens are",
        env_types.url("https", "http"),
    ),
    Variable("RELAY_JWT_ISSUER", "jwt_issuer", "", "the issuer (iss) that tokens must have", str),
    Variable(
        "RELAY_JWT_AUDIENCE",
        "jwt_audience",
        "authenticated",
        "the audience (aud) that tokens must have",
        str,
    ),
    Variable(
        "RELAY_DIRECT_TRANSPORT",
        "direct_transport",
        "off",
        "on: a session may be begun with transport direct, which shows prompt and functions",
        env_types.switch,
    ),
    Variable("RELAY_HOST", "host", "127.0.0.1", "the address to listen on", str),
    Variable("RELAY_PORT", "port", "8080", "the port to listen on", env_types.whole(0, 65535)),
    Variable("RELAY_WORKERS", "workers", "1", "worker processes", env_types.whole(1, 256)),
    Variable("RELAY_DATA_DIR", "data_dir", ".relay", "where the relay keeps its own files", Path),
    Variable(
        "RELAY_PUBLIC_URL",
        "public_url",
        "",
        "the URL that browsers reach the relay under; if unset, taken from the request",
        env_types.public_url,
    ),
    Variable(
        "RELAY_ALLOWED_ORIGINS",
        "allowed_origins",
        "",
        "origins of pages that may connect besides the relay's own, with commas between them",
        env_types.origins,
    ),
    Variable(
        "RELAY_CONFIG_DIR",
        "config_dir",
        "the package's own",
        "the folder of agent.yaml, intents.yaml, policy.yaml and system_prompt.md",
        Path,
    ),
    Variable(
        "RELAY_TICKET_SECONDS", "ticket_seconds", "60", "how long a ticket may be used", _seconds
    ),
    Variable(
        "RELAY_SETUP_SECONDS",
        "setup_seconds",
        "10",
        "how long the agent may take from the dial to SettingsApplied",
        _seconds,
    ),
    Variable(
        "RELAY_ROLL_OVER_SECONDS",
        "roll_over_seconds",
        "6600",
        "when a new agent takes over, between two turns: Deepgram ends a session after 7200",
        _seconds,
    ),
    Variable(
        "RELAY_GRACE_SECONDS",
        "grace_seconds",
        "30",
        "how long a session waits for a browser whose connection broke; 0: it ends at once",
        _seconds_or_none,
    ),
    Variable(
        "RELAY_PING_SECONDS",
        "ping_seconds",
        "10",
        "how often both sides are asked whether they are still there",
        _seconds,
    ),
    Variable(
        "RELAY_MAX_MESSAGE_BYTES",
        "max_message_bytes",
        "1048576",
        "the longest message that is accepted",
        _BYTES,
    ),
    Variable(
        "RELAY_HELD_AUDIO_BYTES",
        "held_audio_bytes",
        "262144",
        "microphone audio that is kept until the agent has taken its Settings",
        _BYTES,
    ),
    Variable(
        "RELAY_LANE_BYTES",
        "lane_bytes",
        "786432",
        "what may be queued towards a browser that does not read",
        _BYTES,
    ),
    Variable(
        "RELAY_LANE_SECONDS",
        "lane_seconds",
        "15",
        "how much speech may be queued towards it; of older audio the oldest goes first",
        _seconds,
    ),
    Variable(
        "RELAY_DIAL_AHEAD",
        "dial_ahead",
        "32",
        "agents dialled at once before their browser attaches; 0 turns it off (one worker only)",
        env_types.whole(0, 10_000),
    ),
    Variable(
        "RELAY_JOURNAL_BYTES",
        "journal_bytes",
        "268435456",
        "what the journal may take on disk, all workers together",
        env_types.whole(1 << 20, 1 << 40),
    ),
    Variable(
        "RELAY_OUTBOX_HOURS",
        "outbox_hours",
        "24",
        "how long an accepted call is tried until it has failed for good",
        env_types.positive("hours"),
    ),
    Variable(
        "RELAY_CLIENT", "client", "on", "whether the web client is served at /", env_types.switch
    ),
    Variable(
        "RELAY_BROWSER_MESSAGE_BYTES",
        "browser_message_bytes",
        "262144",
        "the longest message of a browser that is accepted, audio included",
        _BYTES,
    ),
    Variable(
        "RELAY_MESSAGES_PER_SECOND",
        "messages_per_second",
        "20",
        "text messages of a browser; twice as many may come at once",
        env_types.positive("a number"),
    ),
    Variable(
        "RELAY_AUDIO_SPEED",
        "audio_speed",
        "2",
        "how many times faster than real time a browser's audio may come; 0: as fast as it likes",
        env_types.positive_or_none("a number"),
    ),
    Variable(
        "RELAY_AUDIO_BURST_SECONDS",
        "audio_burst_seconds",
        "20",
        "seconds of audio that may come at once, at the beginning and after a pause",
        _seconds,
    ),
    Variable(
        "RELAY_IDLE_SECONDS",
        "idle_seconds",
        "600",
        "when a session ends in which nobody speaks; 0: never",
        _seconds_or_none,
    ),
    Variable(
        "RELAY_SESSION_SECONDS",
        "session_seconds",
        "14400",
        "how long a session may be; 0: without end",
        _seconds_or_none,
    ),
    Variable(
        "RELAY_SESSIONS", "sessions", "1000", "live sessions of a process; 0: no limit", _LIMIT
    ),
    Variable(
        "RELAY_SESSIONS_PER_USER",
        "sessions_per_user",
        "10",
        "of these, of one user; 0: no limit; the mocked user has none",
        _LIMIT,
    ),
    Variable(
        "RELAY_SESSIONS_PER_ADDRESS",
        "sessions_per_address",
        "50",
        "and from one address (IPv6: one /64); 0: no limit",
        _LIMIT,
    ),
    Variable(
        "RELAY_AGENT_SESSIONS",
        "agent_sessions",
        "0",
        "agents that all relays on one database may have at once; 0: no limit",
        _LIMIT,
    ),
    Variable(
        "RELAY_HANDSHAKES",
        "handshakes",
        "1000",
        "connections of a process that have not been let in yet",
        env_types.whole(1, 1_000_000),
    ),
    Variable(
        "RELAY_HANDSHAKE_SECONDS",
        "handshake_seconds",
        "10",
        "how long a client may take to send a request",
        _seconds,
    ),
    Variable(
        "RELAY_TRUSTED_PROXIES",
        "trusted_proxies",
        "127.0.0.1,::1",
        "proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, with commas",
        env_types.networks,
    ),
    Variable(
        "RELAY_METRICS_NETWORKS",
        "metrics_networks",
        "127.0.0.0/8,::1",
        "who may read /metrics, with commas; only directly, not through a proxy",
        env_types.networks,
    ),
    Variable(
        "RELAY_RETENTION_DAYS",
        "retention_days",
        "0",
        "conversations that were not touched for so long are erased; 0: never",
        env_types.positive_or_none("days"),
    ),
    Variable(
        "RELAY_LOG_LEVEL",
        "log_level",
        "info",
        "debug, info, warning, error or critical",
        env_types.one_of("debug", "info", "warning", "error", "critical"),
    ),
)
