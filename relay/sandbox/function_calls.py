"""Function calls of the agent: to be requested, open, answered, cancelled. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from relay.protocol import deepgram
from relay.sandbox.options import Options
from relay.sandbox.output import Output
from relay.sandbox.scheduler import Scheduler, Step
from relay.sandbox.script import Call, Turn


class FunctionCalls:
    """`new_id` makes the ids. `done` is called when a call has been answered and told."""

    def __init__(
        self,
        options: Options,
        scheduler: Scheduler,
        output: Output,
        *,
        new_id: Callable[[], str],
        done: Step,
    ) -> None:
        self._options = options
        self._scheduler = scheduler
        self._output = output
        self._new_id = new_id
        self._done = done
        self._batches: list[list[Call]] = []  # requests not made yet
        self._open: dict[str, Call] = {}
        self._results: list[tuple[Call, str]] = []  # that no thought has taken in

    def __repr__(self) -> str:
        return f"<FunctionCalls open={len(self._open)} results={len(self._results)}>"

    @property
    def are_open(self) -> bool:
        return bool(self._open)

    @property
    def are_waiting(self) -> bool:
        """Whether there are more to be requested."""
        return bool(self._batches)

    @property
    def have_results(self) -> bool:
        return bool(self._results)

    def take_results(self) -> list[tuple[Call, str]]:
        results, self._results = self._results, []
        return results

    def prepare(self, turn: Turn) -> None:
        """Give the turn's calls their ids, for `request`."""
        named = [msgspec.structs.replace(call, id=call.id or self._new_id()) for call in turn.calls]
        self._batches = [named] if turn.together else [[call] for call in named]

    def request(self, now: float) -> None:
        """The next request: one call, or all of them if the turn wants them together."""
        self._open = {}
        if self._batches:
            self._request(now)

    def request_all(self, now: float) -> None:
        self._open = {}
        while self._batches:
            self._request(now)

    def _request(self, now: float) -> None:
        batch = self._batches.pop(0)
        self._open.update((call.id, call) for call in batch)
        functions = [
            {
                "id": call.id,
                "name": call.name,
                "arguments": call.text,
                "client_side": call.client_side,
            }
            for call in batch
        ]
        self._output.send({"type": "FunctionCallRequest", "functions": functions})
        for call in batch:
            if not call.client_side:
                result = deepgram.FunctionCallResponse(
                    id=call.id, name=call.name, content='{"status":"ok"}'
                )
                there = partial(self._answered_there, result)
                self._scheduler.add(now + self._options.call_delay, there, lasting=True)

    def _answered_there(self, result: deepgram.FunctionCallResponse, now: float) -> None:
        self.answered(result, now, echo=True)

    def answered(
        self, response: deepgram.FunctionCallResponse, now: float, *, echo: bool = False
    ) -> None:
        """A result: echoed, kept for the next thought, and a moment later told as History."""
        call = self._open.pop(response.id or "", None)
        if call is None:
            return  # late, cancelled or never asked for: dropped
        if echo or self._options.echo_function_response:
            self._output.send(response)
        self._results.append((call, response.content))
        finished = deepgram.FinishedCall(
            id=call.id,
            name=call.name,
            client_side=call.client_side,
            arguments=call.text,
            response=response.content,
        )
        tell = partial(self._tell, deepgram.History(function_calls=[finished]))
        self._scheduler.add(now + self._options.history_delay, tell, lasting=True)

    def _tell(self, history: deepgram.History, now: float) -> None:
        self._output.remember(history)
        self._done(now)

    def cancel(self) -> bool:
        """Forget what is open and what was to come; False if nothing was open."""
        if not self._open:
            return False
        cancelled = [{"id": call.id, "name": call.name} for call in self._open.values()]
        self._output.send({"type": "FunctionCallCancelled", "functions": cancelled})
        self._open = {}
        self._batches = []
        return True
