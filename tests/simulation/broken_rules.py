"""Rules of the core, broken on purpose: what the simulation is worth.

Each is a mistake that somebody could make: a line that is forgotten, a number that is off by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from relay.core.agent_lifecycle import AgentLifecycle
from relay.core.function_calls import FunctionCalls
from relay.core.open_turn import OpenTurn
from relay.core.resume import ReplayBuffer, ResumeWindow
from relay.core.transcript import Transcript
from tests.simulation import database

Replaced = tuple[object, str, Callable[[Any], Any]]


def _retries_never(retry):
    def broken(self, now, at_least):
        answer = retry(self, now, at_least)
        self.deadline = math.inf
        return answer

    return broken


# Name: whose rule, which one, and what is in its place, given the right one.
RULES: dict[str, Replaced] = {
    "a lost agent is never dialled again": (AgentLifecycle, "retry", _retries_never),
    "an agent is not kept alive": (
        AgentLifecycle, "needs_keepalive", lambda right: lambda self, frames, now: (
            right(self, frames, now) and False
        ),
    ),
    "an open call is not told to the next agent": (
        FunctionCalls, "take_parked", lambda right: lambda self: right(self) and [],
    ),
    "a question that is asked again is not known": (
        OpenTurn, "knows", lambda right: lambda self, said: right(self, said) and False,
    ),
    "a turn that nobody answered is not asked again": (
        OpenTurn, "ask", lambda right: lambda self: right(self) and [],
    ),
    "a typed text is not kept": (OpenTurn, "type", lambda right: lambda self, text: None),
    "a browser that comes back is told one text too many": (
        ReplayBuffer, "since", lambda right: lambda self, got: right(self, max(got - 1, 0)),
    ),
    "a ticket is used up before its browser is heard": (
        ResumeWindow, "attach", lambda right: lambda self, ticket, frames: (
            right(self, ticket, frames), self.confirm(),
        ),
    ),
    "a turn is told to the next agent without its calls": (
        Transcript, "add_calls", lambda right: lambda self, calls: None,
    ),
    "no numbers are left free for an owner that is gone": (database, "GAP", lambda right: 0),
}  # fmt: skip


@contextmanager
def broken(rule: str) -> Iterator[None]:
    """This rule does not hold meanwhile; an empty name: all of them do."""
    if not rule:
        yield
        return
    owner, name, replace = RULES[rule]
    with patch.object(owner, name, replace(getattr(owner, name))):
        yield
