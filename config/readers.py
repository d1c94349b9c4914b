"""A reader for each kind of value that an environment variable can hold.

Each takes the text and returns the value, or raises `ValueError("expected ..., got ...")`; what may
be secret is never in the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from ipaddress import ip_network
from urllib.parse import SplitResult, urlsplit

from config.errors import did_you_mean, listed, shown

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


def database(text: str) -> Secret:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError('expected "postgresql://user:password@host/name", got another form')
    return Secret(text)


def url(*schemes: str, query: bool = True) -> Callable[[str], str]:
    """`query`: whether it may have one; not where a path is put behind it as it is."""
    wanted = "expected a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes)
    bare = wanted + (" and has no fragment (#)" if query else " and has no query and no fragment")

    def read(text: str) -> str:
        parts = _split(text, wanted)
        ours = bool(parts.hostname) and "@" not in parts.netloc
        if parts.scheme not in schemes or not ours or set(text) & set(" \t\r\n"):
            raise ValueError(f"{wanted}, got {_without_password(text)}")
        if "#" in text or ("?" in text and not query):
            raise ValueError(f"{bare}, got {_without_password(text)}")
        address, mark, rest = text.partition("?")
        return address.rstrip("/") + mark + rest

    return read


def _split(text: str, wanted: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # reading it is what checks it
    except ValueError:
        raise ValueError(f"{wanted}, got {_without_password(text)}") from None
    return parts


def _without_password(text: str) -> str:
    if "@" in text:
        return "a URL with a name or password in it (not shown)"
    return shown(mask_query(text))


def mask_query(url: str) -> str:
    """The URL with stars for its query, which may hold a key."""
    address, mark, _ = url.partition("?")
    return f"{address}?***" if mark else address


def proxy(text: str) -> Secret:
    """The proxy's URL with its port; without a scheme it is http, as in other programs."""
    wanted = "expected a proxy such as http://user:password@host:3128, or https:// or socks5://"
    if not all(0x20 < ord(letter) < 0x7F for letter in text):
        raise ValueError(f"{wanted}, got other letters (write them as %XX; not shown)")
    whole = text if "://" in text else f"http://{text}"
    parts = _split(whole, wanted)
    port = PROXY_PORTS.get(parts.scheme)
    if port is None or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"{wanted}, got {_without_password(text)}")
    return Secret(f"{parts.scheme}://{parts.netloc}" + ("" if parts.port else f":{port}"))


def hosts(text: str) -> tuple[str, ...]:
    return tuple(host.strip().lower() for host in text.split(",") if host.strip())


def switch(text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ValueError(f"expected on or off, got {shown(text)}")
    return text.lower() == "on"


def origins(text: str) -> tuple[str, ...]:
    origins = [origin.strip() for origin in text.split(",")]
    wanted = 'expected origins such as "https://app.example.com", with commas between them'
    for origin in filter(None, origins):
        parts = _split(origin, wanted)
        bare = parts.scheme in ("http", "https") and origin == f"{parts.scheme}://{parts.netloc}"
        if not bare or not parts.hostname or "@" in origin:
            raise ValueError(f"{wanted} and no path, got {_without_password(origin)}")
    return tuple(origin.lower() for origin in origins if origin)


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    wanted = f"expected a whole number from {low}" + ("" if high is None else f" to {high}")

    def read(text: str) -> int:
        hint = ""
        if text.startswith("tcp://"):  # Kubernetes does that to pods beside a service "relay"
            hint = "; it is a service link: set enableServiceLinks to false or rename the service"
        if not text.isascii() or not text.isdigit():
            raise ValueError(f"{wanted}, got {shown(text)}{hint}")
        if int(text) < low or (high is not None and int(text) > high):
            raise ValueError(f"{wanted}, got {shown(text)}")
        return int(text)

    return read


def positive(unit: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ValueError(f"expected {unit} above 0, got {shown(text)}")
        return number

    return read


def positive_or_none(unit: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        if text == "0":
            return 0.0
        try:
            return positive(unit)(text)
        except ValueError:
            raise ValueError(f"expected {unit}, or 0, got {shown(text)}") from None

    return read


def networks(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        try:
            ip_network(name, strict=False)
        except ValueError:
            wanted = 'expected addresses or networks such as "10.0.0.0/8", with commas between them'
            raise ValueError(f"{wanted}, got {shown(name)}") from None
    return names


def one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            hint = did_you_mean(text.lower(), words)
            raise ValueError(f"expected one of {listed(words)}, got {shown(text)}{hint}")
        return text.lower()

    return read
