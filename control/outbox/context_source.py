"""Asks the Orchestrator what it knows of a user: one GET, for a moment, and never twice.

It costs a conversation nothing when this fails: that is counted, and the agent is told less. A
circuit breaker of its own asks nobody while it fails again and again. Unlike an intent, a question
may go over a connection that was used before: should it break, an answer is missing and no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from urllib.parse import quote, urlencode

from config.agent import Context
from config.settings import Settings
from control.http.client import NoAnswer, Remote
from control.outbox.circuit_breaker import CircuitBreaker
from control.outbox.orchestrator_client import make_headers
from relay.core import user_context
from relay.core.user_context import About, UserContext
from relay.telemetry.log_context import outgoing
from relay.telemetry.metrics import Metrics
from relay.transport.egress import Egress

log = logging.getLogger(__name__)

QUERY_SAFE = "%!$&'()*+,;=:@/?-._~"  # what may stand in a query as it is: it goes out as signed


class ContextSource:
    """`question` is what agent.yaml says; `wall` gives Unix seconds."""

    def __init__(
        self,
        settings: Settings,
        question: Context,
        egress: Egress,
        metrics: Metrics,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        address, _, query = settings.orchestrator_url.partition("?")
        self._remote = Remote(egress, address.rstrip("/") + question.path)
        self.running = self._remote.running
        self._query = quote(query, safe=QUERY_SAFE)
        self._token = settings.orchestrator_token
        self._secret = settings.orchestrator_secret
        self._seconds = question.timeout
        self._metrics = metrics
        self._circuit_breaker = CircuitBreaker()
        self._wall = wall

    def __repr__(self) -> str:
        return f"<ContextSource {self._circuit_breaker.state.name}>"

    async def ask(self, about: About) -> UserContext | None:
        """`relay.core.user_context.AskContext`."""
        began = time.monotonic()
        if not self._circuit_breaker.enter(began):
            self._count("skipped")
            return None
        try:
            async with asyncio.timeout(self._seconds):
                context = user_context.read(await self._fetch(about))
        except (NoAnswer, TimeoutError, ValueError) as error:
            cause = "timeout" if isinstance(error, TimeoutError) else error
            self._circuit_breaker.failed(str(about.conversation_id), time.monotonic())
            self._count("failed")
            log.warning(
                "user_context_failed conversation=%s seconds=%.2f reason=%s",
                about.conversation_id,
                time.monotonic() - began,
                cause,
            )
            return None
        except BaseException:
            self._circuit_breaker.abandoned()
            raise
        self._circuit_breaker.succeeded()
        self._count("answered")
        self._metrics.times["user_context"].record(time.monotonic() - began)
        return context

    async def _fetch(self, about: About) -> bytes:
        asked = {
            "user_id": about.user_id,
            "conversation_id": about.conversation_id,
            "timezone": about.timezone,
        }
        query = "&".join(filter(None, (self._query, urlencode(asked))))
        token = self._token.reveal() if self._token else None
        secret = self._secret.reveal() if self._secret else None
        headers = make_headers(token, secret, int(self._wall()), query.encode()) | outgoing()
        return await self._remote.fetch("GET", query=query, headers=headers)

    def _count(self, outcome: str) -> None:
        self._metrics.user_contexts.labels(outcome=outcome).inc()
