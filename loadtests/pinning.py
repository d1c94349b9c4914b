"""Which process runs on which core.

Load tests. The relay has a core of its own; what measures it has others, one each where there are
enough.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager

import msgspec

Cores = frozenset[int]
ANYWHERE: Cores = frozenset()


class Pinning(msgspec.Struct, frozen=True):
    """The cores of each part; an empty set is any."""

    relay: Cores = ANYWHERE
    agent: Cores = ANYWHERE
    caller: Cores = ANYWHERE
    rest: Cores = ANYWHERE

    def describe(self) -> str:
        if not self.relay:
            return "not pinned"
        parts = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return ", ".join(f"{name} {','.join(map(str, sorted(cores)))}" for name, cores in parts)


def choose(cores: Set[int] | None = None) -> Pinning:
    """How to share out `cores`; without an argument, those that this process may use."""
    if cores is None:
        if not hasattr(os, "sched_getaffinity"):
            return Pinning()
        cores = os.sched_getaffinity(0)
    match sorted(cores):
        case [] | [_]:
            return Pinning()
        case [one, two]:
            both = frozenset([two])
            return Pinning(frozenset([one]), both, both, both)
        case [one, two, three]:
            last = frozenset([three])
            return Pinning(frozenset([one]), frozenset([two]), last, last)
        case [one, two, three, *more]:
            return Pinning(*(frozenset(part) for part in ([one], [two], [three], more)))
    raise AssertionError("a list is one of these")


@contextmanager
def pinned(cores: Set[int]) -> Iterator[None]:
    """What is started while inside runs on `cores`; this process returns to where it was."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
