"""Results for people at a terminal: a table, what failed with its transcript, what changed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from control.evals.attempt import Attempt, Entry
from control.evals.results import Last, Outcome, Result, Results, compare

WHO = {"said": "you say", "heard": "it hears", "agent": "agent", "intent": "intent", "note": "·"}


def write_text(results: Results, last: Last | None) -> str:
    """The whole report."""
    parts = [_table(results), _known(results), *_failures(results), _changes(results, last)]
    sections = ["\n".join(lines) for lines in parts]
    return "\n\n".join([each for each in sections if each] + [summarize(results)])


def _table(results: Results) -> Iterator[str]:
    width = max((len(each.name) for each in results.scenarios), default=8)
    yield f"{'scenario':{width}}  passed    rate  95 %          first audio"
    for each in results.scenarios:
        low, high = each.interval
        count = f"{each.passed}/{len(each.attempts)}"
        sure = f"{low:.0%} to {high:.0%}"
        slowest = f"{each.slowest:.1f} s" if each.slowest is not None else "-"
        note = "" if each.outcome is Outcome.PASSED else f"   {each.outcome.value}"
        yield f"{each.name:{width}}  {count:>6}  {each.rate:>6.0%}  {sure:12}  {slowest:>11}{note}"


def _known(results: Results) -> Iterator[str]:
    for each in results.scenarios:
        if each.outcome is Outcome.KNOWN:
            yield f"{each.name} fails as known: {each.known}"
        elif each.outcome is Outcome.SURPRISE:
            yield f"{each.name} passes: take `fails.{results.agent}` out of its file ({each.known})"


def _failures(results: Results) -> Iterator[list[str]]:
    for each in results.failed:
        lines = [f"{each.name} FAILED: {each.about}"]
        for attempt in each.failed_attempts:
            lines += _failure(each, attempt)
        yield lines


def _failure(result: Result, attempt: Attempt) -> Iterator[str]:
    yield f"  attempt {attempt.number} of {len(result.attempts)}, session {attempt.session_id}"
    yield from (f"    ✗ {plain(line)}" for line in attempt.failures)
    yield from (f"    {show(entry)}" for entry in attempt.transcript)


def _changes(results: Results, last: Last | None) -> Iterator[str]:
    if last is not None:
        changes = list(compare(last, results))
        yield f"since {last.began}:{'' if changes else ' nothing changed'}"
        yield from (f"  {change}" for change in changes)


def summarize(results: Results) -> str:
    """One line."""
    count = {kind: 0 for kind in Outcome}
    for each in results.scenarios:
        count[each.outcome] += 1
    passed = count[Outcome.PASSED] + count[Outcome.SURPRISE]
    names = ", ".join(each.name for each in results.failed)
    return (
        f"{passed} passed, {count[Outcome.FAILED]} failed{f' ({names})' if names else ''}, "
        f"{count[Outcome.KNOWN]} failed as known; {results.agent_minutes:.1f} agent minutes in "
        f"{results.seconds / 60:.1f} min"
    )


def show(entry: Entry) -> str:
    """A line of the transcript."""
    return f"{entry.at:6.1f}  {WHO[entry.who]:8}  {plain(entry.text)}"


def plain(text: str) -> str:
    """One line that cannot steer a terminal; an agent wrote it."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)
