"""The Orchestrator of an evaluation: takes every intent, unless the scenario says otherwise.

It has no goals and tasks: whether an intent was understood is seen in the call, and an evaluation
must work for any registry. Each conversation is a user of its own, by whom it is known.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get, post

from config.scenario import Scenario


class Order(msgspec.Struct):
    """What is looked at of a `POST`."""

    user_id: str
    intent: str = ""


class Orchestrator:
    """`scenarios` by user."""

    def __init__(self) -> None:
        self.scenarios: dict[str, Scenario] = {}
        self._ids = count(1)

    def create_app(self) -> Litestar:
        @get("/{path:path}", sync_to_thread=False)
        def tell_context(request: Request[Any, Any, Any]) -> dict[str, Any]:
            scenario = self.scenarios.get(request.query_params.get("user_id", ""))
            user = scenario.user if scenario is not None else None
            return {} if user is None else {"facts": user.facts, "names": user.names}

        @post("/{path:path}")
        async def take_order(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
            order = msgspec.json.decode(await request.body(), type=Order)
            scenario = self.scenarios.get(order.user_id)
            for reply in scenario.orchestrator if scenario is not None else ():
                if reply.intent == order.intent:
                    body = {"detail": reply.detail} if reply.status >= 400 else {"id": 0}
                    return Response(body, status_code=reply.status)
            return Response({"id": next(self._ids)}, status_code=201)

        return Litestar(
            route_handlers=[tell_context, take_order], openapi_config=None, logging_config=None
        )
