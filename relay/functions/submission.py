"""An intent on its way to the Orchestrator, what came of it, and when to try again.

Pure. The relay and the outbox make a `Submission`, the control plane carries it over HTTP, once,
and answers with one of four outcomes; it never raises for trouble of the network. Whether there is
another attempt, and when, is said here for both.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from config.intents import Intent
from relay.protocol.relay_events import IntentStatus

# One who waits for the answer is told that it is saved after this many attempts at the latest.
MAX_ATTEMPTS = 10
UNCERTAIN = "the planner did not answer in time, so it is not certain that this was saved"

# What agents are told of a call that somebody decided about.
AWAITING = json.dumps(
    {
        "status": "waiting",
        "detail": "it is not done: a card on the user's screen asks whether it shall be; ask the"
        " user to look at it, and do not call again",
    }
)
CONFIRMED = json.dumps(
    {"status": "confirmed", "detail": "the user wants it; it is being submitted"}
)
DECLINED = json.dumps({"status": "cancelled", "detail": "the user declined it; it was not done"})
UNDECIDED = json.dumps(
    {"status": "cancelled", "detail": "the user did not confirm it in time; it was not done"}
)
CARRIED_OUT = json.dumps(
    {
        "status": "submitted",
        "detail": "it was taken back too late: it was carried out all the same; say so if it"
        " matters",
    }
)
CANCELLING = json.dumps({"status": "cancelling", "detail": "it was taken back and is being undone"})


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Validated parameters of one call, for one attempt.

    `call_id` is what the Orchestrator knows the call by, also as Idempotency-Key: the id of its
    row, never the model's.

    The attempt may take `seconds` in all. `in_doubt`: an earlier one may have arrived. `is_cancel`:
    the call is to be undone, or never to be done if it has not arrived.
    """

    intent: Intent
    parameters: dict[str, Any]
    user_id: str
    conversation_id: UUID
    call_id: str
    seconds: float = 10.0
    in_doubt: bool = False
    is_cancel: bool = False


class Submitted(msgspec.Struct, frozen=True):
    """The Orchestrator took it: its JSON answer."""

    result: Any
    attempts: int


class Rejected(msgspec.Struct, frozen=True):
    """Refused for good; `reason` is meant for the model to say."""

    reason: str
    result: Any
    attempts: int


class Failed(msgspec.Struct, frozen=True):
    """It was not delivered and will not be; `reason` is meant for the model to say."""

    reason: str
    attempts: int


class Delayed(msgspec.Struct, frozen=True, kw_only=True):
    """Not settled: another attempt may go better, not before `wait` seconds if the server said so.

    `unsent`: nothing can have arrived, so that another attempt cannot double anything; 0 `attempts`
    if nobody was asked. `reason` is for the model, `cause` for operators.
    """

    reason: str
    cause: str
    attempts: int
    unsent: bool = False
    wait: float = 0.0


Settled = Submitted | Rejected | Failed
Outcome = Settled | Delayed
Submit = Callable[[Submission], Awaitable[Outcome]]


def may_repeat(intent: Intent, outcome: Delayed, *, in_doubt: bool) -> bool:
    """Whether there may be another attempt; `in_doubt`: one before this may have arrived."""
    return intent.retry or (outcome.unsent and not in_doubt)


def retold(status: IntentStatus, response: str | None, *, taken_back: bool) -> str | None:
    """What a later agent is told of a call with this `response`; None: of none yet."""
    if taken_back and status is IntentStatus.SUBMITTED:
        return CARRIED_OUT
    return CANCELLING if status is IntentStatus.CANCELLING else response


def answer(outcome: Settled) -> tuple[IntentStatus, Any, str]:
    """Status, result for people, and the text for the model (Deepgram wants a string)."""
    if isinstance(outcome, Submitted):
        content = json.dumps({"status": "submitted", "result": outcome.result})
        return IntentStatus.SUBMITTED, outcome.result, content
    status, result = IntentStatus.FAILED, None
    if isinstance(outcome, Rejected):
        status, result = IntentStatus.REJECTED, outcome.result
    error = {"error": outcome.reason}
    return status, result or error, json.dumps({"status": status, **error})


def saved(reason: str) -> str:
    """The text for the model when it shall not wait any longer and we go on trying."""
    detail = (
        "it is not done yet: it is saved, and will be passed on later by itself; tell the user so,"
        " do not say that it is done, and do not call again"
    )
    return json.dumps({"status": "saved", "detail": detail, "because": reason})


def discarded() -> str:
    """The text for a later model of a call that an administrator has given up."""
    return json.dumps({"status": "cancelled", "detail": "it was not done and will not be"})
