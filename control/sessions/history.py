"""How a stored conversation is told to an agent that goes on with it.

Control plane, pure.
"""

from __future__ import annotations

from control.db.rows import History
from relay.core.message_policy import STILL_RUNNING
from relay.protocol import deepgram


def history_for_agent(history: History) -> list[deepgram.History]:
    """The stored conversation as Deepgram takes it: each call after the message it followed."""
    calls = list(reversed(history.calls))
    told: list[deepgram.History] = []

    def tell_calls(until: int) -> None:
        while calls and calls[-1].after_seq < until:
            call = calls.pop()
            finished = deepgram.FinishedCall(
                id=call.call_id,
                name=call.function,
                client_side=True,
                arguments=call.arguments,
                response=call.response or STILL_RUNNING,
            )
            told.append(deepgram.History(function_calls=[finished]))

    for message in history.messages:
        tell_calls(message.seq)
        told.append(deepgram.History(role=message.role, content=message.content))
    while calls:
        tell_calls(calls[-1].after_seq + 1)
    return told
