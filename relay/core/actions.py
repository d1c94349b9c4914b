"""What a session may ask for. Pure: the session runner does it.

`Forward` speaks of the frame whose event is being handled, so that the core never sees a wire text
and what is passed on is passed on byte for byte.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec

from relay.core.records import MessageSaid
from relay.protocol import deepgram


class DialAgent(msgspec.Struct, frozen=True):
    """Open a new WebSocket to the agent; what is for it is held until `ReleaseHeld`. If the session
    `asks`, ask meanwhile what is known of the user: `ContextLearned` comes back."""


class DropAgent(msgspec.Struct, frozen=True):
    """Let go of this agent, another may follow: close it, and hold what is for the next one."""


class SendSettings(msgspec.Struct, frozen=True):
    """Ahead of all that is held for the agent; asked for once for each agent."""

    settings: deepgram.Settings


class SendAgent(msgspec.Struct, frozen=True):
    message: deepgram.ClientMessage


class KeepAgentAlive(msgspec.Struct, frozen=True):
    """`KeepAlive`, and in the session's format a moment in which nobody speaks: the message alone
    is reported not to do while the agent speaks for long."""


class SendBrowser(msgspec.Struct, frozen=True):
    event: deepgram.Message


class Refuse(msgspec.Struct, frozen=True):
    """Tell the browser that something of it went nowhere, and count it as `code`."""

    error: deepgram.Message
    code: str


class BlockAudio(msgspec.Struct, frozen=True):
    """Throw the browser's audio away, or (False) let it pass again."""

    blocked: bool


class Forward(msgspec.Struct, frozen=True):
    """Pass the frame being handled to the other side, untouched. `kept`: a browser that was away
    is told it again."""

    kept: bool = True


class ClearAudio(msgspec.Struct, frozen=True):
    """Throw away agent audio that is still queued for the browser (barge-in)."""


class Store(msgspec.Struct, frozen=True):
    """Hand a message to the journal; `MessageStored` comes back when Postgres has it."""

    message: MessageSaid


class ReleaseHeld(msgspec.Struct, frozen=True):
    """The agent applied the Settings and listens: it gets what the browser sent so far, in order,
    and all that follows. Note it, with Deepgram's name for the session."""

    agent_request_id: str | None


class AwaitReply(msgspec.Struct, frozen=True):
    """The user's words came as text: measure until the first agent audio goes to the browser."""


class Reported(msgspec.Struct, frozen=True):
    """The agent measured a reply: `seconds` from the end of speech to its first audio."""

    seconds: float


class PlayedOut(msgspec.Struct, frozen=True):
    """The browser measured a reply: `seconds` from its first audio's arrival until it was heard."""

    seconds: float


class CallFunction(msgspec.Struct, frozen=True):
    """Run a function beside the audio; `FunctionStarted` and `FunctionReturned` come back, with
    this `id`, which is ours."""

    id: UUID
    call: deepgram.FunctionCall
    after_seq: int


class CancelFunction(msgspec.Struct, frozen=True):
    """The model took a call back, answered or not: do not send it, or undo it."""

    id: UUID


class DecideCall(msgspec.Struct, frozen=True):
    """The user has decided about a call that waits for that."""

    id: UUID
    wanted: Literal["submit", "cancel"]


class DetachBrowser(msgspec.Struct, frozen=True):
    """Let go of this browser, it may come back: close it, if it is not, and throw away what is
    queued for it. Until then audio for it disappears and texts are kept for `Replay`."""

    code: int
    reason: str


class Replay(msgspec.Struct, frozen=True):
    """Tell the browser every text after the first `received` ones, in order."""

    received: int


class End(msgspec.Struct, frozen=True):
    """The session is over; asked for once. `detail` is for operators; `browser` and `agent` are the
    code and the reason that each is closed with. If it is still dialled, that is given up."""

    reason: str
    detail: str
    browser: tuple[int, str]
    agent: tuple[int, str]


class Note(msgspec.Struct, frozen=True):
    """A fact for log and metrics: `what` is one of a few words, `detail` never a transcript."""

    what: str
    detail: str


Action = (
    DialAgent
    | DropAgent
    | SendSettings
    | SendAgent
    | KeepAgentAlive
    | SendBrowser
    | Refuse
    | BlockAudio
    | Forward
    | ClearAudio
    | Store
    | ReleaseHeld
    | AwaitReply
    | Reported
    | PlayedOut
    | CallFunction
    | CancelFunction
    | DecideCall
    | DetachBrowser
    | Replay
    | End
    | Note
)
