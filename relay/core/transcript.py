"""The messages and calls of one session: how messages are numbered, what the next agent is told.

Pure. The numbers go on from where the conversation stood when the session was admitted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from relay.core.admitted import Admitted
from relay.core.function_calls import PlacedCall
from relay.core.records import MessageSaid
from relay.protocol import deepgram

HISTORY_LENGTH = 200  # lines that the next agent is told, the newest


class Transcript:
    """`zero` is the wall-clock instant (UTC) of monotonic second 0."""

    def __init__(self, admitted: Admitted, zero: datetime, new_id: Callable[[], UUID]) -> None:
        self._admitted = admitted
        self._zero = zero
        self._new_id = new_id
        self.last_seq = admitted.last_seq
        self._turn = admitted.last_turn
        self._role = admitted.last_role  # whose turn it is
        self.words_due = False  # the user speaks, and what is said has not come as text yet
        self._lines = deque(admitted.history, maxlen=HISTORY_LENGTH)
        self._early: list[deepgram.FinishedCall] = []  # after the next line

    @property
    def place(self) -> int:
        """The `seq` of the message that a call stands after if it comes now: Deepgram calls before
        it sends the words that caused it, so that is the next message while the user speaks."""
        return self.last_seq + self.words_due

    @property
    def history(self) -> list[deepgram.History]:
        """What the next agent is told, early calls last if their words never came."""
        return [*self._lines, *_called(self._early)]

    def add(self, said: deepgram.ConversationText, now: float) -> MessageSaid:
        """Number this line; the record of it."""
        # What is said by the way stands in the turn of the other, who goes on with it.
        if self._role != said.role and (said.is_turn or self._role is None):
            self._turn += 1
            self._role = said.role
        self.last_seq += 1
        self.words_due = self.words_due and not said.is_turn
        self._lines.append(deepgram.History(role=said.role, content=said.content))
        self._lines += _called(self._early)
        self._early = []
        return MessageSaid(
            id=self._new_id(),
            conversation_id=self._admitted.conversation_id,
            session_id=self._admitted.session_id,
            seq=self.last_seq,
            turn=self._turn,
            role=said.role,
            content=said.content,
            at=self._zero + timedelta(seconds=now),
            epoch=self._admitted.epoch,
        )

    def change_call(
        self, call: deepgram.FinishedCall, instead: deepgram.FinishedCall | None
    ) -> bool:
        """The next agent is told this in place of a call, or nothing; False: it is not told of."""
        name = call.id, call.name, call.arguments
        for place in range(len(self._lines) - 1, -1, -1):
            calls = self._lines[place].function_calls or []
            kept = _replaced(calls, name, instead)
            if kept is not None:
                del self._lines[place]
                for line in _called(kept):
                    self._lines.insert(place, line)
                return True
        early = _replaced(self._early, name, instead)
        self._early = self._early if early is None else early
        return early is not None

    def add_calls(self, calls: Sequence[PlacedCall]) -> None:
        """The next agent is told of these calls, too: of each after its message."""
        self._early += [each.call for each in calls if each.after_seq > self.last_seq]
        self._lines += _called([each.call for each in calls if each.after_seq <= self.last_seq])


def _called(calls: list[deepgram.FinishedCall]) -> list[deepgram.History]:
    """The line of the history that these calls are."""
    return [deepgram.History(function_calls=calls)] if calls else []


def _replaced(
    calls: list[deepgram.FinishedCall],
    name: tuple[str, str, str],
    instead: deepgram.FinishedCall | None,
) -> list[deepgram.FinishedCall] | None:
    """These calls with another in the place of the newest of this name; None: it is not there."""
    for place in range(len(calls) - 1, -1, -1):
        if (calls[place].id, calls[place].name, calls[place].arguments) == name:
            return [*calls[:place], *([instead] if instead else []), *calls[place + 1 :]]
    return None
