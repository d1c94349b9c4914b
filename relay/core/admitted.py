"""What the control plane tells the data plane when a browser may attach to a session.

Pure. `Admitted` is the yes, `Refused` the no; a refusal is answered before the 101 with a real HTTP
status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec

from config.agent import Audio
from relay.core.records import IntentCalled
from relay.protocol import deepgram, relay_events


class ResumePoint(msgspec.Struct, frozen=True):
    """What a browser that comes back says that it has: text frames of this session, without
    `RelaySession`, and the `seq` of the newest message that it knows to be stored."""

    received: int = 0
    seq: int = 0


class Takeover(msgspec.Struct, frozen=True, kw_only=True):
    """Another relay had this session before, and the browser came here with `ticket`."""

    ticket: str
    messages: list[relay_events.StoredMessage]  # those that it may not have, in order


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """All a session has to know of its conversation; `history` is empty for a new one.

    `last_seq`, `last_turn` and `last_role` are what the numbering goes on from (0 and None: there
    is nothing before). `voice` and `language` are names of policy.yaml. `epoch` is our number among
    the owners of the session; `resume_ticket` is the first one for the browser to come back with,
    already stored (None: nobody stores them). `open_calls` are those of the conversation that an
    outcome is still to come of. `seconds`: for how long the minutes of the day will do (None: there
    is no such limit). `record_audio`: the user agreed that what both sides say is recorded, and
    was told that it is.
    """

    session_id: UUID
    conversation_id: UUID
    user_id: str
    timezone: str
    audio: Audio
    voice: str | None = None
    language: str | None = None
    record_audio: bool = False
    last_seq: int = 0
    last_turn: int = 0
    last_role: deepgram.Role | None = None
    history: list[deepgram.History] = []
    open_calls: list[IntentCalled] = []
    epoch: int = 0
    resume_ticket: str | None = None
    seconds: float | None = None
    takeover: Takeover | None = None

    def brings_nothing(self, ticket: str) -> bool:
        """Whether a browser with this ticket has nothing of ours: it is from another relay."""
        return self.takeover is not None and ticket == self.takeover.ticket


Admit = Callable[[UUID, str, ResumePoint], Awaitable[Admitted]]
"""`await admit(session_id, ticket, seen)` uses the ticket up; raises `Refused`."""

AdmitGrant = Callable[[str], Awaitable[Admitted]]
"""`await admit_grant(ticket)` uses a grant up, which begins a session; raises `Refused`."""
