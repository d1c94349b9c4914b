"""The Orchestrator: does what a call wants, once for each Idempotency-Key, or undoes it."""

from __future__ import annotations

from relay.functions.submission import Delayed, Submitted
from tests.simulation.clock import Ask, Process
from tests.simulation.promises import Broken

LATE = 14.0


class Orchestrator:
    """`goals` are what was done, by the key of the call; `undone` what was taken back."""

    def __init__(self, world) -> None:
        self.world = world
        self.process = Process(world.clock, "orchestrator")
        self.chance = world.chance("orchestrator")
        self.trouble = ""
        self.goals: dict[str, str] = {}
        self.undone: set[str] = set()
        self.requests = 0

    def submit(
        self, process: Process, key: str, goal: str, seconds: float, *, is_cancel: bool = False
    ) -> Ask:
        """One attempt; the answer is an `Outcome`."""

        def ask(resume) -> None:
            way = self.world.between(0.01, 0.3, self.chance)
            self.process.later(way, self._arrive, key, goal, is_cancel, seconds, resume)

        self.world.moment("submit")
        return ask

    def _arrive(self, key, goal, is_cancel, seconds, resume) -> None:
        self.requests += 1
        trouble = self.trouble
        way = self.world.between(0.01, 0.2, self.chance)
        if trouble == "refuses":
            outcome = Delayed(reason="away", cause="refused", attempts=1, unsent=True)
            self.process.later(way, resume, outcome)
            return
        lost = Delayed(reason="no answer", cause="timeout", attempts=1)
        if trouble == "late":
            self.process.later(LATE, self._do, key, goal, is_cancel)
            self.process.later(min(seconds, LATE), resume, lost)
            return
        self._do(key, goal, is_cancel)
        done = Submitted({"goal": goal}, 1)
        self.process.later(way, resume, lost if trouble == "answer lost" else done)

    def _do(self, key: str, goal: str, is_cancel: bool) -> None:
        clock = self.world.clock
        if clock.is_told:
            clock.say("orchestrator", f"{'undoes' if is_cancel else 'does'} {goal} {key[-4:]}")
        if is_cancel:
            self.undone.add(key)  # also what has not come yet
        elif self.goals.setdefault(key, goal) != goal:
            raise Broken("a key is one call", f"{key} is {self.goals[key]}, and now {goal}")

    @property
    def standing(self) -> dict[str, str]:
        """What was done and not undone."""
        return {key: goal for key, goal in self.goals.items() if key not in self.undone}
