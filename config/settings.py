"""Deployment values, from the environment.

`Settings` is the one list of them; docs/reference/settings.md is made from it. What a
conversation designer changes is not here but in the YAML files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from config import env_types
from config.database_url import read_as_secret
from config.env_types import Secret
from config.errors import ConfigError, did_you_mean, shown
from config.limits import Limits
from config.origins import is_loopback
from config.validation import check

CONFIG_DIR = Path(__file__).parent
"""The files that ship."""

KEY, KEY_FILE = "DEEPGRAM_API_KEY", "DEEPGRAM_API_KEY_FILE"

STAND_INS = {
    KEY: "sandbox",
    "DATABASE_URL": "postgresql://embedded",
    "ORCHESTRATOR_URL": "http://127.0.0.1",
}
"""For the required variables where none is set, as in `voice-relay dev`: only their form counts."""

PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
NOT_OURS = (
    *(KEY, KEY_FILE, "DEEPGRAM_AGENT_URL", "DEEPGRAM_AGENT_FALLBACK_URL"),
    *("DEEPGRAM_API_URL", "DATABASE_URL", "DATABASE_DIRECT_URL"),
    *("ORCHESTRATOR_URL", "ORCHESTRATOR_TOKEN", "ORCHESTRATOR_SECRET", *PROXY_VARIABLES),
    *("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    "OTEL_SDK_DISABLED",
)
"""Variables without the prefix RELAY_."""

Credential = Annotated[Secret | None, env_types.credential]
File = Annotated[Path | None, Path]
Networks = Annotated[tuple[str, ...], env_types.networks]
Proxy = Annotated[Secret | None, env_types.proxy]
Switch = Annotated[bool, env_types.switch]


class Settings(Limits, frozen=True, kw_only=True):
    """What differs from one deployment to the next, beside its limits."""

    deepgram_api_key: Annotated[Secret, env_types.credential]
    """the API key of the Deepgram project; it never leaves the server"""
    deepgram_api_key_file: File = None
    """a file with that key, in its place; SIGHUP reads it again"""
    database_url: Annotated[Secret, read_as_secret]
    """the Postgres database, postgresql://user:password@host/name"""
    database_direct_url: Annotated[Secret | None, read_as_secret] = None
    """the same without the pooler in between: for notices, and for `migrate`"""
    orchestrator_url: Annotated[str, env_types.url("http", "https")]
    """the Orchestrator that intents are sent to; an intent's path is put behind it"""
    orchestrator_token: Credential = None
    """the bearer token for the Orchestrator"""
    orchestrator_secret: Credential = None
    """what requests to the Orchestrator are signed with"""
    deepgram_agent_url: Annotated[str, env_types.url("wss", "ws")] = (
        "wss://agent.deepgram.com/v1/agent/converse"
    )
    """the WebSocket of the Voice Agent API: a region, a proxy, the sandbox"""
    deepgram_agent_fallback_url: Annotated[str | None, env_types.url("wss", "ws")] = None
    """the same in another region, dialled with the same key when the first refuses or does not
    answer"""
    deepgram_api_url: Annotated[str, env_types.url("https", "http", query=False)] = (
        "https://api.deepgram.com"
    )
    """Deepgram's REST API, for temporary tokens of the direct transport"""
    egress_proxy: Proxy = None
    """the proxy of all connections that leave: `http://`, `https://` or `socks5://`, with
    `user:password@`"""
    https_proxy: Proxy = None
    """the proxy for https and wss, unless `RELAY_EGRESS_PROXY` is set; `https_proxy` does too"""
    http_proxy: Proxy = None
    """the same for http and ws"""
    all_proxy: Proxy = None
    """the proxy where the two above are not set"""
    no_proxy: Annotated[tuple[str, ...], env_types.hosts] = ()
    """hosts, domains, addresses and networks that are reached without a proxy, with commas
    between them"""
    tls_ca_file: File = None
    """certificate authorities (PEM) to trust besides the system's"""
    tls_cert_file: File = None
    """the client certificate (PEM), with its chain"""
    tls_key_file: File = None
    """its key (PEM, not encrypted), if it is not in the same file"""
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    """the oldest TLS that is spoken: `1.2` or `1.3`"""
    auth: Literal["mock", "jwt"] | None = None
    """who signs users in: `jwt`, or `mock` (everybody is one user); `serve` needs it"""
    jwt_secret: Annotated[Secret | None, env_types.jwt_secret] = None
    """the secret of HS256 tokens, 32 bytes at least"""
    jwt_jwks_url: Annotated[str | None, env_types.url("https", "http")] = None
    """where the public keys of RS256 and ES256 tokens are"""
    jwt_issuer: Annotated[str | None, str] = None
    """the issuer (`iss`) that tokens must have"""
    jwt_audience: str = "authenticated"
    """the audience (`aud`) that tokens must have"""
    direct_transport: Switch = False
    """`on`: sessions may be begun with `transport: "direct"`, which shows prompt and functions
    to the client"""
    host: str = "127.0.0.1"
    """the address to listen on"""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    """the port to listen on"""
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """worker processes of `serve`"""
    data_dir: Annotated[Path, Path] = Path(".relay")
    """where the relay keeps the journal, and `dev` its database; a local disk that outlives the
    process"""
    record_dir: File = None
    """where each session is recorded, event by event (recording.md); unset: nowhere. A local disk;
    workers may share it"""
    record_content: Switch = False
    """`on`: recordings keep what was said, and the arguments of calls; else lengths and hashes of
    it"""
    record_audio: Switch = False
    """`on`: the audio of both sides is recorded, too, of sessions that are begun with
    `record: true`"""
    public_url: Annotated[str | None, env_types.public_url] = None
    """the URL that browsers reach the relay under, and the only `Host` that is answered besides
    addresses of its own; if unset, taken from the request"""
    allowed_origins: Annotated[tuple[str, ...], env_types.origins] = ()
    """origins of pages that may connect besides the relay's own, with commas between them;
    `capacitor://localhost` and the like may be among them"""
    config_dir: Annotated[Path, Path] = CONFIG_DIR
    """the folder of `agent.yaml`, `intents.yaml`, `policy.yaml` and `system_prompt.md`"""
    client: Switch = True
    """`off`: the web client is not served at `/`"""
    trusted_proxies: Networks = ("127.0.0.1", "::1")
    """proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, addresses or
    networks; without them all who come through a proxy share its address"""
    metrics_networks: Networks = ("127.0.0.0/8", "::1")
    """who may read `/metrics` on the public port, addresses or networks; only directly, not
    through a proxy"""
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """the port of an address of its own for `/metrics`, which then is not on the public one;
    `0`: there is none"""
    metrics_host: str = "127.0.0.1"
    """the address to listen on with that port"""
    metrics_token: Credential = None
    """the bearer token that `/metrics` asks for, wherever it is; with it `RELAY_METRICS_NETWORKS`
    says nothing"""
    admin_key: Annotated[Secret | None, env_types.admin_key] = None
    """what opens `/admin` and its REST on the address of the metrics, at least 16 characters;
    without it and without a claim there is neither"""
    admin_claim: Annotated[tuple[str, str] | None, env_types.claim] = None
    """a claim of a JWT that opens the same, such as `role=voice-admin`; points lead into objects"""
    price_per_minute: Annotated[float, Meta(ge=0)] = 0.0
    """what a minute of an agent's connection costs in US dollars, as on the bill of Deepgram; then
    sessions and `voice-relay admin costs` say what they cost"""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """`debug`, `info`, `warning`, `error` or `critical`"""
    log_format: Literal["logfmt", "json"] = "logfmt"
    """how a line of the log is written: `logfmt` or `json`"""
    access_log: Switch = False
    """`on`: a line for each request, with method, path and status"""
    otel_traces_exporter: str = ""
    """where [traces](../traces.md) go: `otlp`, `console` or `none`; if unset, to one of the
    following, where there is one. The other variables `OTEL_…` are read by OpenTelemetry"""
    otel_exporter_otlp_endpoint: Credential = None
    """the OTLP receiver (HTTP) that traces go to"""
    otel_exporter_otlp_traces_endpoint: Credential = None
    """the same with its path, for traces alone"""
    otel_sdk_disabled: str = "false"
    """`true`: no traces, whatever else is set"""

    @property
    def traces_exporter(self) -> str:
        """Where traces go; `none`: there are none."""
        if self.otel_sdk_disabled.lower() == "true":
            return "none"
        endpoint = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        return self.otel_traces_exporter.lower() or ("otlp" if endpoint else "none")

    @property
    def lets_everybody_in(self) -> bool:
        """Whether other machines reach a relay where nobody signs in."""
        public = urlsplit(self.public_url or "//localhost").hostname or ""
        return self.auth == "mock" and not (is_loopback(self.host) and is_loopback(public))


