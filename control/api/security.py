"""What stands before every REST handler and on every answer: headers, origins, sizes.

Control plane. Browsers of other sites are kept out three times: they may not read (CORS), may not
change anything (the Origin of a request that is no GET is checked, because a form needs no CORS),
and may not show us in a frame. The WebSocket has the same list of origins: live/endpoints.py.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from litestar import Request
from litestar.config.cors import CORSConfig
from litestar.datastructures import MutableScopeHeaders
from litestar.types import BeforeMessageSendHookHandler, BeforeRequestHookHandler, Message, Scope

from config import nesting, origins
from config.settings import Settings
from control.errors import ProblemError
from relay.live.endpoints import check_origin

MAX_BODY_BYTES = 64 * 1024
MAX_DEPTH = 32  # of JSON; ours has six
HSTS = "max-age=31536000"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ANSWERS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.close"})

# What Deepgram's JavaScript SDK adds to a grant: a page of another origin could not send it.
OFFICIAL = [
    *(f"X-Fern-{name}" for name in ("Language", "SDK-Name", "SDK-Version")),
    *(f"X-Fern-{name}" for name in ("Runtime", "Runtime-Version")),
    "X-Deepgram-Session-Id",
]
_FROM_US = ("script-src", "style-src", "img-src", "font-src", "worker-src", "manifest-src")


def public_origin(settings: Settings) -> str | None:
    """Ours, as `RELAY_PUBLIC_URL` says; None: it is not set."""
    if settings.public_url is None:
        return None
    parts = urlsplit(settings.public_url)
    return origins.normalise(f"{parts.scheme}://{parts.netloc}")


def allowed_origins(settings: Settings) -> frozenset[str]:
    """Of pages that may use us: those of the setting, and our own under its public name."""
    own = public_origin(settings)
    return frozenset(settings.allowed_origins) | ({own} if own else set())


class Cors(CORSConfig):
    """Litestar's, with origins compared as everywhere else: some are sent in capitals."""

    def is_origin_allowed(self, origin: str) -> bool:
        return origins.normalise(origin) in self.allow_origins


def make_cors(settings: Settings) -> CORSConfig | None:
    """None: no page of another site may read anything."""
    if not settings.allowed_origins:
        return None
    return Cors(
        allow_origins=list(settings.allowed_origins),
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", *OFFICIAL],
        expose_headers=["Retry-After", "X-Request-Id"],
        max_age=600,
    )


def make_headers(settings: Settings) -> dict[str, str]:
    """Those of every answer. Old browsers do not take 'self' for a WebSocket: it is spelled out."""
    connect = "'self'"
    if own := public_origin(settings):
        connect += f" ws{own.removeprefix('http')}"
    if settings.direct_transport:  # then our own pages speak to the agent
        parts = urlsplit(settings.deepgram_agent_url)
        connect += f" {parts.scheme}://{parts.netloc}"
    policy = [
        "default-src 'none'",
        f"connect-src {connect}",
        *(f"{kind} 'self'" for kind in _FROM_US),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


def add_headers(settings: Settings) -> BeforeMessageSendHookHandler:
    """A hook that puts them on what is sent, whoever sends it: a handler, an error, a refusal."""
    always = make_headers(settings)
    public_tls = (public_origin(settings) or "").startswith("https://")

    async def add(message: Message, scope: Scope) -> None:
        if message["type"] not in ANSWERS:
            return
        message.setdefault("headers", [])  # type: ignore[typeddict-item]  # of a close: for upgrade.py
        headers = MutableScopeHeaders.from_message(message)
        for name, value in always.items():
            headers.setdefault(name, value)
        allowed = headers.get("Allow", "")
        if "GET" in allowed and "HEAD" not in allowed:  # control/api/request_target.py answers it
            headers["Allow"] = allowed.replace("GET", "GET, HEAD")
        if public_tls or scope["scheme"] in ("https", "wss"):
            headers.setdefault("Strict-Transport-Security", HSTS)

    return add


def make_check(allowed: frozenset[str]) -> BeforeRequestHookHandler:
    """Before a handler of what changes something: no page of another site asks for it, and the body
    is not too deep. Litestar sees to its length."""

    async def check(request: Request[Any, Any, Any]) -> None:
        if request.method in SAFE_METHODS:
            return
        check_origin(request, allowed)
        if nesting.is_deeper(await request.body(), MAX_DEPTH):
            raise ProblemError(400, "invalid", f"body: expected at most {MAX_DEPTH} levels of JSON")

    return check
