"""The user's turn that no agent has answered to the end, and how the next one is asked to. Pure.

An agent that is told a conversation which ends with the user waits for more (docs/protocol.md). So
what is unanswered is left out of what the next one is told, with what was begun of a reply, and is
said to it as a typed turn. Its echo is known already, and so is what it repeats of that reply.

A turn in which functions were called is told as it was, and the agent is asked to give its answer
again: the user's words would have them called again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from relay.core import actions, agent_history
from relay.core.actions import Action
from relay.core.message_policy import ANSWER_AGAIN
from relay.protocol import deepgram

# Agents that are asked the same: it may be the question that they die of.
MOST_ASKED = 3
MOST_TYPED = 64  # texts without an echo; older ones are given up


class OpenTurn:
    """The newest turn of the user. Typed texts belong to it from their echo on; until then they are
    kept, as they may be lost with the agent that they were sent to."""

    def __init__(self) -> None:
        self._texts: list[str] = []  # of the user
        self._replies: list[str] = []  # of the agent since then
        self._lines = 0  # stored since then
        self._has_called = False
        self._has_reply = False  # the agent has spoken since it got what it wanted last
        self._is_answered = True
        self._typed: deque[str] = deque(maxlen=MOST_TYPED)
        self._question = ""  # for the agent that is being set up
        self._asked = 0  # how many agents were
        # Type, role and text of what is stored already and may come once more.
        self._echoes: set[tuple[str, str, str]] = set()

    def __repr__(self) -> str:
        state = "answered" if self._is_answered else "open"
        return f"<OpenTurn {state} texts={len(self._texts)} typed={len(self._typed)}>"

    # --- what happens in it ------------------------------------------------------------------

    def take_up(self, history: Iterable[deepgram.History]) -> None:
        """Another relay had the session, and this was said: all that no line of the agent follows
        is open. Whether it has ended the reply that such a line began, nobody knows."""
        for line in history:
            if line.function_calls:
                self.call()
            elif line.role is not None:
                self.add(deepgram.ConversationText(role=line.role, content=line.content or ""))
                self.close()

    def type(self, text: str) -> None:
        """The browser typed this for the agent."""
        self._typed.append(text)

    def add(self, said: deepgram.ConversationText) -> None:
        """A line was stored."""
        if said.role == "user" and said.is_turn:
            if self._is_answered or self._has_reply:
                self._begin()
            if said.content.strip():
                self._texts.append(said.content)
            if said.content in self._typed:
                self._typed.remove(said.content)
            elif self._typed:  # its echo in other words, or soon to come
                self._typed.popleft()
        elif said.is_turn:
            self._has_reply = True
            self._replies.append(said.content)
        self._lines += 1

    def _begin(self) -> None:
        self._texts, self._replies, self._lines, self._asked = [], [], 0, 0
        self._has_called = self._has_reply = self._is_answered = False
        self._echoes.clear()

    def call(self) -> None:
        """The model wants functions called: an answer will follow. It may come before the words
        that caused it."""
        self._has_called = True
        self._has_reply = self._is_answered = False

    def respond(self) -> None:
        """The model got the result of a function: what it said before was not the answer."""
        self._has_reply = False

    def close(self, *, is_cut: bool = False) -> None:
        """The agent has sent all of a reply, or the user has interrupted it; `is_cut`: before it
        began."""
        if self._has_reply or is_cut:
            self._is_answered = True
            self._echoes.clear()

    # --- what the next agent is told and asked -----------------------------------------------

    def leave_out(self, history: Iterable[deepgram.History]) -> list[deepgram.History]:
        """What an agent is told of this history, which is to be asked for the rest."""
        told = list(history)
        self._question = ""
        if self._is_answered or self._asked >= MOST_ASKED or not self._texts:
            return told
        if self._has_called:
            self._question = ANSWER_AGAIN
            return told
        self._question = agent_history.cut(" ".join(self._texts))
        spoken = [place for place, line in enumerate(told) if line.role is not None]
        for place in reversed(spoken[-self._lines :]):
            del told[place]
        return told

    def ask(self) -> list[Action]:
        """What the agent, which is ready now, is to be told as the user's words."""
        typed = [_type(text) for text in self._typed]
        self._echoes.clear()
        if not self._question:
            return typed
        self._asked += 1
        self._has_reply = False
        known = [("user", self._question), *(("assistant", reply) for reply in self._replies)]
        for role, text in known:
            self._echoes |= {(name, role, _words(text)) for name in ("ConversationText", "History")}
        return [_type(self._question), actions.Note("turn_asked_again", ""), *typed]

    def knows(self, message: deepgram.ConversationText | deepgram.History) -> bool:
        """Whether this is stored already: what an agent was asked again, or said again of a reply
        that had been begun. Each comes once."""
        echo = type(message).__name__, message.role or "", _words(message.content or "")
        if echo not in self._echoes:
            return False
        self._echoes.remove(echo)
        if message.role == "assistant":
            self._has_reply = True
        return True


def _words(text: str) -> str:
    """White space is not what tells an echo from a line."""
    return " ".join(text.split())


def _type(text: str) -> Action:
    return actions.SendAgent(deepgram.InjectUserMessage(content=text))
