"""REST: the intents as a user interface may show them.

Control plane, under /api/v1/voice/intents. Names and titles only: functions, their descriptions and
the prompt are for the model and never reach a browser.
"""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency

from config.intents import Registry
from control.api.problems import describe_problems


class IntentTitle(msgspec.Struct, frozen=True):
    """`name` (and `id`, the same) is what events and stored calls carry."""

    id: str
    name: str
    title: str


class IntentTitlePage(msgspec.Struct, frozen=True):
    items: list[IntentTitle]
    next_cursor: None = None


@get(
    "/intents",
    tags=["intents"],
    summary="List the intents",
    responses={429: describe_problems()[429]},
    sync_to_thread=False,
)
def list_intents(registry: NamedDependency[Registry]) -> IntentTitlePage:
    return IntentTitlePage(
        [IntentTitle(intent.name, intent.name, intent.title) for intent in registry.intents]
    )
