"""The public keys that tokens are signed with, from a JWKS URL.

Control plane. They are kept for ten minutes; a token with a key that is not among them makes us
look again, but not more often than every ten seconds, whatever is sent. Keys that were once read go
on counting while the URL does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import jwt
import msgspec

from control.errors import ProblemError
from control.http.client import NoAnswer, Remote

log = logging.getLogger(__name__)

KEPT_SECONDS = 600.0
PAUSE_SECONDS = 10.0
LONG_PAUSE_SECONDS = 60.0  # when the URL does not answer and the key is known
RETRY_SECONDS = 5  # what Retry-After says while no keys can be had


class KeysUnavailable(ProblemError):
    """No keys could be read yet."""

    def __init__(self) -> None:
        detail = "tokens cannot be checked at the moment; try again"
        super().__init__(503, "sign_in_unavailable", detail, retry_after=RETRY_SECONDS)


class Jwks:
    """`clock` gives monotonic seconds; `count` hears of each read, `read` or `failed`."""

    def __init__(
        self,
        remote: Remote,
        *,
        clock: Callable[[], float] = time.monotonic,
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self.running = remote.running
        self._remote = remote
        self._clock = clock
        self._count = count
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = float("-inf")
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Jwks keys={len(self._keys)}>"

    async def find(self, kid: str | None) -> jwt.PyJWK | None:
        """The key with this id; None: there is none. Without an id: the only one.

        Raises `KeysUnavailable` when none was ever read.
        """
        if self._should_ask(kid):
            async with self._lock:  # one request for all who wait
                if self._should_ask(kid):
                    await self._ask()
        if not self._keys:
            raise KeysUnavailable
        return self._look_up(kid)

    def _look_up(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _should_ask(self, kid: str | None) -> bool:
        is_known = self._look_up(kid) is not None
        if is_known and self._clock() - self._read_at <= KEPT_SECONDS:
            return False
        # Whoever has a known key waits for us as well: not again and again.
        pause = LONG_PAUSE_SECONDS if is_known else PAUSE_SECONDS
        return self._clock() - self._asked_at >= pause

    async def _ask(self) -> None:
        try:
            self._keys = _read(await self._remote.fetch("GET"))
            self._read_at = self._clock()
            self._count("read")
        except (NoAnswer, ValueError, jwt.PyJWTError) as error:
            # What others make of the answer may quote it.
            reason = error if isinstance(error, NoAnswer) else "not a set of keys"
            log.error("jwks_unavailable reason=%s", reason)
            self._count("failed")
        self._asked_at = self._clock()


def _read(body: bytes) -> dict[str | None, jwt.PyJWK]:
    """Those that we can use; what is for encryption or of another kind is left out."""
    document = msgspec.json.decode(body, type=dict[str, Any])  # its error is a ValueError
    keys = jwt.PyJWKSet.from_dict(document).keys
    return {key.key_id: key for key in keys if key.public_key_use in (None, "sig")}
