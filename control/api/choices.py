"""REST: what a client may choose by name when it begins a session.

Control plane, under /api/v1/voice/choices. Of policy.yaml the names alone: what is behind them is
the server's.
"""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency

from config.policy import Policy
from config.settings import Settings
from control.api.problems import describe_problems


class Choices(msgspec.Struct, frozen=True):
    """Each empty where nothing is offered. `record`: whether a session may be recorded."""

    voices: list[str]
    languages: list[str]
    record: bool


@get(
    "/choices",
    tags=["session"],
    summary="What may be chosen for a session",
    responses={429: describe_problems()[429]},
    sync_to_thread=False,
)
def list_choices(policy: NamedDependency[Policy], settings: NamedDependency[Settings]) -> Choices:
    return Choices([*policy.voices], [*policy.languages], settings.record_audio)
