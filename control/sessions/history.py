"""How a stored conversation is told to an agent that goes on with it.

Control plane, pure.
"""

from __future__ import annotations

from operator import itemgetter

from control.db.rows import History, IntentCall
from relay.core.message_policy import STILL_RUNNING
from relay.protocol import deepgram


def history_for_agent(history: History) -> list[deepgram.History]:
    """The stored conversation as Deepgram takes it: each call after the message it followed."""
    lines = [
        (message.seq, 0, deepgram.History(role=message.role, content=message.content))
        for message in history.messages
    ]
    lines += [(call.after_seq, 1, _tell(call)) for call in history.calls]
    return [line for _, _, line in sorted(lines, key=itemgetter(0, 1))]


def _tell(call: IntentCall) -> deepgram.History:
    finished = deepgram.FinishedCall(
        id=call.call_id,
        name=call.function,
        client_side=True,
        arguments=call.arguments,
        response=call.response or STILL_RUNNING,
    )
    return deepgram.History(function_calls=[finished])
