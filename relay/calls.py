"""The function calls of one session: which are open, and what becomes of them. Pure.

Each call gets one answer, or is taken back by the model. One whose agent is lost before the answer
is parked: the next agent is told of it, so that it does not ask again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from relay import actions, deepgram, policy
from relay.actions import Action

# An answer every model needs and no user waits for: more calls at once are a runaway model.
MAX_OPEN_CALLS = 16


class _OpenCall(msgspec.Struct):
    """A call that has no answer yet; `say_at` is None once there is nothing more to say."""

    call: deepgram.FunctionCall
    say: str | None = None
    say_at: float | None = None


class Calls:
    """`len` counts those that are open."""

    def __init__(self) -> None:
        self._open: dict[str, _OpenCall] = {}
        self._parked: dict[str, deepgram.FinishedCall] = {}
        self._answered: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def deadline(self) -> float:
        """The monotonic second at which there is something to say; infinite: nothing."""
        return min((each.say_at for each in self._open.values() if each.say_at), default=math.inf)

    def begin(self, functions: Sequence[deepgram.FunctionCall], after_seq: int) -> list[Action]:
        """The model asks for these, after the message `after_seq`."""
        asked: list[Action] = []
        for call in functions:
            # Entries with client_side false run at Deepgram; an id that we know is a repetition.
            if not call.client_side or call.id in self._open or call.id in self._answered:
                continue
            if len(self._open) >= MAX_OPEN_CALLS:
                self._answered.add(call.id)
                asked.append(respond(_finish(call, policy.too_many_calls(MAX_OPEN_CALLS))))
                continue
            self._open[call.id] = _OpenCall(call)
            asked.append(actions.CallFunction(call, after_seq))
        return asked

    def take_back(self, functions: Sequence[deepgram.CancelledCall]) -> list[Action]:
        """The model wants no response any more. What the Orchestrator was already asked stays
        asked; the record of the call says what came of it."""
        ids = [call.id for call in functions if self._open.pop(call.id, None)]
        self._answered.update(ids)
        return [actions.CancelFunction(call_id) for call_id in ids]

    def promise(self, call_id: str, say: str, at: float) -> None:
        """If the call is still open at `at`, the agent is to say something meanwhile."""
        if each := self._open.get(call_id):
            each.say, each.say_at = say, at

    def speak(self, now: float) -> list[Action]:
        """What is to be said meanwhile."""
        asked: list[Action] = []
        for each in self._open.values():
            if each.say and each.say_at is not None and now >= each.say_at:
                each.say_at = None
                filler = deepgram.InjectAgentMessage(message=each.say, behavior="queue")
                asked.append(actions.SendAgent(filler))
        return asked

    def answer(self, call_id: str, content: str) -> deepgram.FinishedCall | None:
        """The call with its answer, once; None: the agent that asked does not wait for it."""
        if each := self._open.pop(call_id, None):
            self._answered.add(call_id)
            return _finish(each.call, content)
        if parked := self._parked.get(call_id):
            self._parked[call_id] = msgspec.structs.replace(parked, response=content)
        return None

    def park(self) -> None:
        """The agent is gone: an answer to it is not possible any more."""
        for call_id, each in self._open.items():
            self._answered.add(call_id)
            self._parked[call_id] = _finish(each.call, policy.STILL_RUNNING)
        self._open.clear()

    def take_parked(self) -> list[deepgram.FinishedCall]:
        """What the next agent has to be told, answered or not; once."""
        parked, self._parked = list(self._parked.values()), {}
        return parked


def respond(finished: deepgram.FinishedCall) -> Action:
    """The answer, for the agent that asked."""
    response = deepgram.FunctionCallResponse(
        id=finished.id,
        name=finished.name,
        content=finished.response,
        thought_signature=finished.thought_signature,
    )
    return actions.SendAgent(response)


def _finish(call: deepgram.FunctionCall, response: str) -> deepgram.FinishedCall:
    return deepgram.FinishedCall(
        id=call.id,
        name=call.name,
        client_side=True,
        arguments=call.arguments,
        response=response,
        thought_signature=call.thought_signature,
    )
