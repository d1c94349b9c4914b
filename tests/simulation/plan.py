"""What is said and what breaks in one run: all of it from one seed, and a file to play it again.

A fault waits for a moment (`words`: an agent puts words of the user into text; …), for the n-th of
its kind, and for a delay after it. So it hits the short times in which something is half done.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

MOMENTS = (
    "attach", "dial", "welcome", "settings", "applied", "say", "words", "call", "submit", "answer",
    "reply", "done", "store", "lost", "takeover", "cancel",
)  # fmt: skip
# Kind of fault: weight, and the longest that it lasts (0: it is done at once).
FAULTS = {
    "agent reset": (4, 0.0),
    "agent error": (2, 0.0),
    "agent mute": (1, 0.0),
    "agent refuses": (2, 4.0),
    "agent slow": (1, 8.0),
    "browser reset": (4, 0.0),
    "browser mute": (2, 0.0),
    "browser away": (1, 9.0),
    "browser reload": (2, 0.0),
    "relay killed": (2, 4.0),
    "relay frozen": (2, 26.0),
    "relay drained": (2, 3.0),
    "database away": (2, 8.0),
    "database answer lost": (2, 0.0),
    "orchestrator refuses": (1, 12.0),
    "orchestrator answer lost": (2, 6.0),
    "orchestrator late": (1, 12.0),
}
# Those with which an agent's loss is all that a session has to bear.
MILD = ("agent", "browser", "orchestrator")
# What may break in a run: in half of them everything, or one kind of thing many times.
THEMES = (("",), ("",), ("",), ("",), MILD, MILD, ("browser",), ("agent",))


class Fault(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`elsewhere`: not of the relay that the browser is at."""

    kind: str
    moment: str
    count: int = 1
    delay: float = 0.0
    seconds: float = 0.0
    elsewhere: bool = False


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`goals`: functions that the model calls. `cuts_in`: seconds after which the person goes on
    instead of hearing the answer out."""

    is_spoken: bool = False
    goals: int = 0
    cuts_in: float | None = None


class Plan(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`steady`: whatever takes a time at random takes the middle of it."""

    seed: int
    lines: list[Line]
    faults: list[Fault]
    early_calls: bool = False  # the model calls before the words that made it come as text
    can_cancel: bool = True  # the Orchestrator undoes what was taken back
    asks: bool = False  # it is asked for the user's context at each dial
    roll_over_seconds: float = 1000.0
    confirms: bool = False  # a card on the screen asks for each call
    same_words: bool = True  # an agent answers a question as the one before did
    same_ids: bool = True  # its calls have the ids of that one's
    asides: bool = False  # the person says something by the way while the agent speaks
    stays: bool = False  # who comes back comes to the same relay
    steady: bool = False


def draw(seed: int) -> Plan:
    chance = random.Random(seed)
    kinds = list(FAULTS)
    weights = [weight for weight, _ in FAULTS.values()]
    theme = chance.choice(THEMES)
    weights = [w if kind.startswith(theme) else 0 for kind, w in zip(kinds, weights, strict=True)]
    moments = (*MOMENTS, *(["attach"] * 8 if theme == ("browser",) else []))
    faults = []
    for kind in chance.choices(kinds, weights, k=chance.choice((1, 1, 2, 2, 3, 4, 6, 8))):
        longest = FAULTS[kind][1]
        faults.append(
            Fault(
                kind=kind,
                moment=chance.choice(moments),
                count=chance.randint(1, 4),
                delay=round(chance.random() * chance.choice((0.05, 0.4, 3.0)), 3),
                seconds=round(longest * chance.random(), 3),
                elsewhere=chance.random() < 0.2,
            )
        )
    return Plan(
        seed=seed,
        lines=[_draw_line(chance) for _ in range(chance.randint(2, 6))],
        faults=faults,
        early_calls=chance.random() < 0.5,
        can_cancel=chance.random() < 0.7,
        asks=chance.random() < 0.3,
        roll_over_seconds=chance.choice((1000.0, 1000.0, 12.0)),
        confirms=chance.random() < 0.2,
        same_words=chance.random() < 0.6,
        same_ids=chance.random() < 0.5,
        asides=chance.random() < 0.3,
        stays=chance.random() < 0.4,
    )


def _draw_line(chance: random.Random) -> Line:
    return Line(
        is_spoken=chance.random() < 0.4,
        goals=chance.choice((0, 0, 1, 1, 2)),
        cuts_in=round(chance.random() * 2.0, 3) if chance.random() < 0.25 else None,
    )


class Recorded(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A run that failed, as a file: what it was, and which promise it broke."""

    plan: Plan
    promise: str = ""
    detail: str = ""
    rule: str = ""  # of the core that was broken on purpose (broken_rules.py)


def save(recorded: Recorded, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(recorded)) + b"\n")


def load(path: Path) -> Recorded:
    return msgspec.json.decode(path.read_bytes(), type=Recorded)
