"""The function calls of one session: which are open, and what becomes of them. Pure.

Each call gets one answer, or is taken back by the model. One whose agent is lost before the answer
is parked: the next agent is told of it, so that it does not ask again. What becomes of a call later
is told, too: to the browser, and to an agent that was told something else.

A call is known by an id of ours. The model's own may be that of another open call, or empty: it is
only what goes back to it with the answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import msgspec

from config.function_arguments import MAX_LENGTH
from relay.core import actions, message_policy
from relay.core.actions import Action
from relay.core.late_news import LateNews
from relay.core.records import IntentCalled
from relay.protocol import deepgram
from relay.protocol.relay_events import OPEN, IntentStatus, RelayIntent

# An answer every model needs and no user waits for: more calls at once are a runaway model.
MAX_OPEN_CALLS = 16
TOO_MANY = json.dumps(
    {"error": f"more than {MAX_OPEN_CALLS} functions at once; wait for the answers"}
)
MAX_REQUESTED = 1_000  # entries of one request that get an answer at all
MAX_TOLD = 256  # calls of which a later outcome may come


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


class _ToldCall(msgspec.Struct):
    """A call as the agents know it. `is_here`: the agent that asked is there, and may take it back.
    `is_void`: it did, and is not told of it."""

    placed: PlacedCall
    is_here: bool = False
    is_void: bool = False


class FunctionCalls:
    """`len` counts those that are open. `new_id` gives a fresh UUID a call; `stored` are calls of
    the conversation that an outcome is still to come of."""

    def __init__(self, new_id: Callable[[], UUID], stored: Sequence[IntentCalled] = ()) -> None:
        self._new_id = new_id
        self._open: dict[UUID, _OpenCall] = {}
        self._running: dict[UUID, _OpenCall] = {}  # without an answer or an agent
        self._parked: dict[UUID, PlacedCall] = {}
        self._told: dict[UUID, _ToldCall] = {}
        self._waiting = {each.id for each in stored if each.status is IntentStatus.AWAITING}
        self.news = LateNews()
        for each in stored:
            finished = _finish(each.asked, each.response or "")
            self._tell(each.id, PlacedCall(finished, each.after_seq))

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
                self._told.pop(same, None)
                self._open[same] = _OpenCall(before.call, before.after_seq)
                continue
            if len(self._open) >= MAX_OPEN_CALLS:
                asked.append(respond(_finish(call, TOO_MANY)))
                continue
            id = self._new_id()
            self._open[id] = _OpenCall(call, after_seq)
            asked.append(actions.CallFunction(id, call, after_seq))
        return asked

    def take_back(
        self, functions: Sequence[deepgram.FunctionCall]
    ) -> list[tuple[UUID, deepgram.FinishedCall | None]]:
        """The model does not want these any more, each with its answer if it had one: who said
        something in between may have been answered already."""
        void: list[tuple[UUID, deepgram.FinishedCall | None]] = []
        for cancelled in functions:
            open_calls = {id: each.call for id, each in self._open.items()}
            told = {id: each.placed.call for id, each in self._told.items() if each.is_here}
            if (id := _find(cancelled, open_calls)) is not None:
                each = self._open.pop(id)
                self._tell(id, PlacedCall(_finish(each.call, ""), each.after_seq), is_void=True)
                void.append((id, None))
            elif (id := _find(cancelled, told)) is not None:
                self._told[id].is_here, self._told[id].is_void = False, True
                void.append((id, told[id]))
        return void

    def decide(self, id: UUID) -> bool:
        """The user decides about this call; False: it does not wait for that."""
        is_waiting = id in self._waiting
        self._waiting.discard(id)
        return is_waiting

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
            placed = PlacedCall(_finish(each.call, content), each.after_seq)
            self._tell(id, placed, is_here=True)
            return placed
        if parked := self._parked.get(id):
            answered = msgspec.structs.replace(parked.call, response=content)
            self._parked[id] = PlacedCall(answered, parked.after_seq)
        return None

    def hear(self, shown: RelayIntent, content: str) -> tuple[PlacedCall, PlacedCall] | None:
        """How an agent was told of this call, and how it stands now, if that is to be told."""
        if shown.status is IntentStatus.AWAITING:
            self._waiting.add(shown.id)
        else:
            self._waiting.discard(shown.id)
        told = self._told.get(shown.id)
        if told is None or shown.status in OPEN or (told.is_void and not shown.taken_back):
            return None
        before = told.placed
        if before.call.response == content:
            return None  # this is how it was answered
        call = msgspec.structs.replace(before.call, response=content)
        told.placed = PlacedCall(call, before.after_seq)
        self.news.add(call)
        return before, told.placed

    def _tell(
        self, id: UUID, placed: PlacedCall, *, is_here: bool = False, is_void: bool = False
    ) -> None:
        self._told[id] = _ToldCall(placed, is_here, is_void)
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]

    def park(self) -> None:
        """The agent is gone: an answer to it is not possible any more."""
        for told in self._told.values():
            told.is_here = False
        for id, each in self._open.items():
            self._running[id] = each
            still_running = _finish(each.call, message_policy.STILL_RUNNING)
            self._parked[id] = PlacedCall(still_running, each.after_seq)
        self._open.clear()

    def take_parked(self) -> list[PlacedCall]:
        """What the next agent has to be told, answered or not; once."""
        parked, self._parked = self._parked, {}
        for id, placed in parked.items():
            self._tell(id, placed)
        return list(parked.values())


def _find(
    cancelled: deepgram.FunctionCall,
    calls: Mapping[UUID, deepgram.FunctionCall | deepgram.FinishedCall],
) -> UUID | None:
    """The newest call with this id; of several, one of this name if there is one."""
    found = [id for id, call in calls.items() if call.id == cancelled.id]
    named = [id for id in found if calls[id].name == cancelled.name]
    return next(reversed(named or found), None)


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
