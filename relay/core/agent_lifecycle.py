"""Where the agent of a session stands: dialled, set up, ready, lost; and what is due when. Pure.

At every moment a deadline leads back to an agent that is ready, or to the end of the session.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum

from config.limits import Limits
from relay.core import reconnect

# Deepgram wants something every 8 s while no audio flows (docs agent-keep-alive). We check
# every 4 s and say KeepAlive when nothing came since the last check: the gap stays below 8 s.
KEEPALIVE_CHECK = 4.0
# How long a turn may run on past the planned roll-over, which is well before Deepgram's 2 h.
ROLL_OVER_PATIENCE = 240.0


class State(Enum):
    DIALLING = "dialling"  # the agent's WebSocket is being opened
    WELCOMING = "welcoming"  # it is open; Welcome has not come
    BRIEFING = "briefing"  # Welcome came; what is known of the user may still be on its way
    APPLYING = "applying"  # Settings are sent; SettingsApplied has not come
    OPEN = "open"  # audio passes
    RETRYING = "retrying"  # the agent is lost; it is dialled again at the deadline
    CLOSED = "closed"  # End was asked for; nothing more will be


class AgentLifecycle:
    """The agents of one session, one after the other; the first is dialled at second `now`.

    `jitter` gives a number from 0 to 1, so that the sessions of a relay do not dial all at once. An
    outage begins when an agent is lost and is over when one has been ready for `STABLE_SECONDS`: an
    agent that gets ready and dies, again and again, is one outage.
    """

    def __init__(self, limits: Limits, jitter: Callable[[], float], now: float) -> None:
        self.state = State.DIALLING
        self.request_id: str | None = None  # Deepgram's name for the session, of the newest agent
        # Of this state; while it is OPEN, of the next check whether a KeepAlive is needed.
        self.deadline = now + limits.setup_seconds
        self.was_open = False  # an agent was ready before: then this one takes its place unseen
        self._limits = limits
        self._jitter = jitter
        self._tries = 0  # in this outage
        self._ready_by = self.deadline
        self._ready_since = math.inf  # the newest agent
        self._roll_over_at = math.inf
        self._frames_passed = 0  # of the browser to the agent, at the last check

    def dial(self, now: float) -> None:
        """Another agent is dialled."""
        self.state = State.DIALLING
        # The tries of the first set-up share its time: a browser waits for all of them.
        self.deadline = now + self._limits.setup_seconds if self.was_open else self._ready_by
        self._roll_over_at = math.inf

    def welcome(self, request_id: str) -> None:
        """It said Welcome, and gets its Settings when all of them is known."""
        self.state = State.BRIEFING
        self.request_id = request_id

    def apply(self, now: float) -> None:
        """It has applied the Settings: it is ready."""
        self.state = State.OPEN
        self.was_open = True
        self._ready_since = now
        self.deadline = now + KEEPALIVE_CHECK
        self._roll_over_at = now + self._limits.roll_over_seconds

    def retry(self, now: float, at_least: float) -> bool:
        """It is lost: dial again in a while; False: it was dialled often enough. `at_least` is the
        seconds that the agent asked for."""
        if now - self._ready_since >= reconnect.STABLE_SECONDS:
            self._tries = 0
        self._ready_since = math.inf
        wait = reconnect.pause(self._tries, self._jitter(), at_least)
        if wait is None or (not self.was_open and now + wait >= self._ready_by):
            return False
        self._tries += 1
        self.state = State.RETRYING
        self.deadline = now + wait
        self._roll_over_at = math.inf
        return True

    def roll_over_deadline(self, is_quiet: bool) -> float:
        """At a turn boundary, or in the middle of a turn when it becomes late."""
        return self._roll_over_at + (0.0 if is_quiet else ROLL_OVER_PATIENCE)

    def needs_keepalive(self, frames_passed: int, now: float) -> bool:
        """Whether nothing was passed on to it since the last check, if there is one now."""
        if now < self.deadline:
            return False
        self.deadline = now + KEEPALIVE_CHECK
        before, self._frames_passed = self._frames_passed, frames_passed
        return frames_passed == before