class Variable(msgspec.Struct, frozen=True):
    """The variable of one field of `Settings`; `default` is what people are shown."""

    name: str
    field: str
    default: str | None  # None: has to be set
    read: Callable[[str], Any]  # raises ValueError("expected ..., got ...")


def _variables() -> Iterator[Variable]:
    kinds = get_type_hints(Settings, include_extras=True)
    fields = msgspec.structs.fields(Settings)
    for field in sorted(fields, key=lambda field: field.name in Limits.__struct_fields__):
        name = field.name.upper()
        name = name if name in NOT_OURS else f"RELAY_{name}"
        yield Variable(name, field.name, _shown(field.default), _reader(kinds[field.name]))


def _reader(kind: Any) -> Callable[[str], Any]:
    """The one that the type brings along; else numbers and words are held against the type."""
    readers = [kind, *getattr(kind, "__metadata__", ())]
    own = next((read for read in readers if isinstance(read, type | FunctionType)), None)
    return own or partial(_read, kind)


def _read(kind: Any, text: str) -> Any:
    value: object = text.lower()
    base = getattr(kind, "__origin__", None)
    if base in (int, float):
        with suppress(ValueError):
            number = base(text)
            value = number if abs(number) < math.inf else text
    return check(kind, value)


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
    environ, problems = _with_key(environ)
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        text = _text(environ, variable.name)
        if text:
            try:
                values[variable.field] = variable.read(text)
            except ValueError as error:
                # Kubernetes does that to pods beside a service "relay".
                link = "; it is a service link: set enableServiceLinks to false"
                hint = link if text.startswith("tcp://") else ""
                problems.append(f"environment: {variable.name}: {error}{hint}")
        elif variable.default is None:
            wanted = "expected a value (docs/reference/settings.md), got nothing; set it"
            problems.append(f"environment: {variable.name}: {wanted}")
    problems += _unknown_names(environ)
    problems += _contradictions(values)
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


