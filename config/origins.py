"""Origins (RFC 6454), hosts and addresses, written in one way, to be compared as texts. Pure.

`https://Example.com:443` and `https://example.com` are the same origin. Wrapped pages have schemes
of their own (`capacitor://localhost`), which have no default port.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]+)", re.IGNORECASE)
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([0-9]{1,5}))?")


def split_host(text: str) -> tuple[str, int | None] | None:
    """A `Host` as name or address and port, in small letters; None: it is none.

    An IPv6 address keeps its brackets and has its shortest form; the dot at the end of a name goes.
    """
    if not text.isascii():
        try:
            text = text.encode("idna").decode()
        except UnicodeError:
            return None
    found = _HOST.fullmatch(text.lower())
    if found is None:
        return None
    address, name, port = found.groups()
    if port is not None and int(port) > 65535:
        return None
    if address is None:
        host = name.removesuffix(".") or name
    else:
        try:
            host = f"[{IPv6Address(address).compressed}]"
        except AddressValueError:
            return None
    return host, None if port is None else int(port)


def normalise(origin: str) -> str | None:
    """The origin as browsers write it: no default port, small letters; None: it is none."""
    found = _ORIGIN.fullmatch(origin)
    parts = split_host(found[2]) if found else None
    if found is None or parts is None:
        return None
    scheme, (host, port) = found[1].lower(), parts
    if port is None or port == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def is_same(origin: str, host: str, *, is_secure: bool) -> bool:
    """Whether a page of `origin` was loaded from `host`.

    `is_secure`: the request is known to have come over TLS. If not, a proxy may have ended TLS and
    not have told: then the scheme of the page is taken for that of the request.
    """
    page = normalise(origin)
    scheme = "" if page is None else page.partition("://")[0]
    if scheme not in _DEFAULT_PORTS or (is_secure and scheme != "https"):
        return False
    return page == normalise(f"{scheme}://{host}")


def read_address(text: str) -> Address | None:
    """None: it is none. An IPv4 address that came in over IPv6 is an IPv4 address."""
    try:
        address = ip_address(text.partition("%")[0])  # without the interface of fe80::1%eth0
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_loopback(host: str) -> bool:
    """A name of this machine, which no other name server has a say in, or its address."""
    address = read_address(host.strip("[]"))
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")
