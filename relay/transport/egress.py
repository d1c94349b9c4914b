"""How connections leave: through which proxy, and with which TLS.

One answer for the agent's WebSocket, Deepgram's REST API, the Orchestrator and the keys of a
sign-in. Names are resolved by the proxy where there is one: the network may have no DNS for them.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import certifi

from config.env_types import Secret
from config.errors import ConfigError
from config.settings import Settings

THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Egress:
    """The way out that the settings describe. `tls` is for all connections: to read the system's
    authorities takes 20 ms."""

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigError` when a file cannot be read or is not what it should be."""
        self._settings = settings
        self.tls = self._make_tls()

    def __repr__(self) -> str:
        return f"<Egress tls>={_VERSIONS[self._settings.tls_min_version].name}>"

    def find_proxy(self, url: str) -> Secret | None:
        """The proxy for a URL, credentials included; None: none. Never for this machine."""
        settings, parts = self._settings, urlsplit(url)
        host = (parts.hostname or "").lower()
        if host in THIS_MACHINE or any(_covers(r, host, parts.port) for r in settings.no_proxy):
            return None
        is_tls = parts.scheme in ("https", "wss")
        of_scheme = settings.https_proxy if is_tls else settings.http_proxy
        return settings.egress_proxy or of_scheme or settings.all_proxy

    def _make_tls(self) -> ssl.SSLContext:
        settings, context = self._settings, ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])  # as httpx does to the one that it is given
        known = ssl.get_default_verify_paths()
        if known.cafile is None and known.capath is None:  # an image without authorities
            context.load_verify_locations(certifi.where())
        context.minimum_version = _VERSIONS[settings.tls_min_version]
        if (file := settings.tls_ca_file) is not None:
            with _explained("RELAY_TLS_CA_FILE: expected a file of certificates (PEM)", file):
                context.load_verify_locations(file)
        if (file := settings.tls_cert_file) is not None:
            wanted = "RELAY_TLS_CERT_FILE: expected a certificate and its key (PEM, not encrypted)"
            with _explained(wanted, file, settings.tls_key_file):
                # Without a password of its own, OpenSSL would ask for one at the terminal.
                context.load_cert_chain(file, settings.tls_key_file, password=lambda: "")
        return context


@contextmanager
def _explained(wanted: str, *files: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        got = " and ".join(str(file) for file in files if file)
        why = error.strerror or type(error).__name__
        if isinstance(error, ssl.SSLError):
            why = (error.reason or "not PEM").lower().replace("_", " ")
        raise ConfigError([f"{wanted}, got {got}: {why}"]) from error


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
