"""What a session may be told, and why it ends. Pure.

Decoded messages come wrapped in the side that they came from; what is not a message has a struct of
its own.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from relay.core.records import MessageSaid
from relay.core.user_context import UserContext
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.relay_events import RelayIntent


class EndReason(StrEnum):
    BROWSER_LEFT = "browser_left"
    BROWSER_LOST = "browser_lost"
    BROWSER_TOO_SLOW = "browser_too_slow"
    BAD_SETTINGS = "bad_settings"
    AGENT_LEFT = "agent_left"
    AGENT_LOST = "agent_lost"
    AGENT_TOO_SLOW = "agent_too_slow"
    AGENT_ERROR = "agent_error"
    AGENT_UNREACHABLE = "agent_unreachable"
    SETUP_TIMEOUT = "setup_timeout"
    HUNG_UP = "hung_up"
    SUPERSEDED = "superseded"
    MOVED = "moved"
    SHUTDOWN = "shutdown"
    ABUSE = "abuse"
    IDLE = "idle"
    LONGEST = "longest"
    DAILY_MINUTES = "daily_minutes"
    INTERNAL_ERROR = "internal_error"


# What the other side is told when we hang up: close code, reason.
HANG_UP = {
    EndReason.HUNG_UP: (close_codes.NORMAL, "hung up"),
    # Not a code that asks to come again: two clients would take turns for ever.
    EndReason.SUPERSEDED: (close_codes.NORMAL, "continued elsewhere"),
    EndReason.MOVED: (close_codes.NORMAL, "continued elsewhere"),
    EndReason.SHUTDOWN: (close_codes.RESTART, "restarting"),
    EndReason.BROWSER_LOST: (close_codes.NORMAL, ""),  # before it was told anything
    EndReason.BROWSER_TOO_SLOW: (close_codes.POLICY, "not reading"),
    EndReason.BAD_SETTINGS: (close_codes.NORMAL, ""),  # of a Deepgram client, which got an Error
    EndReason.AGENT_TOO_SLOW: (close_codes.AGENT_UNREACHABLE, "agent not reading"),
    EndReason.AGENT_UNREACHABLE: (close_codes.AGENT_UNREACHABLE, "agent unreachable"),
    EndReason.AGENT_LOST: (close_codes.AGENT_UNREACHABLE, "agent lost"),
    EndReason.SETUP_TIMEOUT: (close_codes.AGENT_UNREACHABLE, "setup timeout"),
    EndReason.ABUSE: (close_codes.POLICY, "too many refusals"),
    # Not codes that ask to come again either: nobody was there.
    EndReason.IDLE: (close_codes.NORMAL, "idle"),
    EndReason.LONGEST: (close_codes.NORMAL, "maximum duration"),
    EndReason.DAILY_MINUTES: (close_codes.NORMAL, "minutes of the day used up"),
    EndReason.INTERNAL_ERROR: (close_codes.INTERNAL, "internal error"),
}


class FromAgent(msgspec.Struct, frozen=True):
    message: deepgram.FromServer


class FromBrowser(msgspec.Struct, frozen=True):
    message: relay_events.FromBrowser


class NotAudio(msgspec.Struct, frozen=True):
    """A binary message of the browser that its session did not accept as audio."""


class ControlFrame(msgspec.Struct, frozen=True):
    """The browser sent a ping, or a pong that nobody waits for."""


class AgentOpened(msgspec.Struct, frozen=True):
    """The agent's WebSocket is open."""


class ContextLearned(msgspec.Struct, frozen=True):
    """What the Orchestrator knows of the user, as it was asked when this agent was dialled; None:
    it said nothing, and will not any more."""

    context: UserContext | None


class AgentUnreachable(msgspec.Struct, frozen=True):
    """Dialling failed; `detail` is for operators, `final`: it would fail again. `retry_after`:
    seconds that the agent asks to be left alone for."""

    detail: str
    final: bool = False
    retry_after: float = 0.0


class AgentClosed(msgspec.Struct, frozen=True):
    """`code` as seen: 1005 without a status, 1006 without a close frame."""

    code: int
    reason: str


class BrowserClosed(msgspec.Struct, frozen=True):
    """`code` as seen: 1005 without a status, 1006 without a close frame."""

    code: int
    reason: str


class BrowserReturning(msgspec.Struct, frozen=True):
    """A ticket let a browser come back: its socket is about to open."""


class BrowserAttached(msgspec.Struct, frozen=True):
    """Its socket is open. `received` is the number of text frames that it has got so far, without
    `RelaySession`; `browser_frames` counts the audio frames that came from it."""

    ticket: str
    received: int
    browser_frames: int


class GoAway(msgspec.Struct, frozen=True):
    """The relay is about to stop: end where it hurts least, and soon."""


class HangUp(msgspec.Struct, frozen=True):
    """We end it: `reason` is one of those that `HANG_UP` lists, `detail` is for operators."""

    reason: EndReason
    detail: str = ""


class Allowed(msgspec.Struct, frozen=True):
    """The minutes of the day will do for so many `seconds`; None: nobody knows an end."""

    seconds: float | None


class Woken(msgspec.Struct, frozen=True):
    """The deadline is reached; `browser_frames` counts audio frames of the browser so far, and
    `browser_bytes` what was in them; `thrown_away` counts those that did not go to the agent."""

    browser_frames: int
    browser_bytes: int = 0
    thrown_away: int = 0


class MessageStored(msgspec.Struct, frozen=True):
    """Postgres has the message."""

    message: MessageSaid


class FunctionStarted(msgspec.Struct, frozen=True):
    """The call is valid and on its way; `say` is to be said if it takes over `say_after` s."""

    shown: RelayIntent
    say: str | None
    say_after: float


class FunctionReturned(msgspec.Struct, frozen=True):
    """What came of a call; `content` is the text for the model."""

    shown: RelayIntent
    content: str


Event = (
    FromAgent
    | FromBrowser
    | NotAudio
    | ControlFrame
    | AgentOpened
    | ContextLearned
    | AgentUnreachable
    | AgentClosed
    | BrowserClosed
    | BrowserReturning
    | BrowserAttached
    | GoAway
    | HangUp
    | Allowed
    | Woken
    | MessageStored
    | FunctionStarted
    | FunctionReturned
)
