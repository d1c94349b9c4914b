"""The function calls of one session: which are open, and what becomes of them. Pure.

Each call gets one answer, or is taken back by the model. One whose agent is lost before the answer
is parked: the next agent is told of it, so that it does not ask again.

A call is known by an id of ours. The model's own may be that of another open call, or empty: it is
only what goes back to it with the answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from config.function_arguments import MAX_LENGTH
from relay.core import actions, message_policy
from relay.core.actions import Action
from relay.protocol import deepgram

# An answer every model needs and no user waits for: more calls at once are a runaway model.
MAX_OPEN_CALLS = 16
TOO_MANY = json.dumps(
    {"error": f"more than {MAX_OPEN_CALLS} functions at once; wait for the answers"}
)
MAX_REQUESTED = 1_000  # entries of one request that get an answer at all


class PlacedCall(msgspec.Struct, frozen=True):
    """A call as the next agent is told of it, and the `seq` of the message that it stands after;
    that message may be yet to come."""

    call: deepgram.FinishedCall
    after_seq: int


class _OpenCall(msgspec.Struct):
    """A call that has no answer yet, and what is to be said at which second meanwhile."""

    call: deepgram.FunctionCall
    after_seq: int
    say: str = ""
    say_at: float = math.inf


class FunctionCalls:
    """`len` counts those that are open. `new_id` gives a fresh UUID a call."""

    def __init__(self, new_id: Callable[[], UUID]) -> None:
        self._new_id = new_id
        self._open: dict[UUID, _OpenCall] = {}
        self._running: dict[UUID, _OpenCall] = {}  # without an answer or an agent
        self._parked: dict[UUID, PlacedCall] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def deadline(self) -> float:
        """The monotonic second at which there is something to say; infinite: nothing."""
        return min((each.say_at for each in self._open.values()), default=math.inf)

    def begin(self, functions: Sequence[deepgram.FunctionCall], after_seq: int) -> list[Action]:
        """The model asks for these, after the message `after_seq`."""
        asked: list[Action] = []
        for call in functions[:MAX_REQUESTED]:
            is_open = any(_are_same(call, each.call) for each in self._open.values())
            if is_open or not call.client_side:  # a repetition, or it runs at Deepgram
                continue
            # Another agent asks for what one before it has asked for: it gets that answer.
            running = self._running.items()
            same = next((id for id, each in running if _are_same(call, each.call)), None)
            if same is not None:
                before = self._running.pop(same)
                self._open[same] = _OpenCall(before.call, before.after_seq)
                continue
            if len(self._open) >= MAX_OPEN_CALLS:
                asked.append(respond(_finish(call, TOO_MANY)))
                continue
            id = self._new_id()
            self._open[id] = _OpenCall(call, after_seq)
            asked.append(actions.CallFunction(id, call, after_seq))
        return asked

    def take_back(self, functions: Sequence[deepgram.FunctionCall]) -> list[Action]:
        """The model wants no response any more. What the Orchestrator was already asked stays
        asked; the record of the call says what came of it."""
        asked: list[Action] = []
        for cancelled in functions:
            id = self._find(cancelled)
            if id is not None:
                del self._open[id]
                asked.append(actions.CancelFunction(id))
        return asked

    def _find(self, cancelled: deepgram.FunctionCall) -> UUID | None:
        """The newest open call with this id; of several, one of this name if there is one."""
        found = [id for id, each in self._open.items() if each.call.id == cancelled.id]
        named = [id for id in found if self._open[id].call.name == cancelled.name]
        return next(reversed(named or found), None)

    def promise(self, id: UUID, say: str, at: float) -> None:
        """If the call is still open at `at`, the agent is to say something meanwhile."""
        if each := self._open.get(id):
            each.say, each.say_at = say, at

    def speak(self, now: float) -> list[Action]:
        """What is to be said meanwhile."""
        asked: list[Action] = []
        for each in self._open.values():
            if now >= each.say_at:
                each.say_at = math.inf
                filler = deepgram.InjectAgentMessage(message=each.say, behavior="queue")
                asked.append(actions.SendAgent(filler))
        return asked

    def answer(self, id: UUID, content: str) -> PlacedCall | None:
        """The call with its answer, once; None: the agent that asked does not wait for it."""
        self._running.pop(id, None)
        if each := self._open.pop(id, None):
            return PlacedCall(_finish(each.call, content), each.after_seq)
        if parked := self._parked.get(id):
            answered = msgspec.structs.replace(parked.call, response=content)
            self._parked[id] = PlacedCall(answered, parked.after_seq)
        return None

    def park(self) -> None:
        """The agent is gone: an answer to it is not possible any more."""
        for id, each in self._open.items():
            self._running[id] = each
            still_running = _finish(each.call, message_policy.STILL_RUNNING)
            self._parked[id] = PlacedCall(still_running, each.after_seq)
        self._open.clear()

    def take_parked(self) -> list[PlacedCall]:
        """What the next agent has to be told, answered or not; once."""
        parked, self._parked = list(self._parked.values()), {}
        return parked


def _are_same(one: deepgram.FunctionCall, other: deepgram.FunctionCall) -> bool:
    """With an id alone they are not: models use one again, and some send none."""
    return (one.id, one.name, one.arguments) == (other.id, other.name, other.arguments)


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
        arguments=call.arguments if len(call.arguments) <= MAX_LENGTH else "{}",  # refused
        response=response,
        thought_signature=call.thought_signature or None,
    )
