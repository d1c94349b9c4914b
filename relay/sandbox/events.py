"""What comes into a session of the sandbox agent, and what is to be done about it. Pure."""

from __future__ import annotations

import msgspec

from relay.sandbox.audio import Audio, Format
from relay.sandbox.reply import Reply
from relay.sandbox.script import Ending, Turn

# --- events ----------------------------------------------------------------------------------


class Received(msgspec.Struct, frozen=True):
    """A text frame from the client."""

    text: str


class SpeechStarted(msgspec.Struct, frozen=True):
    """The user begins to speak."""


class UserSaid(msgspec.Struct, frozen=True):
    """The user's turn is over and was written down; empty: it was only noise."""

    text: str


class AudioReady(msgspec.Struct, frozen=True):
    """The audio that `Synthesize` asked for."""

    reply: Reply
    index: int
    audio: Audio


class PlayTurn(msgspec.Struct, frozen=True):
    """Do this turn now, whatever the script says: for tests that hold the strings."""

    turn: Turn


class EngineFailed(msgspec.Struct, frozen=True):
    """Recognition or synthesis does not work; `code` is Deepgram's for that."""

    code: str
    reason: str


class Wake(msgspec.Struct, frozen=True):
    """The deadline is reached."""


Event = Received | SpeechStarted | UserSaid | AudioReady | PlayTurn | EngineFailed | Wake


# --- actions ---------------------------------------------------------------------------------


class SendText(msgspec.Struct, frozen=True):
    text: bytes


class SendAudio(msgspec.Struct, frozen=True):
    frame: bytes


class Synthesize(msgspec.Struct, frozen=True):
    """Make audio of this sentence; the answer is `AudioReady`."""

    reply: Reply
    index: int
    text: str


class Listen(msgspec.Struct, frozen=True):
    """Settings are applied: audio of this format is coming."""

    input: Format


class EndSpeech(msgspec.Struct, frozen=True):
    """Take the user's turn as finished now; the answer is `UserSaid`."""


class End(msgspec.Struct, frozen=True):
    """End the session in this way; `code` None: a close without a status."""

    ending: Ending


Action = SendText | SendAudio | Synthesize | Listen | EndSpeech | End
