"""What the control plane tells the data plane when a browser may attach to a session.

Pure. `Opening` is the yes, `Refused` the no; a refusal is answered before the 101 with a real HTTP
status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec

from config.agent import Audio
from relay import deepgram


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """All a session has to know of its conversation; `history` is empty for a new one.

    `last_seq`, `last_turn` and `last_role` are of the last stored message (0 and None: there is
    none), so that the numbering goes on. `voice` and `language` are names of policy.yaml.
    """

    session_id: UUID
    conversation_id: UUID
    user_id: str
    timezone: str
    audio: Audio
    voice: str | None = None
    language: str | None = None
    last_seq: int = 0
    last_turn: int = 0
    last_role: deepgram.Role | None = None
    history: list[deepgram.History] = []


class Refused(Exception):
    """The session may not be opened: `status` is HTTP, `code` a word for programs."""

    def __init__(
        self, status: int, code: str, detail: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


Admit = Callable[[UUID, str], Awaitable[Opening]]
"""`await admit(session_id, ticket)` uses the ticket up; raises `Refused`."""

AdmitGrant = Callable[[str], Awaitable[Opening]]
"""`await admit_grant(ticket)` uses a grant up, which begins a session; raises `Refused`."""
