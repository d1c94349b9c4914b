"""A reader for each kind of text that an environment variable can hold.

Each returns the value or raises `ValueError("expected ..., got ...")`; what may be secret is never
in the error.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from urllib.parse import SplitResult, quote, unquote, urlsplit

from config.errors import shown
from config.origins import normalise

PROXY_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


class Secret:
    """A text that is not for eyes: masked wherever it is printed, shown by `reveal()` alone."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def credential(text: str) -> Secret:
    if not all(0x20 < ord(letter) < 0x7F for letter in text):
        raise ValueError("expected printable ASCII without spaces, got something else (not shown)")
    return Secret(text)


def jwt_secret(text: str) -> Secret:
    if len(text.encode()) < 32:
        raise ValueError("expected at least 32 bytes (HS256), got fewer (not shown)")
    return Secret(text)


def admin_key(text: str) -> Secret:
    if len(text) < 16:
        raise ValueError("expected at least 16 characters, got fewer (not shown)")
    return credential(text)


def claim(text: str) -> tuple[str, str]:
    """A claim of a token and its value; a name with points leads into objects."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not all(name.split(".")) or not value:
        raise ValueError(f"expected a claim and its value such as role=admin, got {shown(text)}")
    return name, value


def url(*schemes: str, query: bool = True) -> Callable[[str], str]:
    """`query`: whether it may have one; not where a path is put behind it as it is."""
    begins = " or ".join(f"{scheme}://" for scheme in schemes)
    lacks = "fragment (#)" if query else "query and no fragment"
    wanted = f"expected a URL that begins with {begins} and has no {lacks}"

    def read(text: str) -> str:
        parts = _split(text, wanted)
        # An @ behind the host: what was taken for a host and a path is a name and a password.
        rest = f"{parts.path}{parts.fragment}" or parts.query
        ours = bool(parts.hostname) and "@" not in parts.netloc + rest
        unwanted = set(" \t\r\n#" if query else " \t\r\n#?")
        if parts.scheme not in schemes or not ours or set(text) & unwanted:
            raise ValueError(f"{wanted}, got {_without_password(text)}")
        address, mark, rest = text.partition("?")
        return address.rstrip("/") + mark + rest

    return read


def public_url(text: str) -> str:
    """One whose host can be told from others."""
    known = url("https", "http", query=False)(text)
    parts = urlsplit(known)
    if normalise(f"{parts.scheme}://{parts.netloc}") is None:
        raise ValueError(f"expected a URL with a name or an address as its host, got {shown(text)}")
    return known


def _split(text: str, wanted: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # reading it is what checks it
    except ValueError:
        raise ValueError(f"{wanted}, got {_without_password(text)}") from None
    return parts


def _without_password(text: str) -> str:
    """Nothing behind a ?, where other services have their keys."""
    if "@" in text:
        return "a URL with a name or password in it (not shown)"
    return shown(mask_query(text))


def mask_query(url: str) -> str:
    """The URL with stars for its query, which may hold a key."""
    address, mark, _ = url.partition("?")
    return f"{address}?***" if mark else address


def proxy(text: str) -> Secret:
    """The proxy's URL with its port, name and password escaped as everybody reads them; without a
    scheme it is http, as in other programs."""
    wanted = "expected a proxy such as http://user:password@host:3128, or https:// or socks5://"
    if not all(0x20 <= ord(letter) < 0x7F for letter in text):
        raise ValueError(f"{wanted}, got other letters (write them as %XX; not shown)")
    scheme, _, rest = (text if "://" in text else f"http://{text}").partition("://")
    person, at, place = rest.rpartition("@")
    if set(person) & set("/?#"):
        raise ValueError(f"{wanted}, got a / ? or # before the @ (write it as %XX; not shown)")
    if person:
        user, colon, password = person.partition(":")
        person = f"{_escaped(user)}{colon}{_escaped(password)}"
    parts = _split(f"{scheme}://{person}{at}{place}", wanted)
    port = PROXY_PORTS.get(parts.scheme)
    more = parts.path.strip("/") or parts.query or parts.fragment
    if port is None or not parts.hostname or more or " " in place:
        raise ValueError(f"{wanted}, got {_without_password(text)}")
    return Secret(f"{parts.scheme}://{parts.netloc}" + ("" if parts.port else f":{port}"))


def _escaped(text: str) -> str:
    return quote(unquote(text), safe="")


def hosts(text: str) -> tuple[str, ...]:
    return tuple(host.strip().lower() for host in text.split(",") if host.strip())


def switch(text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ValueError(f"expected on or off, got {shown(text)}")
    return text.lower() == "on"


def origins(text: str) -> tuple[str, ...]:
    """As browsers send them; those of wrapped pages (`capacitor://localhost`) may be among them."""
    wanted = 'expected origins such as "https://app.example.com", with commas between them'
    found = []
    for origin in filter(None, (origin.strip() for origin in text.split(","))):
        known = normalise(origin)
        if origin.lower() == "null":
            raise ValueError(
                f'{wanted}, got "null": any page can make itself one without an origin'
            )
        if known is None or known.startswith(("ws://", "wss://")):
            raise ValueError(f"{wanted} and no path, got {_without_password(origin)}")
        found.append(known)
    return tuple(found)


def networks(text: str) -> tuple[str, ...]:
    """Networks; bits beyond the prefix do not count, and a single address is a network, too."""
    wanted = 'expected addresses or networks such as "10.0.0.0/8", with commas between them'
    names = [name.strip() for name in text.split(",")]
    found = []
    for name in filter(None, names):
        try:
            network = ip_network(name.strip("[]"), strict=False)
        except ValueError:
            raise ValueError(f"{wanted}, got {shown(name)}") from None
        is_single = network.num_addresses == 1
        found.append(str(network.network_address if is_single else network))
    return tuple(found)
