"""What came of an attempt against what must. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from msgspec import UNSET

from config.errors import shown
from config.scenario import ANY, Expectations, ExpectedArgument, ExpectedIntent, ForbiddenIntent
from control.evals.attempt import Attempt, Call
from relay.protocol.relay_events import IntentStatus


def judge(expect: Expectations, attempt: Attempt) -> list[str]:
    """What is wrong, a line each; empty: it passed."""
    return [
        *([attempt.trouble] if attempt.trouble else []),
        *_judge_calls(expect, attempt.calls),
        *_judge_words(expect, attempt.words),
        *_judge_turns(expect, attempt),
        *_judge_times(expect, attempt.first_audio),
    ]


def _judge_calls(expect: Expectations, calls: list[Call]) -> Iterator[str]:
    """Each expected one takes a call of its own, the best that is left."""
    # Taken back before anything was done: the model thought aloud.
    left = [call for call in calls if call.status != IntentStatus.CANCELLED]
    for wanted in expect.intents:
        judged = [(list(_mismatches(wanted, call)), call) for call in left]
        rivals = [each for each in judged if wanted.intent in (ANY, each[1].intent)]
        if not rivals:
            others = ", ".join(_shown(call) for call in left) or "none"
            yield f"expected the intent {wanted.intent}, got {others}"
            continue
        mismatches, call = min(rivals, key=lambda each: len(each[0]))
        left.remove(call)
        yield from mismatches
    for call in left:
        if any(_is_forbidden(each, call) for each in expect.forbidden):
            yield f"expected no such intent, got {_shown(call)}"


def _mismatches(wanted: ExpectedIntent, call: Call) -> Iterator[str]:
    if call.status != wanted.status:
        yield f"{call.intent}: expected it to be {wanted.status}, got {call.status}"
    yield from _argument_mismatches(wanted.arguments, call)


def _is_forbidden(forbidden: ForbiddenIntent, call: Call) -> bool:
    is_meant = forbidden.intent in (ANY, call.intent)
    return is_meant and not any(_argument_mismatches(forbidden.arguments, call))


def _argument_mismatches(wanted: dict[str, ExpectedArgument], call: Call) -> Iterator[str]:
    arguments = call.arguments if isinstance(call.arguments, dict) else {}
    for name, argument in wanted.items():
        if mismatch := _mismatch(argument, arguments.get(name, UNSET)):
            yield f"{call.intent}.{name}: {mismatch}"


def _mismatch(wanted: ExpectedArgument, value: Any) -> str:
    if wanted.absent:
        return "" if value is UNSET else f"expected none, got {shown(value)}"
    if value is UNSET:
        return "expected a value, got none"
    if wanted.pattern is not None:
        if isinstance(value, str) and re.search(wanted.pattern, value, re.I):
            return ""
        return f"expected a text like {wanted.pattern}, got {shown(value)}"
    if wanted.schema is not None:
        errors = Draft202012Validator(wanted.schema).iter_errors(value)
        return "; ".join(error.message for error in errors)
    return "" if value == wanted.exact else f"expected {shown(wanted.exact)}, got {shown(value)}"


def _judge_words(expect: Expectations, words: list[str]) -> Iterator[str]:
    text = "\n".join(words)
    for pattern in expect.said:
        if not re.search(pattern, text, re.I):
            yield f"expected the agent to say {pattern}, and it did not"
    for pattern in expect.not_said:
        if found := re.search(pattern, text, re.I):
            yield f"expected the agent not to say {pattern}, got {shown(found[0])}"


def _judge_turns(expect: Expectations, attempt: Attempt) -> Iterator[str]:
    if attempt.unasked:
        unsaid = shown(attempt.unasked)
        yield f"expected at most {expect.turns} turns of the user; {unsaid} would be one more"


def _judge_times(expect: Expectations, times: list[float]) -> Iterator[str]:
    slowest = max(times, default=0.0)
    if expect.first_audio is not None and slowest > expect.first_audio:
        yield f"expected the agent's voice within {expect.first_audio:g} s, got {slowest:.1f} s"


def _shown(call: Call) -> str:
    return f"{call.intent} {call.status} {msgspec.json.encode(call.arguments).decode()}"
