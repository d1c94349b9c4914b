"""Function calls of the agent: to be requested, open, answered. Pure."""

from __future__ import annotations

import secrets
from functools import partial

from relay.protocol import deepgram
from relay.sandbox.output import Output
from relay.sandbox.scheduler import Scheduler, Step
from relay.sandbox.script import Call, Turn

HISTORY_DELAY = 0.038  # seconds from a FunctionCallResponse to its History


class FunctionCalls:
    """Those of one turn. `over` is called when the last one has been answered and told."""

    def __init__(self, scheduler: Scheduler, output: Output, *, over: Step) -> None:
        self._scheduler = scheduler
        self._output = output
        self._over = over
        self._batches: list[tuple[Call, ...]] = []  # requests not made yet
        self._made: dict[str, Call] = {}
        self._open: dict[str, Call] = {}  # of those that were made
        self.results: list[str] = []  # that no thought has taken in

    def prepare(self, turn: Turn) -> None:
        """For `request`: one call after the other, or all at once if the turn wants that."""
        self._batches = [turn.calls] if turn.together else [(call,) for call in turn.calls]
        self._made = {}

    def request(self, now: float) -> None:
        """The next request, if it was not taken back."""
        if not self._batches:
            return
        calls = self._batches.pop(0)
        self._open = {call.id or f"call_{secrets.token_hex(12)}": call for call in calls}
        self._made |= self._open
        functions = [
            {"id": id, "name": call.name, "arguments": call.text, "client_side": True}
            for id, call in self._open.items()
        ]
        self._output.send({"type": "FunctionCallRequest", "functions": functions})

    def take_back(self, *, answered: bool = False) -> bool:
        """The user speaks: what is open is void, and also what is `answered` if so wanted. What was
        not sent never will be. False: there was nothing."""
        void = self._made if answered else self._open
        functions = [{"id": id, "name": call.name} for id, call in void.items()]
        had_any = bool(functions or self._batches)
        if functions:
            self._output.send({"type": "FunctionCallCancelled", "functions": functions})
        if answered:
            self.results.clear()
        self._batches, self._made, self._open = [], {}, {}
        return had_any

    def answered(self, response: dict[str, str], now: float) -> None:
        """A result: echoed, kept for the next thought, and a moment later told as History."""
        call = self._open.pop(response["id"], None)
        if call is None:
            return  # late or never asked for: dropped
        self._output.send(response)
        self.results.append(response["content"])
        finished = deepgram.FinishedCall(
            id=response["id"],
            name=call.name,
            client_side=True,
            arguments=call.text,
            response=response["content"],
        )
        tell = partial(self._tell, deepgram.History(function_calls=[finished]))
        self._scheduler.add(now + HISTORY_DELAY, tell, lasting=True)

    def _tell(self, history: deepgram.History, now: float) -> None:
        self._output.remember(history)
        if self._open:
            return
        if self._batches:
            self.request(now)
        else:
            self._over(now)