def find_missing(environ: Mapping[str, str]) -> dict[str, str]:
    """The required variables that `environ` lacks, with their stand-ins."""
    named = KEY if environ.get(KEY_FILE) else None
    return {
        name: text for name, text in STAND_INS.items() if not environ.get(name) and name != named
    }


def _with_key(environ: Mapping[str, str]) -> tuple[Mapping[str, str], list[str]]:
    """The key out of its file, where there is one; what is wrong with that."""
    path = _text(environ, KEY_FILE)
    if not path:
        return environ, []
    place = f"environment: {KEY_FILE}: expected"
    if _text(environ, KEY):
        return environ, [f"{place} it or {KEY}, got both; remove one"]
    # A mistake here is said once.
    stood_in = {**environ, KEY: STAND_INS[KEY]}
    try:
        key = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        return stood_in, [f"{place} a file to read, got {shown(path)}: {reason}"]
    if not key:
        return stood_in, [f"{place} a file with the key, got an empty one"]
    return {**environ, KEY: key}, []


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
    if values.get("admin_claim") and not (values.get("jwt_secret") or values.get("jwt_jwks_url")):
        wanted = "expected RELAY_JWT_SECRET or RELAY_JWT_JWKS_URL beside it, got neither"
        found.append(f"environment: RELAY_ADMIN_CLAIM: {wanted}; set one of them")
    for name in ("admin_key", "admin_claim"):
        if values.get(name) and not values.get("metrics_port"):
            wanted = "expected RELAY_METRICS_PORT beside it, got none: nothing of it is public"
            found.append(f"environment: RELAY_{name.upper()}: {wanted}; set it")
    for name in ("record_content", "record_audio"):
        if values.get(name) and not values.get("record_dir"):
            wanted = "expected RELAY_RECORD_DIR beside it, got none"
            found.append(f"environment: RELAY_{name.upper()}: {wanted}; set it")
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
