"""Deepgram's temporary tokens: `POST /v1/auth/grant` with the real key.

Control plane. For the direct transport: such a token opens a session at Deepgram for a client, for
some seconds, and is good for nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from control.errors import RETRY_SECONDS, ProblemError
from control.http.client import NoAnswer, Remote
from relay.transport.egress import Egress

log = logging.getLogger(__name__)

PATH = "/v1/auth/grant"
SHORTEST, LONGEST = 1, 3600  # seconds that Deepgram lets a token live


class TokenUnavailable(ProblemError):
    """Deepgram gave none; why is in the log."""

    def __init__(self) -> None:
        detail = "the agent gives no token at the moment; try again"
        super().__init__(503, "token_unavailable", detail, retry_after=RETRY_SECONDS)


class TemporaryToken(msgspec.Struct, frozen=True):
    """`expires_in` is in seconds; it counts for opening a connection, not for its length."""

    access_token: str
    expires_in: float

    def __repr__(self) -> str:
        return f"<TemporaryToken expires_in={self.expires_in:g}>"


class Minter:
    """Asks for tokens that live `seconds`."""

    def __init__(
        self, api_url: str, key: Callable[[], str], egress: Egress, *, seconds: float
    ) -> None:
        self._remote = Remote(egress, api_url.rstrip("/") + PATH)
        self._key = key
        self._seconds = round(min(max(seconds, SHORTEST), LONGEST))
        self.running = self._remote.running

    async def mint(self) -> TemporaryToken:
        """Raises `TokenUnavailable`."""
        key = {"Authorization": f"Token {self._key()}"}
        try:
            body = await self._remote.fetch(
                "POST", json={"ttl_seconds": self._seconds}, headers=key
            )
            return msgspec.json.decode(body, type=TemporaryToken)
        except NoAnswer as error:
            reason = str(error)
        except (msgspec.DecodeError, UnicodeDecodeError):
            reason = "not the answer of Deepgram"
        log.error("temporary_token_failed reason=%s", reason)
        raise TokenUnavailable
