"""How connections leave: through which proxy, and with which TLS.

One answer for the agent's WebSocket, Deepgram's REST API, the Orchestrator and the keys of a
sign-in. Names are resolved by the proxy where there is one: the network may have no DNS for them.
"""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import certifi

from config.env_types import Secret
from config.errors import ConfigError
from config.settings import Settings

THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Egress:
    """The way out that the settings describe."""

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigError` when a file cannot be read or is not what it should be."""
        self._everything = settings.egress_proxy
        self._by_scheme = {
            "https": settings.https_proxy or settings.all_proxy,
            "wss": settings.https_proxy or settings.all_proxy,
            "http": settings.http_proxy or settings.all_proxy,
            "ws": settings.http_proxy or settings.all_proxy,
        }
        self._directly = settings.no_proxy
        self._authorities = settings.tls_ca_file
        self._certificate = settings.tls_cert_file
        self._key = settings.tls_key_file
        self._oldest = _VERSIONS[settings.tls_min_version]
        self.make_tls()  # so that a mistake is seen at the start

    def __repr__(self) -> str:
        return f"<Egress tls>={self._oldest.name}>"

    def find_proxy(self, url: str) -> Secret | None:
        """The proxy for a URL, credentials included; None: none. Never for this machine."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if host in THIS_MACHINE or any(_covers(rule, host, parts.port) for rule in self._directly):
            return None
        return self._everything or self._by_scheme.get(parts.scheme)

    def make_tls(self) -> ssl.SSLContext:
        """A context of the caller's own (httpx changes the one that it is given)."""
        context = ssl.create_default_context()
        known = ssl.get_default_verify_paths()
        if known.cafile is None and known.capath is None:  # an image without authorities
            context.load_verify_locations(certifi.where())
        context.minimum_version = self._oldest
        if self._authorities is not None:
            _load_authorities(context, self._authorities)
        if self._certificate is not None:
            _load_certificate(context, self._certificate, self._key)
        return context


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        wanted = "expected a file of certificates (PEM)"
        raise ConfigError([f"RELAY_TLS_CA_FILE: {wanted}, got {path}: {_why(error)}"]) from error


def _load_certificate(context: ssl.SSLContext, path: Path, key: Path | None) -> None:
    try:
        # Without a password of its own, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(path, key, password=lambda: "")
    except OSError as error:
        wanted = "expected a certificate and its key (PEM, not encrypted)"
        got = f"{path} and {key}" if key else str(path)
        raise ConfigError([f"RELAY_TLS_CERT_FILE: {wanted}, got {got}: {_why(error)}"]) from error


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return error.strerror or type(error).__name__


def _covers(rule: str, host: str, port: int | None) -> bool:
    """NO_PROXY as others read it: *, a host with all below it, an address, a network; a port."""
    if rule == "*":
        return True
    if "/" in rule:
        return _is_in(host, rule)
    name, colon, number = rule.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        rule = name
    rule = rule.strip("[]").removeprefix("*").removeprefix(".")
    return host == rule or host.endswith(f".{rule}")


def _is_in(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
