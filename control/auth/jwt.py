"""Checks JSON Web Tokens: signature, times, issuer, audience; `sub` is the user.

Control plane; the door to PyJWT, with jwks.py. Which algorithms are taken depends on what was set
up, never on the token: HS256 with the secret, RS256 and ES256 with the public keys. So a token
without a signature is refused, and a public key is never taken for a secret.
"""

from __future__ import annotations

from typing import Any

import jwt
from litestar import Request
from litestar.connection import ASGIConnection

from config.settings import Settings
from control.auth.current_user import User, refuse
from control.auth.jwks import Jwks
from control.errors import ProblemError

LEEWAY = 30  # seconds that clocks may differ
LONGEST_TOKEN = 8_000
LONGEST_SUBJECT = 255
PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256")

_WRONG: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidAudienceError: "the token is for another audience",
    jwt.InvalidIssuerError: "the token is of another issuer",
    jwt.InvalidSignatureError: "the signature of the token is wrong",
}


class Bearer:
    """Reads the user from tokens, as `RELAY_JWT_…` says; with a secret, with `jwks` or both."""

    def __init__(self, settings: Settings, jwks: Jwks | None) -> None:
        self._settings = settings
        self._jwks = jwks

    async def find_user(self, request: Request[Any, Any, Any]) -> User:
        """Raises `ProblemError`."""
        return User(await self.read_subject(read_bearer(request)))

    async def read_subject(self, token: str) -> str:
        """The user's id. Raises `ProblemError`: `KeysUnavailable` when it cannot be checked."""
        return str((await self.read_claims(token))["sub"])

    async def read_claims(self, token: str) -> dict[str, Any]:
        """All that a token says; `sub` is the user's id. Raises as `read_subject`."""
        if len(token) > LONGEST_TOKEN:
            raise _refuse("the token is too long")
        try:
            head = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise _refuse("the token cannot be read") from None
        algorithm = head.get("alg")
        key = await self._find_key(algorithm, head.get("kid"))
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[str(algorithm)],
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.MissingRequiredClaimError as error:
            raise _refuse(f"the token has no {error.claim}") from None
        except jwt.PyJWTError as error:
            raise _refuse(_WRONG.get(type(error), "the token is not valid")) from None
        subject = claims["sub"]
        is_id = isinstance(subject, str) and 0 < len(subject) <= LONGEST_SUBJECT
        if not is_id or not subject.isprintable():
            raise _refuse("the token names no user")
        return claims

    async def _find_key(self, algorithm: object, kid: object) -> jwt.PyJWK | str:
        if algorithm == "HS256" and self._settings.jwt_secret is not None:
            return self._settings.jwt_secret.reveal()
        if algorithm in PUBLIC_KEY_ALGORITHMS and self._jwks is not None:
            key = await self._jwks.find(kid if isinstance(kid, str) else None)
            if key is not None and key.algorithm_name == algorithm:
                return key
            raise _refuse("the token is signed with an unknown key")
        raise _refuse("the token is signed in a way that is not taken")


def read_bearer(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The token of a request. Raises `ProblemError`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise refuse("a bearer token is needed")
    return token.strip()


def _refuse(detail: str) -> ProblemError:
    return refuse(detail, error="invalid_token")
