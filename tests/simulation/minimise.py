"""The fewest faults and lines with which a run still breaks the same promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from tests.simulation.plan import Plan, Recorded
from tests.simulation.promises import Broken

Run = Callable[[Plan], Broken | None]
_PLAIN = {
    "steady": True,
    "early_calls": False,
    "can_cancel": True,
    "asks": False,
    "confirms": False,
    "roll_over_seconds": 1000.0,
    "same_words": True,
    "same_ids": True,
    "asides": False,
    "stays": False,
}


def minimise(recorded: Recorded, broken: Broken, run: Run) -> Recorded:
    """`run` plays a plan, and `recorded` broke this promise. The rule that it names is broken
    already."""
    plan = recorded.plan
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for smaller in _smaller(plan):
            found = run(smaller)
            if found is not None and found.promise == broken.promise:
                plan, broken, is_smaller = smaller, found, True
                break
    return Recorded(plan=plan, promise=broken.promise, detail=broken.detail, rule=recorded.rule)


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with one thing less, the largest things first."""

    def change(**fields) -> Plan:
        return msgspec.structs.replace(plan, **fields)

    for name in ("faults", "lines"):
        whole = getattr(plan, name)
        for place in range(len(whole)):
            yield change(**{name: [*whole[:place], *whole[place + 1 :]]})
    for name, value in _PLAIN.items():
        if getattr(plan, name) != value:
            yield change(**{name: value})
    for place, line in enumerate(plan.lines):
        for field, value in (("goals", 0), ("is_spoken", False), ("cuts_in", None)):
            if getattr(line, field) != value:
                plainer = msgspec.structs.replace(line, **{field: value})
                yield change(lines=[*plan.lines[:place], plainer, *plan.lines[place + 1 :]])
    for place, fault in enumerate(plan.faults):
        for field in ("elsewhere", "delay", "seconds"):
            if getattr(fault, field):
                plainer = msgspec.structs.replace(fault, **{field: type(getattr(fault, field))(0)})
                yield change(faults=[*plan.faults[:place], plainer, *plan.faults[place + 1 :]])
