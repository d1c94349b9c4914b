"""`GET /metrics`: the figures of this process and of the other workers of its parent.

Control plane. It stands on the public port for who may have it there, or on the address of
operators. Each figure of several workers has the label `worker`: a sum of theirs would go down when
one is replaced, and a counter that goes down has begun again for Prometheus.
"""

from __future__ import annotations

import hmac
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from config.settings import Settings
from control.api.request_target import (
    METRICS,
    Address,
    Networks,
    came_by_proxy,
    is_loopback,
    no_path,
)
from control.auth.current_user import refuse
from control.http.siblings import Siblings
from relay.telemetry.metrics import Metrics, merge


class Access:
    """Who may read metrics. `is_public`: on the port that browsers use."""

    def __init__(self, settings: Settings, *, is_public: bool) -> None:
        self._is_elsewhere = is_public and settings.metrics_port != 0
        self._networks = Networks(settings.metrics_networks) if is_public else None
        self._token = settings.metrics_token

    def check(self, peer: Address | None, host: str | None, headers: Any) -> None:
        """Raises `ProblemError`.

        Without a token: who asks directly, and from a network that is named where browsers ask,
        too. A name for a loopback address that is not of this machine is a page's trick.
        """
        if self._is_elsewhere:
            raise no_path()
        if self._token is not None:
            given = [value for name, value in headers if name == b"authorization"]
            wanted = f"Bearer {self._token.reveal()}".encode()
            if len(given) != 1 or not hmac.compare_digest(given[0], wanted):
                raise refuse("metrics have a token of their own")
            return
        is_odd = peer is not None and peer.is_loopback and host and not is_loopback(host)
        is_known = self._networks is None or (peer in self._networks and not came_by_proxy(headers))
        if is_odd or not is_known:
            raise no_path()


@get(METRICS, include_in_schema=False)
async def get_metrics(
    metrics: NamedDependency[Metrics],
    siblings: SkipValidation[NamedDependency[Siblings | None]],
) -> Response[bytes]:
    """Prometheus' text format."""
    text = metrics.text()
    if siblings is not None:
        text = merge([text, *await siblings.ask()])
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
