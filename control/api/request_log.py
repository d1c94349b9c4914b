"""What a request is called, in our log, in the answer and at who is asked because of it.

Control plane; around everything else. `X-Request-Id` and `traceparent` come from who asks, if they
are well formed. With `RELAY_ACCESS_LOG` each request has a line, without its query.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from relay.telemetry.log_context import LogContext, current, read_ids

log = logging.getLogger(__name__)

ANSWERS = ("http.response.start", "websocket.http.response.start")


class RequestLogMiddleware:
    """The application behind it; `is_on`: requests are logged."""

    def __init__(self, app: ASGIApp, *, is_on: bool) -> None:
        self._app = app
        self._is_on = is_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ids = read_ids(_values(scope, b"x-request-id"), _values(scope, b"traceparent"))
        status = 101  # nobody is told of it: a WebSocket that is not refused
        began = time.monotonic()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] in ANSWERS:
                status = message["status"]  # type: ignore[typeddict-item]
                name = b"x-request-id", ids.request_id.encode()
                headers: Any = message.get("headers", [])
                message["headers"] = [*headers, name]  # type: ignore[typeddict-unknown-key]
            await send(message)

        outside = current.set(LogContext(ids, {"request": ids.request_id}))
        try:
            await self._app(scope, receive, answer)
        finally:
            if self._is_on:
                client = scope["client"]  # the one that proxies name, by now
                log.info(
                    "request_answered method=%s path=%s status=%d ms=%.1f client=%s",
                    scope.get("method", "GET"),
                    scope["path"],
                    status,
                    (time.monotonic() - began) * 1000,
                    client[0] if client else None,
                )
            current.reset(outside)


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for known, value in scope["headers"] if known == name]
