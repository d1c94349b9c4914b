"""Who asks: the one place where a user is found for a request.

Control plane. `SignIn.find_user` is the Litestar dependency `user`; all else is bound to the id
that it gives, so another way to sign in changes nothing outside this file. Such a function takes
the request and raises what `refuse` makes; docs/network.md has an example.

* `mock`: `get_current_user`, everybody is the same user. For `dev`, and behind something else that
  lets nobody pass who should not.
* `jwt`: the request's bearer token (jwt.py). The WebSocket has its tickets instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Request

from config.settings import Settings
from control.auth.jwks import Jwks, KeysUnavailable
from control.auth.jwt import Bearer, TokenRefused
from control.errors import ProblemError
from control.http.client import open_client
from relay.transport.egress import Egress

USER_ID = "00000000-0000-4000-8000-000000000001"  # a UUID, as Supabase's auth.uid() would be
RETRY_SECONDS = 5  # what Retry-After says while the keys cannot be had


class User(msgspec.Struct, frozen=True):
    """`id` is what conversations are bound to: 1 to 255 characters."""

    id: str


async def get_current_user() -> User:
    """The mock: always the same user."""
    return User(USER_ID)


class SignIn:
    """The dependency `user` of one program, and what it needs open."""

    def __init__(self, settings: Settings, egress: Egress) -> None:
        self._jwks: Jwks | None = None
        self._bearer: Bearer | None = None
        self._egress = egress
        self._jwks_url = settings.jwt_jwks_url
        if settings.auth == "jwt":
            if settings.jwt_jwks_url is not None:
                self._jwks = Jwks(settings.jwt_jwks_url)
            self._bearer = Bearer(
                secret=settings.jwt_secret,
                jwks=self._jwks,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
            )

    @property
    def find_user(self) -> Callable[..., Awaitable[User]]:
        return get_current_user if self._bearer is None else self._read_token

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keys can be fetched while inside."""
        if self._jwks is None or self._jwks_url is None:
            yield
            return
        async with open_client(self._egress, self._jwks_url) as client:
            self._jwks.client = client
            yield

    async def _read_token(self, request: Request[Any, Any, Any]) -> User:
        if self._bearer is None:
            raise RuntimeError("no way to sign in was set up")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise refuse("a bearer token is needed")
        try:
            return User(await self._bearer.read_subject(token.strip()))
        except TokenRefused as error:
            raise refuse(str(error), error="invalid_token") from error
        except KeysUnavailable as error:
            raise ProblemError(
                503,
                "sign_in_unavailable",
                "tokens cannot be checked at the moment; try again",
                retry_after=RETRY_SECONDS,
            ) from error


def refuse(detail: str, *, error: str | None = None) -> ProblemError:
    """A 401 as RFC 6750 has it."""
    challenge = 'Bearer realm="voice-relay"'
    if error is not None:
        challenge += f', error="{error}", error_description="{detail}"'
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})
