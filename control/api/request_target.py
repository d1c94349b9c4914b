"""What a request is for, the host and the path that it names, and who asks, by the word of proxies.
Before the router sees it.

Control plane. Whoever allows or denies paths in front of us (a proxy) must see the path that we
see, so there is one spelling of each: any other is not found. And a name that is not ours is not
answered: a page of another site may have made its name lead here (DNS rebinding), and would then be
of the same origin as we are.

`X-Forwarded-For` is read from its end: each proxy adds the address that it was asked from, and the
first that is not one of ours is the client's. Of `X-Forwarded-Proto` the first counts: how the
browser spoke to the outermost proxy. What a client writes there about itself harms nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from config.origins import split_host
from config.settings import Settings
from control.api.problems import PROBLEM_JSON, encode_problem
from control.api.security import public_origin
from control.errors import ProblemError

METRICS = "/metrics"
PROBES = frozenset({"/health/live", "/health/ready", METRICS})  # asked by address, or any name
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+"
_PATH = re.compile(rf"/|(?:/{_SEGMENT})+".encode())
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_SAID_BY_PROXIES = (b"forwarded", b"via", b"x-real-ip")

Address = IPv4Address | IPv6Address
Headers = Iterable[tuple[bytes, bytes]]
Check = Callable[[Address | None, str | None, Any], None]
"""Whether who is at this address may read metrics, by the host and headers of the request; raises
`ProblemError` if not."""


class Networks:
    """Addresses and networks, as the settings have them; one of IPv6 may have IPv4 inside."""

    def __init__(self, names: Sequence[str]) -> None:
        self._networks = [ip_network(name) for name in names]

    def __contains__(self, address: Address | None) -> bool:
        forms: list[Address] = [address] if address is not None else []
        if isinstance(address, IPv4Address):
            forms.append(IPv6Address(f"::ffff:{address}"))
        return any(form in network for network in self._networks for form in forms)


class RequestTargetMiddleware:
    """Litestar's application behind these checks; `scope` says who asks and how, from here on."""

    def __init__(self, app: ASGIApp, settings: Settings, check_metrics: Check) -> None:
        self._app = app
        self._proxies = Networks(settings.trusted_proxies)
        self._check_metrics = check_metrics
        _, _, netloc = (public_origin(settings) or "").partition("://")
        parts = split_host(netloc)
        self._public_host = parts[0] if parts else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = read_address(scope["client"][0]) if scope["client"] else None
        if peer is not None:
            self._apply_forwarded(scope, peer)
        try:
            if _PATH.fullmatch(scope["raw_path"]) is None:  # not spelled as ours are
                raise no_path()
            host = _find_host(scope)
            if scope["path"] == METRICS:
                self._check_metrics(peer, host, scope["headers"])
            elif scope["path"] not in PROBES:
                self._check_host(host, scope)
        except ProblemError as error:
            await _answer(error, scope, send)
            return
        if scope["type"] == ScopeType.HTTP and scope["method"] == "HEAD":
            # The same headers as for GET; the server leaves the body out, by its own scope.
            scope = cast(HTTPScope, {**scope, "method": "GET"})
        await self._app(scope, receive, send)

    def _apply_forwarded(self, scope: Scope, peer: Address) -> None:
        client = find_client(scope["headers"], peer, self._proxies)
        port = scope["client"][1] if scope["client"] and client == peer else 0
        scope["client"] = str(client), port
        scheme: Any = find_scheme(scope["headers"])
        if peer in self._proxies and scheme is not None:
            is_socket = scope["type"] == ScopeType.WEBSOCKET
            scope["scheme"] = scheme.replace("http", "ws") if is_socket else scheme

    def _check_host(self, host: str | None, scope: Scope) -> None:
        if self._public_host is None or host == self._public_host:
            return
        address = read_address((host or "").strip("[]"))
        here = read_address(scope["server"][0]) if scope["server"] else None
        if not is_loopback(host) and (address is None or address != here):
            raise ProblemError(400, "host", "expected Host to be that of RELAY_PUBLIC_URL")


def _find_host(scope: Scope) -> str | None:
    """The name or address that was asked for; None: it is none."""
    names = [value for name, value in scope["headers"] if name == b"host"]
    if len(names) > 1:
        raise ProblemError(400, "host", "expected one Host")
    parts = split_host(names[0].decode("latin-1")) if names else None
    return parts[0] if parts else None


def no_path() -> ProblemError:
    return ProblemError(404, "not_found", "Not Found")


def is_loopback(host: str | None) -> bool:
    """A name of this machine, which no other name server has a say in, or its address."""
    host = host or ""
    address = read_address(host.strip("[]"))
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")


async def _answer(error: ProblemError, scope: Scope, send: Send) -> None:
    body = encode_problem(error)
    is_socket = scope["type"] == ScopeType.WEBSOCKET
    kind: Any = "websocket.http.response" if is_socket else "http.response"
    headers = [
        (b"content-type", PROBLEM_JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": f"{kind}.start", "status": error.status, "headers": headers})  # type: ignore[misc,arg-type]
    await send({"type": f"{kind}.body", "body": body, "more_body": False})  # type: ignore[misc,arg-type]


# --- what proxies say: pure ---------------------------------------------------------------------


def read_address(text: str) -> Address | None:
    """None: it is none. An IPv4 address that came in over IPv6 is an IPv4 address."""
    try:
        address = ip_address(text.partition("%")[0])  # without the interface of fe80::1%eth0
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def find_client(headers: Headers, peer: Address, proxies: Networks) -> Address:
    """Where the client is; a proxy that says nothing which is an address is taken for it."""
    client = peer
    for text in reversed(_values(headers, b"x-forwarded-for")):
        if client not in proxies:
            break
        said = _read_hop(text)
        if said is None:
            break
        client = said
    return client


def find_scheme(headers: Headers) -> str | None:
    """`http` or `https`, as the browser asked; None: no proxy says."""
    said = _values(headers, b"x-forwarded-proto")
    return _SCHEMES.get(said[0].lower()) if said else None


def came_by_proxy(headers: Headers) -> bool:
    """Whether a proxy says that it was on the way."""
    return any(n.startswith(b"x-forwarded-") or n in _SAID_BY_PROXIES for n, _ in headers)


def _read_hop(text: str) -> Address | None:
    """An address, with a port or without."""
    text = text.strip('"')
    address = read_address(text)
    if address is None and (parts := split_host(text)) is not None:
        address = read_address(parts[0].strip("[]"))
    return address


def _values(headers: Headers, name: bytes) -> list[str]:
    """Of all lines with this name, in order."""
    whole = b",".join(value for known, value in headers if known == name).decode("latin-1")
    return [word.strip() for word in whole.split(",") if word.strip()]
