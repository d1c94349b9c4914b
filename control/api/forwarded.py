"""What proxies say of a request: where its client is, and how the client came.

Control plane, pure. `X-Forwarded-For` is read from its end: each proxy adds the address that it was
asked from, and the first that is not one of ours is the client's. Of `X-Forwarded-Proto` the first
counts: how the browser spoke to the outermost proxy. What a client writes there about itself harms
nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from config.origins import split_host

Address = IPv4Address | IPv6Address
Headers = Iterable[tuple[bytes, bytes]]

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_SAID_BY_PROXIES = (b"forwarded", b"via", b"x-real-ip")


def read_address(text: str) -> Address | None:
    """None: it is none. An IPv4 address that came in over IPv6 is an IPv4 address."""
    try:
        address = ip_address(text.partition("%")[0])  # without the interface of fe80::1%eth0
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Networks:
    """Addresses and networks, as the settings have them; one of IPv6 may have IPv4 inside."""

    def __init__(self, names: Sequence[str]) -> None:
        self._networks = [ip_network(name) for name in names]

    def __contains__(self, address: Address | None) -> bool:
        forms: list[Address] = [address] if address is not None else []
        if isinstance(address, IPv4Address):
            forms.append(IPv6Address(f"::ffff:{address}"))
        return any(form in network for network in self._networks for form in forms)


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
