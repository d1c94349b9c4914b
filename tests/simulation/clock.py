"""Time that nobody waits for, and who does something in it.

All that happens is a step at an instant; steps of one instant come in the order in which they were
asked for. So a run is the same each time, and a minute takes milliseconds.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Generator
from typing import Any

Resume = Callable[[Any], None]
Ask = Callable[[Resume], None]
"""What work waits for: it is given whom to tell the answer, an exception if it is one."""
Work = Generator[float | Ask, Any, Any]
"""Work in steps: it yields seconds to sleep, or what it asks."""
AnyWork = Work | Coroutine[float | Ask, Any, Any]
"""The product's own coroutines are that too, if what they wait for is a `Waiting`."""


class Waiting:
    """What a coroutine awaits here in place of asyncio."""

    def __init__(self, asked: float | Ask) -> None:
        self._asked = asked

    def __await__(self) -> Generator[float | Ask, Any, Any]:
        return (yield self._asked)


class Clock:
    """`say` is told what happens, one line each, if somebody wants to read it."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.now = 0.0
        self.steps = 0
        self._say = say
        self._due: list[list[Any]] = []

    def later(self, seconds: float, step: Callable[..., None], *about: Any) -> list[Any]:
        """Do this then; what is returned is for `forget`."""
        return self.at(self.now + seconds, step, *about)

    def at(self, instant: float, step: Callable[..., None], *about: Any) -> list[Any]:
        self.steps += 1
        entry = [instant, self.steps, step, about]
        heapq.heappush(self._due, entry)
        return entry

    @staticmethod
    def forget(entry: list[Any]) -> None:
        """Do not do it after all."""
        entry[2] = None

    def run(self, is_over: Callable[[], bool], until: float) -> bool:
        """Let time pass until `is_over`; False: it was not by the instant `until`."""
        due = self._due
        while due and not is_over():
            instant, _, step, about = heapq.heappop(due)
            if step is None:
                continue
            if instant > until:
                return False
            self.now = max(self.now, instant)
            step(*about)
        return is_over()

    @property
    def is_told(self) -> bool:
        return self._say is not None

    def say(self, who: str, what: str) -> None:
        if self._say is not None:
            self._say(f"{self.now:8.3f}  {who:<11} {what}")


class Process:
    """Somebody who can die and be frozen. Steps of who is frozen are done, in order, afterwards."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.clock = clock
        self.name = name
        self.is_alive = True
        self.ends: list[Any] = []  # of its wires
        self._frozen: list[tuple[Callable[..., None], tuple[Any, ...]]] | None = None

    @property
    def is_frozen(self) -> bool:
        return self._frozen is not None

    def do(self, step: Callable[..., None], *about: Any) -> None:
        if self._frozen is not None:
            self._frozen.append((step, about))
        elif self.is_alive:
            step(*about)

    def later(self, seconds: float, step: Callable[..., None], *about: Any) -> list[Any]:
        return self.clock.at(self.clock.now + seconds, self.do, step, *about)

    def start(self, work: AnyWork, *, name: str = "") -> Task:
        """Do this beside everything else."""
        return Task(self, work, name)

    def freeze(self) -> None:
        if self._frozen is None:
            self._frozen = []

    def thaw(self) -> None:
        if self._frozen is None:
            return
        missed, self._frozen = self._frozen, None
        for place, (step, about) in enumerate(missed):
            self.do(step, *about)
            if self._frozen is not None:  # again, by what it did
                self._frozen = [*missed[place + 1 :], *self._frozen]
                return

    def die(self, *, keeps_words: bool) -> None:
        """At once. `keeps_words`: what is on its wires already arrives."""
        self.is_alive = False
        self._frozen = None
        for end in self.ends:
            end.abandon(keeps_words=keeps_words)
        self.ends = []


class Task:
    """Work that goes on; for whom it works, it is an `asyncio.Task`."""

    def __init__(self, process: Process, work: AnyWork, name: str) -> None:
        self._process = process
        self._work = work
        self._name = name
        self._waits = 0  # how often it has waited: an answer to something before is for nobody
        self._is_done = False
        self._told: list[Callable[[Task], object]] = []
        process.later(0.0, self._go_on, 0, None)

    def done(self) -> bool:
        return self._is_done

    def get_name(self) -> str:
        return self._name

    def add_done_callback(self, tell: Callable[[Task], object]) -> None:
        self._told.append(tell)

    def cancel(self) -> None:
        if not self._is_done:
            self._waits += 1
            self._process.later(0.0, self._go_on, self._waits, asyncio.CancelledError())

    def _go_on(self, waits: int, answer: Any) -> None:
        if waits != self._waits or self._is_done:
            return
        work = self._work
        try:
            is_error = isinstance(answer, BaseException)
            asked = work.throw(answer) if is_error else work.send(answer)
        except (StopIteration, asyncio.CancelledError):
            self._is_done = True
            for tell in self._told:
                tell(self)
            return
        self._waits = now = self._waits + 1
        process = self._process
        if isinstance(asked, float | int):
            process.later(asked, self._go_on, now, None)
        else:
            asked(lambda answer: process.do(self._go_on, now, answer))
