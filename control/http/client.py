"""HTTP to the outside: clients that leave as the settings say.

Control plane. Nothing of the environment but the settings counts: no `.netrc`, no other proxy.
"""

from __future__ import annotations

import httpx

from config.env_types import Secret
from relay.transport.egress import Egress

KEPT = 20  # connections that wait for the next request


def open_client(egress: Egress, url: str, *, connections: int = KEPT) -> httpx.AsyncClient:
    """A client for the host of `url`; who opens it closes it."""
    proxy = egress.find_proxy(url)
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=min(KEPT, connections)
    )
    return httpx.AsyncClient(
        verify=egress.make_tls(),
        proxy=_make_proxy(proxy, egress) if proxy else None,
        trust_env=False,
        limits=limits,
    )


def _make_proxy(proxy: Secret, egress: Egress) -> httpx.Proxy:
    url = proxy.reveal()
    secure = url.startswith("https://")
    return httpx.Proxy(url, ssl_context=egress.make_tls() if secure else None)
