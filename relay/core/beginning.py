"""What a session begins with: all that its rules depend on, beside the events and chance. Pure.

Whoever has a `Beginning`, the Settings of its agents, what came from chance and the events in their
order gets the same actions again: `relay/recorder/replay.py` does.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from config.agent import Agent
from config.limits import Limits
from config.policy import Policy
from relay.core.admitted import Admitted
from relay.core.briefing import MakeSettings
from relay.core.deepgram_session import DeepgramSession, SessionRules
from relay.core.session import Session


class Chance(msgspec.Struct, frozen=True):
    """Where the rules take from what nobody foresees: a fresh UUID, a number from 0 to 1, a fresh
    secret for a browser to come back with."""

    new_id: Callable[[], UUID]
    jitter: Callable[[], float]
    new_ticket: Callable[[], str]


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """At monotonic second `now`, which is the wall-clock instant `began` (UTC). `asks`: as of a
    `Session`. `deepgram_client`: the browser speaks Deepgram's own protocol, and this is the agent
    that its Settings are held against."""

    admitted: Admitted
    limits: Limits
    policy: Policy
    now: float
    began: datetime
    asks: bool = False
    deepgram_client: Agent | None = None

    def rules(self, make_settings: MakeSettings, chance: Chance) -> SessionRules:
        """The rules of this session."""
        zero = self.began - timedelta(seconds=self.now)

        def begin(admitted: Admitted, now: float) -> Session:
            return Session(
                admitted,
                make_settings,
                now=now,
                began=zero + timedelta(seconds=now),
                limits=self.limits,
                policy=self.policy,
                new_id=chance.new_id,
                jitter=chance.jitter,
                new_ticket=chance.new_ticket,
                asks=self.asks,
            )

        if self.deepgram_client is not None:
            return DeepgramSession(self.admitted, self.deepgram_client, begin, self.now)
        return begin(self.admitted, self.now)
