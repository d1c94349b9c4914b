"""The messages and calls of one session: how messages are numbered, what the next agent is told.

Pure. The numbers go on from where the conversation stood when the session was admitted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from relay.core.admitted import Admitted
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
        self.history = deque(admitted.history, maxlen=HISTORY_LENGTH)

    def add(self, said: deepgram.ConversationText, now: float) -> MessageSaid:
        """Number this line; the record of it."""
        # What is said by the way stands in the turn of the other, who goes on with it.
        if self._role != said.role and (said.is_turn or self._role is None):
            self._turn += 1
            self._role = said.role
        self.last_seq += 1
        self.history.append(deepgram.History(role=said.role, content=said.content))
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

    def add_calls(self, finished: list[deepgram.FinishedCall]) -> None:
        """The next agent is told of these calls, too."""
        self.history.append(deepgram.History(function_calls=finished))
