"""Checks JSON Web Tokens: signature, times, issuer, audience; `sub` is the user.

Control plane; the door to PyJWT, with jwks.py. Which algorithms are taken depends on what was set
up, never on the token: HS256 with the secret, RS256 and ES256 with the public keys. So a token
without a signature is refused, and a public key is never taken for a secret.
"""

from __future__ import annotations

import jwt

from config.env_types import Secret
from control.auth.jwks import Jwks

LEEWAY = 30  # seconds that clocks may differ
LONGEST_TOKEN = 8_000
LONGEST_SUBJECT = 255
PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256")


class TokenRefused(Exception):
    """The token is not good; the text says why and is fit for whoever sent it."""


class Bearer:
    """Reads the user from tokens; with `secret`, with `jwks` or with both."""

    def __init__(
        self,
        *,
        secret: Secret | None,
        jwks: Jwks | None,
        issuer: str | None,
        audience: str,
    ) -> None:
        self._secret = secret
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience

    async def read_subject(self, token: str) -> str:
        """The user's id. Raises `TokenRefused`, and `KeysUnavailable` when it cannot be checked."""
        if len(token) > LONGEST_TOKEN:
            raise TokenRefused("the token is too long")
        try:
            head = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise TokenRefused("the token cannot be read") from None
        algorithm = head.get("alg")
        key = await self._find_key(algorithm, head.get("kid"))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[str(algorithm)],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(_say(error)) from None
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT:
            raise TokenRefused("the token names no user")
        if not subject.isprintable():
            raise TokenRefused("the token names no user")
        return subject

    async def _find_key(self, algorithm: object, kid: object) -> jwt.PyJWK | str:
        if algorithm == "HS256" and self._secret is not None:
            return self._secret.reveal()
        if algorithm in PUBLIC_KEY_ALGORITHMS and self._jwks is not None:
            key = await self._jwks.find(kid if isinstance(kid, str) else None)
            if key is not None and key.algorithm_name == algorithm:
                return key
            raise TokenRefused("the token is signed with an unknown key")
        raise TokenRefused("the token is signed in a way that is not taken")


def _say(error: jwt.PyJWTError) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "the token has expired"
        case jwt.ImmatureSignatureError():
            return "the token is not valid yet"
        case jwt.InvalidAudienceError():
            return "the token is for another audience"
        case jwt.InvalidIssuerError():
            return "the token is of another issuer"
        case jwt.MissingRequiredClaimError(claim=claim):
            return f"the token has no {claim}"
        case jwt.InvalidSignatureError():
            return "the signature of the token is wrong"
    return "the token is not valid"
