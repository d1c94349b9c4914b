"""One GET on the way to a host, hop by hop: name, connection, proxy, TLS, an answer.

Control plane, for the doctor: what goes wrong is told apart by the hop that it goes wrong at. It is
httpx that goes, by the proxy and with the TLS that the program itself takes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from control.doctor.report import Report, Status
from control.http.client import open_client
from relay.transport.egress import THIS_MACHINE, Egress

SOON = timedelta(days=14)  # a certificate that ends before this is worth a word
PROXY_WANTS_A_NAME = 407


class Probe:
    """Each hop that is passed is reported; `hop` is the one under way, `where` whom it is to reach.

    `url` is asked for without a query and without a name and password: they may be secret.
    """

    def __init__(self, name: str, url: str, egress: Egress, report: Report, *, last: str) -> None:
        """`last` is what the hop is called at which an answer is due."""
        is_secure = urlsplit(url).scheme in ("https", "wss")
        self._url = httpx.URL(url).copy_with(
            scheme="https" if is_secure else "http", userinfo=b"", query=None, fragment=None
        )
        self._name = name
        self._last = f"{name} {last}"
        self._egress = egress
        self._report = report
        proxy = egress.find_proxy(url)
        self._proxy = urlsplit(proxy.reveal()) if proxy else None
        self._port = self._url.port or (443 if is_secure else 80)
        self.hop = f"{name} proxy dns" if proxy else f"{name} dns"
        self.where = self._url.host
        self.certificate: x509.Certificate | None = None
        self._opened = AsyncExitStack()

    async def ask(self, headers: dict[str, str], seconds: float) -> httpx.Response:
        """The head of the answer; each hop may take so long. Raises OSError or httpx.HTTPError."""
        loop = asyncio.get_running_loop()

        async def hear(event: str, about: dict[str, Any]) -> None:
            limit.reschedule(loop.time() + seconds)
            self._hear(event, about)

        async with asyncio.timeout(seconds) as limit, AsyncExitStack() as self._opened:
            await self._resolve()
            async with (
                open_client(self._egress, str(self._url)) as client,
                client.stream(
                    "GET",
                    self._url,
                    headers=headers,
                    extensions={"trace": hear},
                    timeout=None,
                ) as answer,
            ):
                if answer.status_code == PROXY_WANTS_A_NAME:
                    raise httpx.ProxyError(str(answer.status_code))
                return answer

    async def _resolve(self) -> None:
        port: int | None = self._port
        if self._proxy:
            self.where, port = self._proxy.hostname or "", self._proxy.port
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.where, port, type=socket.SOCK_STREAM)
        addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
        self._report.ok(self.hop, f"{self.where} is {', '.join(list(addresses)[:3])}")
        self.hop = self.hop.replace(" dns", " connect")
        self.where = f"{self.where}:{port}"

    def _hear(self, event: str, about: dict[str, Any]) -> None:
        """What httpcore tells: a step has started or is complete, of which layer."""
        match event.split("."):
            case [_, "connect_tcp", "complete"]:
                # httpcore leaves it open when a SOCKS proxy refuses.
                self._opened.push_async_callback(about["return_value"].aclose)
                self._report.ok(self.hop, f"{self.where} answers")
                if self._url.scheme == "http":
                    is_near = self._url.host in THIS_MACHINE
                    status: Status = "skipped" if is_near else "warning"
                    self._report.add(f"{self._name} tls", status, "not encrypted")
                    self.hop = self._last
                elif self._proxy:
                    self.hop = f"{self._name} proxy tunnel"
                    self.where = f"{self._url.host}:{self._port}"
                else:
                    self.hop, self.where = f"{self._name} tls", self._url.host
            case ["proxy" | "socks", "start_tls", "started"]:
                self._report.ok(self.hop, f"to {self.where}")
                self.hop, self.where = f"{self._name} tls", self._url.host
            # With a proxy the layer "connection" is the TLS with the proxy itself.
            case [layer, "start_tls", "complete"] if layer != "connection" or not self._proxy:
                self._see(about["return_value"].get_extra_info("ssl_object"))
                self.hop = self._last

    def _see(self, tls: ssl.SSLObject) -> None:
        shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        self.certificate = shown
        detail = f"{tls.version()}, {self._url.host} {describe(shown)}"
        is_fresh = shown.not_valid_after_utc - datetime.now(UTC) >= SOON
        self._report.judge(self.hop, is_fresh, detail, "the certificate ends soon", "warning")


def describe(shown: x509.Certificate) -> str:
    return f"by {shown.issuer.rfc4514_string()}, until {shown.not_valid_after_utc.date()}"


def find_names(shown: x509.Certificate) -> str:
    """Whom it is for: the first names, or its subject."""
    try:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return ", ".join(str(name.value) for name in list(names)[:5])
    except x509.ExtensionNotFound:
        return shown.subject.rfc4514_string()
