"""One way to a host, hop by hop: name, connection, proxy, TLS, an answer.

Control plane, for the doctor: what goes wrong is told apart by the hop that it goes wrong at. The
program itself takes the same way in one step (relay/transport/dial.py, client.py).
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
from cryptography import x509
from python_socks import ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy

from relay.transport.egress import Egress

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Certificate(msgspec.Struct, frozen=True):
    """What a server showed, trusted or not."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    ends: datetime
    version: str  # of TLS


class Answer(msgspec.Struct, frozen=True):
    """The head of an HTTP answer; `date` is the server's clock."""

    status: int
    headers: dict[str, str]
    date: datetime | None


class TunnelRefused(OSError):
    """The proxy does not let us pass; its cause says why (relay/transport/network_errors.py)."""


class Streams(msgspec.Struct):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Route:
    """How to get to the host of `url`; `next_host` and `next_port` are the first hop."""

    def __init__(self, url: str, egress: Egress) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or PORTS[parts.scheme]
        self.secure = parts.scheme in ("https", "wss")
        self.path = parts.path or "/"
        self._egress = egress
        found = egress.find_proxy(url)
        self.proxy: SplitResult | None = urlsplit(found.reveal()) if found else None
        self.next_host = (self.proxy.hostname or "") if self.proxy else self.host
        self.next_port = (self.proxy.port or 0) if self.proxy else self.port

    def __repr__(self) -> str:
        return f"<Route {self.host}:{self.port} proxied={self.proxy is not None}>"

    async def resolve(self) -> list[str]:
        """The addresses of the next hop. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.next_host, self.next_port, type=1)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def connect(self) -> None:
        """Whether somebody listens at the next hop. Raises OSError."""
        _, writer = await asyncio.open_connection(self.next_host, self.next_port)
        writer.close()

    @asynccontextmanager
    async def tunnel(self) -> AsyncIterator[Streams]:
        """A connection to the host, through the proxy if there is one; no TLS with the host yet.

        Raises OSError.
        """
        try:
            streams = await self._open()
        except ProxyError as error:
            raise TunnelRefused from error
        try:
            yield streams
        finally:
            streams.writer.transport.abort()

    async def secure_with(self, streams: Streams, context: ssl.SSLContext) -> Certificate:
        """The TLS handshake with the host, on what `tunnel` gave. Raises OSError."""
        await streams.writer.start_tls(context, server_hostname=self.host)
        tls = streams.writer.get_extra_info("ssl_object")
        return _read_certificate(tls.getpeercert(binary_form=True), tls.version() or "")

    async def show_certificate(self) -> Certificate:
        """What the host shows, whether it is to be trusted or not. Raises OSError."""
        context = self._egress.make_tls()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with self.tunnel() as streams:
            return await self.secure_with(streams, context)

    async def ask(self, streams: Streams, headers: dict[str, str], method: str = "GET") -> Answer:
        """One request, with no credentials; the head of the answer. Raises OSError."""
        authority = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {self.path} HTTP/1.1", f"Host: {authority}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        streams.writer.write("\r\n".join([*lines, "", ""]).encode())
        return await _read_head(streams.reader)

    # --- the proxy ---------------------------------------------------------------------------

    async def _open(self) -> Streams:
        if self.proxy is None:
            return Streams(*await asyncio.open_connection(self.host, self.port))
        user = unquote(self.proxy.username or "")
        password = unquote(self.proxy.password or "")
        if self.proxy.scheme.startswith("socks5"):
            socks = Proxy(
                ProxyType.SOCKS5, self.next_host, self.next_port, user, password, rdns=True
            )
            opened = await socks.connect(self.host, self.port)
            return Streams(*await asyncio.open_connection(sock=opened))
        streams = Streams(*await asyncio.open_connection(self.next_host, self.next_port))
        try:
            if self.proxy.scheme == "https":
                await streams.writer.start_tls(
                    self._egress.make_tls(), server_hostname=self.next_host
                )
            await self._ask_proxy(streams, user, password)
        except BaseException:
            streams.writer.transport.abort()
            raise
        return streams

    async def _ask_proxy(self, streams: Streams, user: str, password: str) -> None:
        target = f"{self.host}:{self.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if user:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {token}")
        streams.writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await _read_head(streams.reader)
        if not 200 <= answer.status < 300:
            raise ProxyError(str(answer.status), answer.status)


async def _read_head(reader: asyncio.StreamReader) -> Answer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise ConnectionResetError("no HTTP answer") from None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        raise ConnectionResetError("no HTTP answer")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs if name}
    return Answer(int(words[1]), headers, _read_date(headers.get("date", "")))


def _read_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _read_certificate(der: bytes, version: str) -> Certificate:
    found = x509.load_der_x509_certificate(der)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = tuple(str(name.value) for name in names)
    except x509.ExtensionNotFound:
        shown = ()
    return Certificate(
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        names=shown,
        ends=found.not_valid_after_utc,
        version=version,
    )
