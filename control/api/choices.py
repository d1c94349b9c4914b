"""REST: what a client may choose by name when it begins a session.

Control plane, under /api/v1/voice/choices. The names of policy.yaml alone: what is behind them is
the server's.
"""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency

from config.policy import Policy
from control.api.problems import describe_problems


class Choices(msgspec.Struct, frozen=True):
    """Each empty where nothing is offered."""

    voices: list[str]
    languages: list[str]


@get(
    "/choices",
    tags=["session"],
    summary="What may be chosen for a session",
    responses={429: describe_problems()[429]},
    sync_to_thread=False,
)
def list_choices(policy: NamedDependency[Policy]) -> Choices:
    return Choices([*policy.voices], [*policy.languages])
