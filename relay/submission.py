"""An intent on its way to the Orchestrator, and what came of it.

Pure. The relay makes a `Submission`, the control plane carries it over HTTP and answers with one
of three outcomes; it never raises for trouble of the network.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from config.intents import Intent


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Validated parameters of one call; `call_id` is also the Idempotency-Key."""

    intent: Intent
    parameters: dict[str, Any]
    user_id: str
    conversation_id: UUID
    call_id: str


class Submitted(msgspec.Struct, frozen=True):
    """The Orchestrator took it: its JSON answer."""

    result: Any
    attempts: int


class Rejected(msgspec.Struct, frozen=True):
    """Refused for good; `reason` is meant for the model to say."""

    reason: str
    result: Any
    attempts: int


class Failed(msgspec.Struct, frozen=True):
    """It could not be delivered in time; `reason` is meant for the model to say."""

    reason: str
    attempts: int


Outcome = Submitted | Rejected | Failed
Submit = Callable[[Submission], Awaitable[Outcome]]
