"""What an agent is told when it begins, and whether all of that is here. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relay.core.user_context import UserContext
from relay.protocol import deepgram

MakeSettings = Callable[[Sequence[deepgram.History], UserContext], deepgram.Settings]
"""Makes Settings that tell the agent this history, and this of the user."""


class Briefing:
    """Of the agents of one session, one after the other. `asks`: with each dial it is asked anew
    what is known of the user, and `learn` is called, soon."""

    def __init__(self, make_settings: MakeSettings, *, asks: bool) -> None:
        self._make_settings = make_settings
        self._asks = asks
        self._context = UserContext()
        self.is_awaited = asks

    def ask(self) -> None:
        """Another agent is dialled."""
        self.is_awaited = self._asks

    def learn(self, context: UserContext | None) -> None:
        """The answer. None: there is none, and what was known before counts on."""
        self.is_awaited = False
        if context is not None:
            self._context = context

    def settings(self, history: Sequence[deepgram.History]) -> deepgram.Settings:
        return self._make_settings(history, self._context)
