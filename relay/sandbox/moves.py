"""What comes into a session of the sandbox agent, and what is to be done about it. Pure."""

from __future__ import annotations

import msgspec

from relay.sandbox.reply import Reply
from relay.sandbox.script import Ending, Turn
from relay.sandbox.sound import Audio, Format

# --- events ----------------------------------------------------------------------------------


class Received(msgspec.Struct, frozen=True):
    """A text frame from the client."""

    text: str


class SpeechStarted(msgspec.Struct, frozen=True):
    """The ear hears the user."""


class Heard(msgspec.Struct, frozen=True):
    """The user's turn is over and was written down; empty: it was only noise."""

    text: str


class Voiced(msgspec.Struct, frozen=True):
    """The audio that `Voice` asked for."""

    reply: Reply
    index: int
    audio: Audio


class Play(msgspec.Struct, frozen=True):
    """Do this turn now, whatever the script says: for tests that hold the strings."""

    turn: Turn


class EngineFailed(msgspec.Struct, frozen=True):
    """The ear or the voice does not work; `code` is Deepgram's for that."""

    code: str
    reason: str


class Wake(msgspec.Struct, frozen=True):
    """The deadline is reached."""


Event = Received | SpeechStarted | Heard | Voiced | Play | EngineFailed | Wake


# --- actions ---------------------------------------------------------------------------------


class SendText(msgspec.Struct, frozen=True):
    text: bytes


class SendAudio(msgspec.Struct, frozen=True):
    frame: bytes


class Voice(msgspec.Struct, frozen=True):
    """Make audio of this sentence; the answer is `Voiced`."""

    reply: Reply
    index: int
    text: str


class Listen(msgspec.Struct, frozen=True):
    """Settings are applied: audio of this format is coming."""

    input: Format


class EndSpeech(msgspec.Struct, frozen=True):
    """Take the user's turn as finished now; the answer is `Heard`."""


class End(msgspec.Struct, frozen=True):
    """End the session in this way; `code` None: a close without a status."""

    ending: Ending


Action = SendText | SendAudio | Voice | Listen | EndSpeech | End
