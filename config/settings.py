"""Deployment values, from the environment.

`Settings` is the one list of them; docs/reference/settings.md is made from it. What a
conversation designer changes is not here but in the YAML files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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
NOT_OURS = (
    *("DEEPGRAM_API_KEY", "DEEPGRAM_AGENT_URL", "DEEPGRAM_API_URL", "DATABASE_URL"),
    *("ORCHESTRATOR_URL", "ORCHESTRATOR_TOKEN", "ORCHESTRATOR_SECRET", *PROXY_VARIABLES),
)
"""Variables without the prefix RELAY_."""

Bytes = Annotated[int, env_types.whole(1024, 1 << 30)]
Count = Annotated[int, env_types.whole(0, 1_000_000)]
Credential = Annotated[Secret | None, env_types.credential]
File = Annotated[Path | None, Path]
Networks = Annotated[tuple[str, ...], env_types.networks]
Proxy = Annotated[Secret | None, env_types.proxy]
Seconds = Annotated[float, env_types.positive("seconds")]
SecondsOrNone = Annotated[float, env_types.positive_or_none("seconds")]
Switch = Annotated[bool, env_types.switch]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from one deployment to the next: type, reader, meaning and default of each.

    A reader turns the text of the variable into the value, or raises
    `ValueError("expected ..., got ...")`.
    """

    deepgram_api_key: Annotated[
        Secret,
        env_types.credential,
        "the API key of the Deepgram project; it never leaves the server",
    ]
    database_url: Annotated[
        Secret, read_as_secret, "the Postgres database, postgresql://user:password@host/name"
    ]
    orchestrator_url: Annotated[
        str,
        env_types.url("http", "https"),
        "the Orchestrator that intents are sent to; an intent's path is put behind it",
    ]
    orchestrator_token: Annotated[Credential, "the bearer token for the Orchestrator"] = None
    orchestrator_secret: Annotated[
        Credential, "what requests to the Orchestrator are signed with"
    ] = None
    deepgram_agent_url: Annotated[
        str,
        env_types.url("wss", "ws"),
        "the WebSocket of the Voice Agent API: a region, a proxy, the sandbox",
    ] = "wss://agent.deepgram.com/v1/agent/converse"
    deepgram_api_url: Annotated[
        str,
        env_types.url("https", "http", query=False),
        "Deepgram's REST API, for temporary tokens of the direct transport",
    ] = "https://api.deepgram.com"
    egress_proxy: Annotated[
        Proxy,
        "the proxy of all connections that leave: `http://`, `https://` or `socks5://`, with "
        "`user:password@`",
    ] = None
    https_proxy: Annotated[
        Proxy,
        "the proxy for https and wss, unless `RELAY_EGRESS_PROXY` is set; `https_proxy` does too",
    ] = None
    http_proxy: Annotated[Proxy, "the same for http and ws"] = None
    all_proxy: Annotated[Proxy, "the proxy where the two above are not set"] = None
    no_proxy: Annotated[
        tuple[str, ...],
        env_types.hosts,
        "hosts, domains, addresses and networks that are reached without a proxy, with commas "
        "between them",
    ] = ()
    tls_ca_file: Annotated[File, "certificate authorities (PEM) to trust besides the system's"] = (
        None
    )
    tls_cert_file: Annotated[File, "the client certificate (PEM), with its chain"] = None
    tls_key_file: Annotated[File, "its key (PEM, not encrypted), if it is not in the same file"] = (
        None
    )
    tls_min_version: Annotated[
        str, env_types.one_of("1.2", "1.3"), "the oldest TLS that is spoken: `1.2` or `1.3`"
    ] = "1.2"
    auth: Annotated[
        str | None,
        env_types.one_of("mock", "jwt"),
        "who signs users in: `jwt`, or `mock` (everybody is one user); `serve` needs it",
    ] = None
    jwt_secret: Annotated[
        Secret | None, env_types.jwt_secret, "the secret of HS256 tokens, 32 bytes at least"
    ] = None
    jwt_jwks_url: Annotated[
        str | None,
        env_types.url("https", "http"),
        "where the public keys of RS256 and ES256 tokens are",
    ] = None
    jwt_issuer: Annotated[str | None, str, "the issuer (`iss`) that tokens must have"] = None
    jwt_audience: Annotated[str, str, "the audience (`aud`) that tokens must have"] = (
        "authenticated"
    )
    direct_transport: Annotated[
        Switch,
        '`on`: sessions may be begun with `transport: "direct"`, which shows prompt and '
        "functions to the client",
    ] = False
    host: Annotated[str, str, "the address to listen on"] = "127.0.0.1"
    port: Annotated[int, env_types.whole(0, 65535), "the port to listen on"] = 8080
    workers: Annotated[int, env_types.whole(1, 256), "worker processes of `serve`"] = 1
    data_dir: Annotated[
        Path,
        Path,
        "where the relay keeps the journal, and `dev` its database; a local disk that outlives "
        "the process",
    ] = Path(".relay")
    public_url: Annotated[
        str | None,
        env_types.public_url,
        "the URL that browsers reach the relay under, and the only `Host` that is answered "
        "besides addresses of its own; if unset, taken from the request",
    ] = None
    allowed_origins: Annotated[
        tuple[str, ...],
        env_types.origins,
        "origins of pages that may connect besides the relay's own, with commas between them; "
        "`capacitor://localhost` and the like may be among them",
    ] = ()
    config_dir: Annotated[
        Path,
        Path,
        "the folder of `agent.yaml`, `intents.yaml`, `policy.yaml` and `system_prompt.md`",
    ] = CONFIG_DIR
    ticket_seconds: Annotated[Seconds, "how long a ticket may be used"] = 60.0
    setup_seconds: Annotated[
        Seconds, "how long the agent may take from the dial to `SettingsApplied`"
    ] = 10.0
    roll_over_seconds: Annotated[
        Seconds,
        "when a new agent takes over, between two turns: Deepgram ends a session after 7200",
    ] = 6600.0
    grace_seconds: Annotated[
        SecondsOrNone,
        "how long a session waits for a browser whose connection broke; 0: it ends at once",
    ] = 30.0
    ping_seconds: Annotated[
        Seconds,
        "both sides are pinged after this long without a frame, and given up after as long again",
    ] = 10.0
    max_message_bytes: Annotated[Bytes, "the longest message that is accepted"] = 1 << 20
    held_audio_bytes: Annotated[
        Bytes,
        "what may be queued towards the agent: until it has taken its Settings, while it is "
        "dialled again, and later while it does not read",
    ] = 256 << 10
    lane_bytes: Annotated[
        Bytes, "what may be queued towards the browser while it does not read"
    ] = 768 << 10
    lane_seconds: Annotated[
        Seconds,
        "how much speech may be queued towards the browser; older audio is dropped first",
    ] = 15.0
    dial_ahead: Annotated[
        int,
        env_types.whole(0, 10_000),
        "agents dialled at once before their browser attaches; `0` turns it off. It is off with "
        "several workers; turn it off with several relays",
    ] = 32
    journal_bytes: Annotated[
        int,
        env_types.whole(1 << 20, 1 << 40),
        "what the journal may take on disk, all workers together",
    ] = 256 << 20
    outbox_hours: Annotated[
        float,
        env_types.positive("hours"),
        "how long an accepted call is tried until it has failed for good",
    ] = 24.0
    client: Annotated[Switch, "`off`: the web client is not served at `/`"] = True
    browser_message_bytes: Annotated[
        Bytes, "the longest message of a browser that is accepted, audio included"
    ] = 256 << 10
    messages_per_second: Annotated[
        float,
        env_types.positive("a number"),
        "text messages of a browser; twice as many may come at once",
    ] = 20.0
    audio_speed: Annotated[
        float,
        env_types.positive_or_none("a number"),
        "how many times faster than real time a browser's audio may come; 0: as fast as it likes",
    ] = 2.0
    audio_burst_seconds: Annotated[
        Seconds, "seconds of audio that may come at once, at the beginning and after a pause"
    ] = 20.0
    idle_seconds: Annotated[
        SecondsOrNone, "a session ends when nobody has spoken for so long; 0: never"
    ] = 600.0
    session_seconds: Annotated[SecondsOrNone, "how long a session may last; 0: without end"] = (
        14400.0
    )
    sessions: Annotated[Count, "live sessions of a process; 0: no limit"] = 1000
    sessions_per_user: Annotated[
        Count, "live sessions of one user in a process; 0: no limit. The mocked user has none"
    ] = 10
    sessions_per_address: Annotated[
        Count, "live sessions from one address (IPv6: one /64) in a process; 0: no limit"
    ] = 50
    agent_sessions: Annotated[
        Count,
        "agents that all relays on one database may have at once: what your plan allows, such "
        "as 45; 0: no limit",
    ] = 0
    handshakes: Annotated[
        int, env_types.whole(1, 1_000_000), "connections of a process that have not been let in yet"
    ] = 1000
    handshake_seconds: Annotated[Seconds, "how long a client may take to send a request"] = 10.0
    trusted_proxies: Annotated[
        Networks,
        "proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, addresses or "
        "networks; without them all who come through a proxy share its address",
    ] = ("127.0.0.1", "::1")
    metrics_networks: Annotated[
        Networks,
        "who may read `/metrics`, addresses or networks; only directly, not through a proxy",
    ] = ("127.0.0.0/8", "::1")
    retention_days: Annotated[
        float,
        env_types.positive_or_none("days"),
        "conversations that were not touched for so long and have no session are erased; 0: never",
    ] = 0.0
    log_level: Annotated[
        str,
        env_types.one_of("debug", "info", "warning", "error", "critical"),
        "`debug`, `info`, `warning`, `error` or `critical`",
    ] = "info"


class Variable(msgspec.Struct, frozen=True):
    """The variable of one field of `Settings`; `default` is what people are shown."""

    name: str
    field: str
    default: str | None  # None: has to be set
    help: str
    read: Callable[[str], Any]


def _variables() -> Iterator[Variable]:
    kinds = get_type_hints(Settings, include_extras=True)
    for field in msgspec.structs.fields(Settings):
        read, meaning = kinds[field.name].__metadata__
        name = field.name.upper()
        name = name if name in NOT_OURS else f"RELAY_{name}"
        yield Variable(name, field.name, _shown(field.default), meaning, read)


def _shown(default: object) -> str | None:
    match default:
        case msgspec.NODEFAULT:
            return None
        case None:
            return ""
        case bool():
            return "on" if default else "off"
        case float():
            return f"{default:g}"
        case tuple():
            return ",".join(default)
    return "the package's own" if default is CONFIG_DIR else str(default)


VARIABLES = tuple(_variables())


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
