"""Plays a recording to the rules of a session: same inputs, same actions? Pure.

What the rules take from elsewhere comes out of the recording, too: ids, pauses and tickets, and the
Settings of each agent, with the history that the rules tell it now. What is redacted is compared as
far as it can be: a text that is passed on has to be the same one, of a text that is composed there
has to be one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from relay.core import agent_history, events
from relay.core.beginning import Chance
from relay.core.deepgram_session import SessionRules
from relay.core.message_policy import LONGEST_SETTINGS
from relay.core.user_context import UserContext
from relay.protocol import deepgram
from relay.recorder.recording import Recording, Step
from relay.recorder.redaction import stand_in

_NOTHING = "nothing"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first thing that is not as recorded: at line `seq` and monotonic second `at`, because of
    `event`; `where` is the path to it."""

    seq: int
    at: float
    event: str
    where: str
    recorded: Any
    now: Any

    def __str__(self) -> str:
        return (
            f"line {self.seq}, second {self.at:.3f}, {self.event}: {self.where}:"
            f" recorded {_shown(self.recorded)}, now {_shown(self.now)}"
        )


def replay(recording: Recording) -> Difference | None:
    """None: the rules of today do what was recorded."""
    chance = _RecordedChance(recording.drawn)
    settings = _RecordedSettings(recording.settings)
    rules = recording.beginning.rules(settings.make, chance.chance)
    for step in recording.steps:
        chance.left += step.drawn
        try:
            asked = answer(rules, step)
        except Exception as error:
            # That is what a replay is for: the session ended like this, too.
            return _differ(step, "the rules", "actions", f"{type(error).__name__}: {error}")
        if found := _compare(step.actions, asked, recording.stand_ins, "actions"):
            return _differ(step, *found)
        if chance.left or chance.is_short:
            left = list(chance.left)
            return _differ(step, "chance", left or "no more", "no more" if left else "more")
    return None


def answer(rules: SessionRules, step: Step) -> list[dict[str, Any]]:
    """What the rules ask for now, as a `Step` has it."""
    event = step.event
    if step.side == "agent":
        event = events.FromAgent(step.decoded or deepgram.decode_server(step.text))
    elif step.side == "browser":
        event = events.FromBrowser(step.decoded or rules.decode(step.text))
    asked = rules.begin() if event is None else rules.handle(event, step.at)
    written = [{"type": type(each).__name__, **msgspec.to_builtins(each)} for each in asked]
    shown: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(written))
    return shown


def _differ(step: Step, where: str, recorded: Any, now: Any) -> Difference:
    name = type(step.event).__name__ if step.event else "BrowserOpened"
    if step.side is not None:
        kind = msgspec.json.decode(step.text).get("type")
        name = f"{kind} of the {step.side}"
    return Difference(seq=step.seq, at=step.at, event=name, where=where, recorded=recorded, now=now)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 400 else f"{text[:400]}…"


# --- what comes from elsewhere -------------------------------------------------------------------


class _RecordedChance:
    """`left` is what was drawn and is not drawn yet; `is_short`: something else is wanted."""

    def __init__(self, drawn: Sequence[float | str]) -> None:
        self.left = deque(drawn)
        self.is_short = False
        self.chance = Chance(self._new_id, self._jitter, self._new_ticket)

    def _new_id(self) -> UUID:
        try:
            return UUID(str(self._next(str)))
        except ValueError:
            self.is_short = True
            return UUID(int=0)

    def _jitter(self) -> float:
        drawn = self._next(float)
        return drawn if isinstance(drawn, float) else 0.5

    def _new_ticket(self) -> str:
        return str(self._next(str))

    def _next(self, kind: type) -> float | str:
        if self.left and isinstance(self.left[0], kind):
            return self.left.popleft()
        self.is_short = True
        return _NOTHING


class _RecordedSettings:
    """The Settings of each agent as they were, with the history of now."""

    def __init__(self, recorded: Sequence[dict[str, Any]]) -> None:
        self._left = deque(recorded)

    def make(self, history: Sequence[deepgram.History], context: UserContext) -> deepgram.Settings:
        if not self._left:
            return deepgram.Settings(audio={}, agent={})
        made = msgspec.convert(self._left.popleft(), deepgram.Settings)
        if not isinstance(made.agent, dict):
            return made
        agent = {name: value for name, value in made.agent.items() if name != "context"}
        made = msgspec.structs.replace(made, agent=agent)
        room = min(agent_history.LONGEST, LONGEST_SETTINGS - len(deepgram.encode(made)))
        if lines := agent_history.fit(history, room):
            agent["context"] = {"messages": [msgspec.to_builtins(line) for line in lines]}
        return made


# --- the comparison ------------------------------------------------------------------------------


def _compare(
    recorded: Any, now: Any, stand_ins: set[str], where: str
) -> tuple[str, Any, Any] | None:
    """Where the two are not the same, and what stands there; None: nowhere."""
    match recorded, now:
        case dict(), dict():
            if recorded.keys() == {"redacted"} != now.keys():
                return None  # of an object nothing is known
            for key in [*recorded, *(key for key in now if key not in recorded)]:
                if key not in recorded or key not in now:
                    found = recorded.get(key, _NOTHING), now.get(key, _NOTHING)
                    return (f"{where}.{key}", *found)
                if differs := _compare(recorded[key], now[key], stand_ins, f"{where}.{key}"):
                    return differs
            return None
        case list(), list():
            for place, (before, after) in enumerate(zip(recorded, now, strict=False)):
                if differs := _compare(before, after, stand_ins, f"{where}[{place}]"):
                    return differs
            if len(recorded) == len(now):
                return None
            place = min(len(recorded), len(now))
            rest = [(each[place:] or [_NOTHING])[0] for each in (recorded, now)]
            return (f"{where}[{place}]", *rest)
        case str(), str() if (wanted := stand_in(recorded)) != recorded:
            is_same = now == wanted or now not in stand_ins
            return None if is_same else (where, wanted, now)
    return None if recorded == now else (where, recorded, now)
