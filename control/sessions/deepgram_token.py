"""Deepgram's temporary tokens: `POST /v1/auth/grant` with the real key.

Control plane. For the direct transport: such a token opens a session at Deepgram for a client, for
some seconds, and is good for nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec

from config.env_types import Secret
from control.http.client import open_client
from relay.transport import network_errors
from relay.transport.egress import Egress

log = logging.getLogger(__name__)

PATH = "/v1/auth/grant"
SECONDS = 5.0  # a user waits
LARGEST = 64 * 1024  # bytes of the answer
SHORTEST, LONGEST = 1, 3600  # seconds that Deepgram lets a token live


class TokenUnavailable(Exception):
    """Deepgram gave none; why is in the log."""


class TemporaryToken(msgspec.Struct, frozen=True):
    """`expires_in` is in seconds; it counts for opening a connection, not for its length."""

    access_token: str
    expires_in: float

    def __repr__(self) -> str:
        return f"<TemporaryToken expires_in={self.expires_in:g}>"


class Minter:
    """Asks for tokens that live `seconds`."""

    def __init__(self, api_url: str, key: Secret, egress: Egress, *, seconds: float) -> None:
        self._url = api_url.rstrip("/") + PATH
        self._key = key
        self._egress = egress
        self._seconds = round(min(max(seconds, SHORTEST), LONGEST))
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tokens can be had while inside."""
        async with open_client(self._egress, self._url) as client:
            self._client = client
            yield
        self._client = None

    async def mint(self) -> TemporaryToken:
        """Raises `TokenUnavailable`."""
        if self._client is None:
            raise RuntimeError("the client is not open")
        try:
            async with asyncio.timeout(SECONDS):
                answer = await self._client.post(
                    self._url,
                    json={"ttl_seconds": self._seconds},
                    headers={"Authorization": f"Token {self._key.reveal()}"},
                    follow_redirects=False,
                )
            if answer.status_code != 200:
                raise self._failed(f"HTTP {answer.status_code}")
            return msgspec.json.decode(answer.content[:LARGEST], type=TemporaryToken)
        except (httpx.HTTPError, TimeoutError) as error:
            proxied = self._egress.find_proxy(self._url) is not None
            raise self._failed(network_errors.find_word(error, proxied=proxied)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._failed("not the answer of Deepgram") from error

    def _failed(self, reason: str) -> TokenUnavailable:
        log.error("temporary_token_failed reason=%s", reason)
        return TokenUnavailable(reason)
