"""Who is an administrator: who shows the key of RELAY_ADMIN_KEY, or a token with the claim of
RELAY_ADMIN_CLAIM.

Control plane. Both come as a bearer token. Without either setting there is nothing to administer
with: no route is made.
"""

from __future__ import annotations

import hmac
import logging
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from config.settings import Settings
from control.auth.current_user import refuse
from control.auth.jwt import Bearer, read_bearer
from control.errors import ProblemError

log = logging.getLogger(__name__)

KEY = "key"  # as the audit log calls who has it


class Administrators:
    """`bearer` checks tokens, where a claim is asked for."""

    def __init__(self, settings: Settings, bearer: Bearer) -> None:
        self._key = settings.admin_key
        self._claim = settings.admin_claim
        self._bearer = bearer

    @property
    def is_any(self) -> bool:
        """Whether there may be one."""
        return self._key is not None or self._claim is not None

    async def check(
        self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
    ) -> None:
        """A guard: raises `ProblemError` for who is none. Handlers find who it is with `find`."""
        try:
            connection.state.administrator = await self.identify(read_bearer(connection))
        except ProblemError as error:
            log.warning("admin_refused code=%s path=%s", error.code, connection.scope["path"])
            raise

    async def identify(self, token: str) -> str:
        """Who shows this, as the audit log has it. Raises `ProblemError`."""
        if self._key is not None and hmac.compare_digest(
            token.encode(), self._key.reveal().encode()
        ):
            return KEY
        if self._claim is None:
            raise refuse("this is not the key", error="invalid_token")
        name, value = self._claim
        claims = await self._bearer.read_claims(token)
        if not _has(claims, name, value):
            raise ProblemError(403, "not_administrator", "the token does not make an administrator")
        return f"jwt:{claims['sub']}"


def find(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Who asks; `Administrators.check` has been passed."""
    return str(request.state.administrator)


def _has(claims: Any, name: str, value: str) -> bool:
    for part in name.split("."):
        claims = claims.get(part) if isinstance(claims, dict) else None
    return value in claims if isinstance(claims, list) else claims == value
