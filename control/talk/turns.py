"""Who has the floor in a session, as the terminal client (cli.py) can tell from its events."""

from __future__ import annotations

from enum import Enum
from uuid import UUID

from control.talk.connection import Event
from relay.protocol import deepgram
from relay.protocol.relay_events import IntentStatus, RelayIntent

QUIET = 0.3  # the agent has been silent for so long: it is our turn, and we cut nobody short
QUIET_AFTER_CALL = 1.0  # after a function call a second reply may follow the first
GREETING_WAIT = 4.0  # a conversation without a greeting: how long we wait to find out


class Turn(Enum):
    OPENING = "SettingsApplied"
    GREETING = "the greeting"
    USER = "the words of the user as text"
    DUE = "a reply of the agent"
    AGENT = "the end of the agent's reply"
    NOBODY = "the end of a function call"  # or nothing at all: then it is our turn


class Floor:
    """Follows a session's events to know when the user may speak. Pure: `now` is an argument.

    The agent has finished when a reply came to everything that wants one (the user's words, the
    result of a function call), `AgentAudioDone` was seen, what was sent has been played, no
    function call is open, and it has been quiet for a moment.
    """

    def __init__(self, bytes_per_second: int, *, greeting: bool) -> None:
        self.turn = Turn.OPENING
        self.calls: set[UUID] = set()
        self.saved: set[UUID] = set()  # calls that were answered before they had an outcome
        self.quiet = QUIET
        self.last = 0.0  # when something of weight happened
        self.played = 0.0  # when all audio so far will have been heard
        self.deaf = False  # after a barge-in, to what is left of the reply that was cut
        self.user_silent = 0.0  # the end of the user's words
        self.reply_after: float | None = None  # seconds from there to the agent's first audio
        self._rate = bytes_per_second
        self._greeting = greeting

    def user_begins(self, now: float, seconds: float) -> None:
        """The user speaks for so long."""
        self.turn = Turn.USER
        self.quiet = QUIET
        self.last = now
        self.user_silent = now + seconds
        self.reply_after = None

    def free_at(self) -> float | None:
        """When the user may speak if nothing else happens; None: something is still due."""
        if self.turn is Turn.GREETING:
            return self.last + GREETING_WAIT
        if self.turn is Turn.NOBODY and not self.calls:
            return max(self.last, self.played) + self.quiet
        return None

    def spoken_at(self, seconds: float) -> float | None:
        """When the reply to the user will have been heard for so long; None: it has not begun."""
        return None if self.reply_after is None else self.user_silent + self.reply_after + seconds

    def audio(self, size: int, now: float) -> bool:
        """Agent audio came; False: it belongs to a reply that was cut and is to be dropped."""
        if self.deaf:
            return False
        self.last = now
        self.played = max(self.played, now) + size / self._rate
        if self.turn in (Turn.DUE, Turn.AGENT) and self.reply_after is None:
            self.reply_after = max(now - self.user_silent, 0.0)
        return True

    def handle(self, event: Event, now: float) -> None:
        match event:
            case deepgram.SettingsApplied():
                self.turn = Turn.GREETING if self._greeting else Turn.NOBODY
            case deepgram.UserStartedSpeaking():
                self.played = min(self.played, now)
                self.deaf = True
                if self.turn in (Turn.AGENT, Turn.NOBODY):
                    self.turn = Turn.USER  # our own words, on after a pause
            case deepgram.ConversationText(role="user", is_turn=is_turn):
                self.deaf = False
                if is_turn:  # else it was said by the way
                    self.turn = Turn.DUE
            case deepgram.ConversationText(is_turn=True):
                if self.turn in (Turn.GREETING, Turn.DUE, Turn.NOBODY):
                    self.turn = Turn.AGENT
            case deepgram.AgentAudioDone():
                if self.turn is Turn.AGENT:
                    self.turn = Turn.NOBODY
            case RelayIntent(id=id) if id in self.saved:
                return  # the agent does not speak of it again
            case RelayIntent(id=id, status=IntentStatus.SUBMITTING, result=None, taken_back=False):
                self.calls.add(id)
                self.deaf = False
            case RelayIntent(taken_back=True) | RelayIntent(status=IntentStatus.CANCELLING):
                self._call_ended(event.id)
            case RelayIntent(id=id, status=IntentStatus.CANCELLED):
                self._call_ended(id)
            case RelayIntent(id=id, status=status):
                if status in (IntentStatus.SUBMITTING, IntentStatus.AWAITING):
                    self.saved.add(id)
                    self.deaf = False
                self._call_ended(id)
                self.turn = Turn.DUE  # the result is to be told
            case deepgram.EndOfTurn() | deepgram.AgentThinking() | deepgram.AgentStartedSpeaking():
                self.deaf = False
                return
            case _:  # the rest has no say in this; reports may come with every frame
                return
        self.last = now

    def _call_ended(self, id: UUID) -> None:
        self.calls.discard(id)
        self.quiet = QUIET_AFTER_CALL
