"""What an evaluation came to: by scenario, in all, and against the one before. Pure but for the
file."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import msgspec

from config.scenario import AgentName, Scenario
from control.evals.attempt import Attempt
from control.evals.interval import wilson


class Outcome(Enum):
    PASSED = "passed"
    FAILED = "FAILED"
    KNOWN = "fails as known"  # the file says why
    SURPRISE = "passes, and the file says that it fails"


class Result(msgspec.Struct, kw_only=True):
    """Of one scenario; `known` is why it is known to fail."""

    name: str
    about: str
    known: str | None
    pass_rate: float
    attempts: list[Attempt] = []

    @property
    def passed(self) -> int:
        return sum(attempt.passed for attempt in self.attempts)

    @property
    def rate(self) -> float:
        return self.passed / len(self.attempts) if self.attempts else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.passed, len(self.attempts))

    @property
    def outcome(self) -> Outcome:
        is_well = bool(self.attempts) and self.rate >= self.pass_rate
        if self.known is None:
            return Outcome.PASSED if is_well else Outcome.FAILED
        return Outcome.SURPRISE if is_well else Outcome.KNOWN

    @property
    def slowest(self) -> float | None:
        """The longest wait for the agent's voice, in seconds."""
        return max((t for attempt in self.attempts for t in attempt.first_audio), default=None)

    @property
    def failed_attempts(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.passed]


class Results(msgspec.Struct, kw_only=True):
    """`began` in UTC, ISO 8601; `seconds` by the clock on the wall."""

    agent: AgentName
    began: str
    seconds: float = 0.0
    scenarios: list[Result] = []

    @property
    def failed(self) -> list[Result]:
        return [each for each in self.scenarios if each.outcome is Outcome.FAILED]

    @property
    def agent_minutes(self) -> float:
        """For how long agents were connected: what Deepgram bills."""
        return sum(a.seconds for each in self.scenarios for a in each.attempts) / 60


class Past(msgspec.Struct):
    """What is kept of a result for the next evaluation."""

    passed: int
    count: int
    outcome: str


class Last(msgspec.Struct):
    """The evaluation before, by agent."""

    began: str
    scenarios: dict[str, Past]


def new_result(name: str, scenario: Scenario, agent: AgentName) -> Result:
    known: str | None = getattr(scenario.fails, agent)
    return Result(name=name, about=scenario.about, known=known, pass_rate=scenario.pass_rate)


def compare(last: Last, results: Results) -> Iterator[str]:
    """What is different from the last time, a line each. Scenarios that were not run say nothing:
    who tries one of twenty has not lost nineteen."""
    for each in results.scenarios:
        before = last.scenarios.get(each.name)
        if before is None:
            yield f"{each.name}: new"
            continue
        then = f"{before.passed} of {before.count}"
        now = f"{each.passed} of {len(each.attempts)}"
        was_well = before.outcome in (Outcome.PASSED.name, Outcome.SURPRISE.name)
        is_well = each.outcome in (Outcome.PASSED, Outcome.SURPRISE)
        if was_well != is_well:
            news = "passes again" if is_well else "NO LONGER PASSES"
            yield f"{each.name}: {news}, {then} → {now}"
        elif before.passed / max(before.count, 1) != each.rate:
            low, high = wilson(before.passed, before.count)
            chance = "" if each.interval[0] > high or each.interval[1] < low else "; may be chance"
            yield f"{each.name}: {then} → {now}{chance}"


def read_last(path: Path, agent: AgentName) -> Last | None:
    """None: there was none, or what is there cannot be read."""
    return _read(path).get(agent)


def write_last(path: Path, results: Results) -> None:
    """Beside what other agents had, and other scenarios. Raises `OSError`."""
    kept = _read(path)
    before = kept.get(results.agent)
    now = {
        each.name: Past(each.passed, len(each.attempts), each.outcome.name)
        for each in results.scenarios
    }
    scenarios = (before.scenarios if before is not None else {}) | now
    kept[results.agent] = Last(results.began, scenarios)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def _read(path: Path) -> dict[str, Last]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Last])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
