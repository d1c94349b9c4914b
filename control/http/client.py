"""HTTP to the outside: clients that leave as the settings say.

Control plane. Nothing of the environment but the settings counts: no `.netrc`, no other proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from relay.transport import network_errors
from relay.transport.egress import Egress

KEPT = 20  # connections that wait for the next request
FETCH_SECONDS = 5.0  # a user waits
LARGEST = 256 * 1024  # bytes of an answer


def open_client(egress: Egress, url: str, *, connections: int = KEPT) -> httpx.AsyncClient:
    """A client for the host of `url`; who opens it closes it."""
    secret = egress.find_proxy(url)
    proxy = None if secret is None else httpx.Proxy(secret.reveal())
    if proxy is not None and proxy.url.scheme == "https":
        proxy.ssl_context = egress.tls
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=min(KEPT, connections)
    )
    return httpx.AsyncClient(verify=egress.tls, proxy=proxy, trust_env=False, limits=limits)


async def release(answer: httpx.Response) -> None:
    """Close a streamed answer, so that nothing of it waits for the garbage collector."""
    try:
        await answer.aclose()
    finally:
        answer.stream = httpx.ByteStream(b"")  # httpx's own knows the answer: a cycle


class NoAnswer(Exception):
    """None that can be used; the text says why and is fit for the log."""


class Remote:
    """One URL outside, which gives short answers."""

    def __init__(self, egress: Egress, url: str) -> None:
        self.url = url
        self._is_proxied = egress.find_proxy(url) is not None
        self._client = open_client(egress, url)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It may be asked while inside."""
        async with self._client:
            yield

    async def fetch(self, method: str, *, query: str = "", **more: Any) -> bytes:
        """The body of a 200, in `FETCH_SECONDS`; `query` is behind the URL, and `more` as for
        httpx. Raises `NoAnswer`."""
        url = f"{self.url}?{query}" if query else self.url
        body = bytearray()
        try:
            async with (
                asyncio.timeout(FETCH_SECONDS),
                self._client.stream(method, url, follow_redirects=False, **more) as answer,
            ):
                try:
                    if answer.status_code != 200:
                        raise NoAnswer(f"HTTP {answer.status_code}")
                    async for chunk in answer.aiter_bytes():
                        body += chunk
                        if len(body) > LARGEST:
                            raise NoAnswer("the answer is too long")
                finally:
                    await release(answer)
        # AttributeError: a connection that was reset as it opened (orchestrator_client.py)
        except (httpx.HTTPError, TimeoutError, AttributeError) as error:
            word = network_errors.find_word(error, proxied=self._is_proxied)
            reason = type(error).__name__ if word == network_errors.NOTHING else word
            raise NoAnswer(reason) from error
        return bytes(body)
